"""PARP written out by hand, sharing no code with the package.

A stock `wav2vec_ctc` whose weights are set to zero when masks are chosen, one ranking by a stable
sort, and Adam; and what its checkpoints have to look like.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from loop import Lab, Run
from s3router_by_hand import Experiment
from s3router_by_hand import Reference as ByHand
from torch import Tensor, nn
from toy import kept_of

#: In the order in which equal weights are ranked, within a layer.
PROJECTIONS = (
    *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")),
    *("fc1", "fc2"),
)
LAYERS = 2


def prunable(biases: bool = True) -> list[str]:
    """Names of what PARP prunes of a nano model."""
    tensors = ("weight", "bias") if biases else ("weight",)
    prefix = "w2v_encoder.w2v_model.encoder.layers"
    return [
        f"{prefix}.{layer}.{projection}.{tensor}"
        for layer in range(LAYERS)
        for projection in PROJECTIONS
        for tensor in tensors
    ]


@dataclass(frozen=True)
class Plan:
    """When masks are chosen, and the share that each choice removes."""

    sparsity: float = 0.5
    every: int = 1
    begin: int = 0
    start: float | None = None
    end: int = 0
    shape: str = "linear"
    scope: str = "global"

    @property
    def flags(self) -> tuple[str, ...]:
        """The settings of a run, in hydra's form."""
        progressive = (f"model.start_sparsity={self.start}", f"model.sparsity_end={self.end}")
        return (
            "model._name=wav2vec_ctc_parp",
            "model.fix_attn=false",
            f"model.sparsity={self.sparsity}",
            f"model.prune_every={self.every}",
            f"model.freeze_finetune_updates={self.begin}",
            f"model.sparsity_schedule={self.shape}",
            f"model.prune_scope={self.scope}",
            *(() if self.start is None else progressive),
        )

    def selects(self, update: int) -> bool:
        return update == 0 or (update >= self.begin and (update - self.begin) % self.every == 0)

    def density(self, update: int) -> float:
        """The share kept by the last choice of masks."""
        while not self.selects(update):
            update -= 1
        if self.start is None:
            return 1 - self.sparsity
        time = min(max((update - self.begin) / (self.end - self.begin), 0), 1)
        way = time if self.shape == "linear" else 1 - (1 - time) ** 3
        return 1 - (self.start + (self.sparsity - self.start) * way)

    def choose(self, weights: dict[str, Tensor], update: int) -> dict[str, Tensor]:
        """The masks of the largest weights."""
        return self.rank({name: weight.detach().abs() for name, weight in weights.items()}, update)

    def rank(self, importance: dict[str, Tensor], update: int) -> dict[str, Tensor]:
        """The masks of the largest values, of all tensors together or of each."""
        groups = [list(importance)] if self.scope == "global" else [[name] for name in importance]
        masks = {}
        for names in groups:
            sizes = [importance[name].numel() for name in names]
            values = np.concatenate([importance[name].numpy().ravel() for name in names])
            kept = np.zeros(values.size, dtype=bool)
            count = kept_of(values.size, self.density(update))
            kept[np.argsort(-values, kind="stable")[:count]] = True
            for name, part in zip(names, np.split(kept, np.cumsum(sizes)[:-1])):
                masks[name] = torch.from_numpy(part).view(importance[name].shape)
        return masks


class Parp(ByHand):
    """Training by hand of a stock `wav2vec_ctc`."""

    def __init__(self, model: nn.Module, names: list[str], plan: Plan) -> None:
        super().__init__(model, Experiment([]), {})
        self.names = names
        self.plan = plan
        self.steps: dict[str, int] = {}

    def trained_weights(self) -> dict[str, Tensor]:
        return {name: self.parameter(name).detach() for name in self.names}

    def choose_masks(self) -> None:
        """Set the smallest weights to zero, once."""
        self.model.set_num_updates(self.updates)
        if self.plan.selects(self.updates):
            for name, mask in self.plan.choose(self.trained_weights(), self.updates).items():
                self.parameter(name).data[~mask] = 0.0

    def gradients(self) -> dict[str, Tensor]:
        """All of them: training knows no mask."""
        found = self.model.named_parameters()
        return {name: p.grad for name, p in found if p.grad is not None}

    def adam(self, name: str, gradient: Tensor, lr: float) -> None:
        """Adam, with a count of steps for each tensor: the encoder may start later."""
        tensor = self.parameter(name).data
        first, second = self.moments.get(name, (torch.zeros_like(tensor),) * 2)
        first = first.mul(0.9).add(gradient, alpha=1 - 0.9)
        second = second.mul(0.98).addcmul(gradient, gradient, value=1 - 0.98)
        self.moments[name], self.steps[name] = (first, second), self.steps.get(name, 0) + 1
        tensor.copy_(adam_step(tensor, first, second, self.steps[name], lr, 1e-8))


def adam_step(
    tensor: Tensor, first: Tensor, second: Tensor, step: int, lr: float, epsilon: float
) -> Tensor:
    """``tensor`` after a step of Adam (0.9, 0.98) by the moments as they are after that step."""
    correction = math.sqrt(1 - 0.98**step) / (1 - 0.9**step)
    return tensor.addcdiv(first, second.sqrt() + epsilon, value=-lr * correction)


def saved_masks(model: dict[str, Tensor]) -> dict[str, Tensor]:
    """The masks in a checkpoint, unpacked here from their bits, in the order of `prunable`."""
    masks = {}
    for name in prunable():
        if f"{name}_mask" in model:
            bits, shape = model[f"{name}_mask"].numpy(), model[name].shape
            flat = np.unpackbits(bits, count=shape.numel(), bitorder="little").astype(bool)
            masks[name] = torch.from_numpy(flat).view(shape)
    assert sum(key.endswith("_mask") for key in model) == len(masks)
    return masks


def regrown_weights(model: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights that training goes on with: pruned ones, and what grew again beside them."""
    weights = {}
    for name, mask in saved_masks(model).items():
        weights[name] = model[name].clone()
        if f"{name}_regrown" in model:
            weights[name][~mask] = model[f"{name}_regrown"]
    return weights


def assert_pruned(model: dict[str, Tensor], plan: Plan, update: int) -> None:
    """A checkpoint's masks are a fresh ranking, as many are kept as planned, the others zero."""
    masks = saved_masks(model)
    expected = plan.choose(regrown_weights(model), update)
    entries = sum(mask.numel() for mask in masks.values())
    if plan.scope == "global":
        kept = sum(int(mask.sum()) for mask in masks.values())
        assert kept == kept_of(entries, plan.density(update)), update
    for name, mask in masks.items():
        assert torch.equal(mask, expected[name]), (update, name)
        assert not model[name][~mask].any(), (update, name)
        assert model[f"{name}_regrown"].numel() == int((~mask).sum())


#: A checkpoint for each update, those that end an epoch among them.
KEPT = (
    *("checkpoint.save_interval_updates=1", "checkpoint.keep_interval_updates=-1"),
    *("checkpoint.save_interval=1", "checkpoint.no_epoch_checkpoints=false"),
)


def checkpoint_at(run: Run, update: int) -> dict[str, Any]:
    """The checkpoint of ``update`` of a run that kept them all."""
    folder = run.path().parent
    for path in (*folder.glob(f"checkpoint_*_{update}.pt"), *folder.glob("checkpoint[0-9]*.pt")):
        checkpoint = torch.load(path, weights_only=True)
        if checkpoint["optimizer_history"][-1]["num_updates"] == update:
            return checkpoint
    raise FileNotFoundError(f"no checkpoint of update {update} in {folder}")


def trained_shapes(lab: Lab, flags: tuple[str, ...]) -> dict[str, torch.Size]:
    """Name and shape of each trained tensor of a run, in the order that its optimizer has them."""
    found = lab.build(*flags).named_parameters()
    return {
        name.replace("parametrizations.", "").replace(".original", ""): parameter.shape
        for name, parameter in found
        if parameter.requires_grad
    }


class Optimizer:
    """What a checkpoint knows of each trained tensor: its fp32 value, moments and steps.

    Args:
        shapes: of `trained_shapes`.
    """

    def __init__(self, checkpoint: dict[str, Any], shapes: dict[str, torch.Size]) -> None:
        saved = checkpoint["last_optimizer_state"]
        (group,), state = saved["param_groups"], saved["state"]
        self.lr, self.epsilon = group["lr"], group["eps"]
        copies = saved.get("fp32_params")
        if len(group["params"]) == 1:  # all in one tensor, as fp16 has it
            tensors = (state[0]["exp_avg"], state[0]["exp_avg_sq"], *copies)
            first, second, self.weights = (_parts(tensor, shapes) for tensor in tensors)
            steps = state[0]["step"]
            self.moments = {name: (first[name], second[name], steps) for name in shapes}
            return
        self.moments = {
            name: tuple(state[index][key] for key in ("exp_avg", "exp_avg_sq", "step"))
            for index, name in enumerate(shapes)
            if index in state
        }
        whole = regrown_weights(checkpoint["model"])
        self.weights = whole if copies is None else dict(zip(shapes, copies))

    def steps(self, name: str) -> int:
        """How many steps a tensor has taken."""
        return self.moments[name][2] if name in self.moments else 0


def _parts(flat: Tensor, shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    pieces = flat.split([shape.numel() for shape in shapes.values()])
    return {name: piece.view(shapes[name]) for name, piece in zip(shapes, pieces)}


def assert_every_step_is_parps(run: Run, lab: Lab, flags: tuple[str, ...], plan: Plan) -> None:
    """Each checkpoint follows from the one before: weights are set to zero where a choice of
    masks was due, and nowhere else; then all of them take Adam's step."""
    shapes = trained_shapes(lab, flags)
    last = run.checkpoint()["optimizer_history"][-1]["num_updates"]
    taken = 0
    before = checkpoint_at(run, 1)
    for update in range(1, last):
        after = checkpoint_at(run, update + 1)
        assert_pruned(after["model"], plan, update + 1)
        start, end = Optimizer(before, shapes), Optimizer(after, shapes)
        for name, mask in saved_masks(before["model"]).items():
            weight = start.weights[name]
            if plan.selects(update):
                weight = torch.where(mask, weight, 0.0)
            if end.steps(name) > start.steps(name):  # else frozen, or in a layer that was dropped
                weight = adam_step(weight, *end.moments[name], start.lr, end.epsilon)
                taken += 1
            torch.testing.assert_close(
                end.weights[name], weight, rtol=1e-6, atol=1e-7, msg=f"{name} at {update}"
            )
        before = after
    assert taken > len(prunable()) * (last - 1 - plan.begin) / 2
