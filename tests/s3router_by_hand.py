"""S3-Router written out by hand, sharing no code with the package.

A stock `wav2vec_ctc` whose weights are set to weight * mask before each update, masks by a stable
sort, and its own CTC loss, gradients and Adam.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from toy import kept_of, top

#: Larger than usual: Adam would turn the rounding of the smallest gradients into whole steps.
EPSILON = 1e-3
HEAD = ("w2v_encoder.proj.weight", "w2v_encoder.proj.bias")


@dataclass(frozen=True)
class Experiment:
    """Flags of one run, and what they mean for the method."""

    flags: list[str]
    roles: tuple[str, ...] = ("fc1", "fc2")
    rates: dict[str, float] = field(default_factory=lambda: {"": 0.9})
    shared: str = "nothing"  # what shares one score in the encoder: nothing, the row or the column
    sigmoid: bool = False
    train_everything: bool = False
    pretrained: str = "base"

    def rate(self, name: str) -> float:
        """The share kept of the weight ``name``: that of the first part of it that is listed."""
        return next(rate for part, rate in self.rates.items() if part in name)


class Reference:
    """S3-Router by hand.

    Args:
        model: a stock `wav2vec_ctc`. Where a weight with scores is under weight norm, the norm is
            taken off: the weight is made here.
        scores: how the scores start, by name of the weight.
    """

    def __init__(self, model: nn.Module, experiment: Experiment, scores: dict[str, Tensor]) -> None:
        self.model = model
        self.experiment = experiment
        #: Magnitude and direction of weights under weight norm, by name of the weight.
        self.norms = {n: self.take_norm_off(n) for n in scores if f"{n}_v" in model.state_dict()}
        # Taking the norm off has made the weight of its parts.
        self.weights = {name: self.parameter(name).detach().clone() for name in scores}
        self.scores = {name: tensor.clone() for name, tensor in scores.items()}
        self.masks: dict[str, Tensor] = {}
        self.moments: dict[str, tuple[Tensor, Tensor]] = {}
        self.updates = 0

    def take_norm_off(self, name: str) -> tuple[Tensor, Tensor]:
        parts = tuple(self.parameter(f"{name}_{part}").detach().clone() for part in "gv")
        torch.nn.utils.remove_weight_norm(self.model.get_submodule(name.rpartition(".")[0]))
        return parts

    def parameter(self, name: str) -> nn.Parameter:
        return self.model.get_parameter(name)

    def choose_masks(self) -> None:
        """mask = top share of |scores| per tensor; the model computes with weight * mask."""
        for name, scores in self.scores.items():
            count = kept_of(scores.numel(), self.experiment.rate(name))
            self.masks[name] = top(scores.abs(), count)
            self.parameter(name).data = self.weights[name] * self.masks[name].float()

    def update(self, batches: list[dict[str, Any]], lr: float) -> None:
        """One update: gradients summed over the micro-batches, divided by the utterances."""
        self.choose_masks()
        gradients: dict[str, Tensor] = {}
        for batch in batches:
            self.model.zero_grad()
            self.loss(batch).backward()
            for name, gradient in self.gradients().items():
                gradients[name] = gradients.get(name, 0.0) + gradient
        utterances = sum(len(batch["target_lengths"]) for batch in batches)
        self.updates += 1
        for name, gradient in gradients.items():
            self.adam(name, gradient * (1 / utterances), lr)
        for name, (magnitude, direction) in self.norms.items():
            self.weights[name] = torch._weight_norm(direction, magnitude, 2)

    def gradients(self) -> dict[str, Tensor]:
        """What one backward pass gives to all that is trained."""
        parameters = dict(self.model.named_parameters())
        names = list(HEAD) if HEAD[0] not in self.masks else []
        if self.experiment.train_everything:
            names = [name for name in parameters if name not in self.masks]
        found = {n: parameters[n].grad for n in names if parameters[n].grad is not None}
        for name, mask in self.masks.items():
            gradient = self.parameter(name).grad
            found[f"{name} scores"] = self.score_gradient(name, gradient)
            if self.experiment.train_everything:
                found.update(self.weight_gradients(name, gradient * mask.float()))
        return found

    def weight_gradients(self, name: str, gradient: Tensor) -> dict[str, Tensor]:
        """What a masked gradient is to the weight, or to the two that weight norm makes it of."""
        if name not in self.norms:
            return {f"{name} weight": gradient}
        magnitude, direction = (part.clone().requires_grad_() for part in self.norms[name])
        weight = magnitude * direction / direction.norm(dim=(0, 1), keepdim=True)
        parts = torch.autograd.grad(weight, (magnitude, direction), gradient)
        return dict(zip((f"{name} magnitude", f"{name} direction"), parts))

    def trained(self, name: str) -> Tensor:
        """The tensor that a gradient belongs to."""
        name, _, part = name.partition(" ")
        if not part:
            return self.parameter(name).data
        if part in ("magnitude", "direction"):
            return self.norms[name][part == "direction"]
        return self.scores[name] if part == "scores" else self.weights[name]

    def loss(self, batch: dict[str, Any]) -> Tensor:
        """CTC with blank 0, summed over the batch."""
        out = self.model(**batch["net_input"])
        logits, padding = out["encoder_out"], out["padding_mask"]
        frames = torch.full((logits.shape[1],), logits.shape[0])
        if padding is not None:
            frames = (~padding).sum(1)
        return F.ctc_loss(
            logits.log_softmax(-1),
            batch["target"],
            frames,
            batch["target_lengths"],
            reduction="sum",
            zero_infinity=True,
        )

    def score_gradient(self, name: str, gradient: Tensor) -> Tensor:
        """dL/dscores = dL/dw * weight * sign(scores), times s(1 - s) with a sigmoid."""
        scores = self.scores[name]
        product = gradient * self.weights[name]
        if self.experiment.shared != "nothing" and name not in HEAD:
            along = 1 if self.experiment.shared == "row" else 0
            product = product.sum(along, keepdim=True)
        change = product * scores.sign()
        if self.experiment.sigmoid:
            gate = 1 / (1 + (-scores.abs()).exp())
            change = change * gate * (1 - gate)
        return change

    def adam(self, name: str, gradient: Tensor, lr: float) -> None:
        """Adam (0.9, 0.98) with epsilon added before the bias correction, as fairseq does."""
        tensor = self.trained(name)
        first, second = self.moments.get(name, (torch.zeros_like(tensor),) * 2)
        first = first.mul(0.9).add(gradient, alpha=1 - 0.9)
        second = second.mul(0.98).addcmul(gradient, gradient, value=1 - 0.98)
        self.moments[name] = first, second
        correction = math.sqrt(1 - 0.98**self.updates) / (1 - 0.9**self.updates)
        tensor.addcdiv_(first, second.sqrt() + EPSILON, value=-lr * correction)
