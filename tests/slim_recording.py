"""What a real run of slimming does at each update, recorded from within and replayed by hand."""

from __future__ import annotations

from collections.abc import Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from loop import Run
from mishaps import call_after_each_update
from parp_by_hand import checkpoint_at
from slim_by_hand import HandLayer, HandPlan, SlimByHand, assert_state_is
from torch import Tensor, nn

ENCODER = "w2v_encoder.w2v_model.encoder.layers"
#: In the order of `HandLayer.weights`.
NAMES = (*(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")), "fc2")
HEADS = 4
#: The settings of a run with gates.
L0 = (
    "model._name=wav2vec_ctc_slim",
    "model.fix_attn=false",
    "model.criterion=l0",
    "model.keep_parameters=0.6",
    "model.prune_every=2",
    "model.freeze_finetune_updates=0",
    "criterion._name=masked_ctc",
)


def flags(plan: HandPlan) -> tuple[str, ...]:
    """The settings of a plan, in hydra's form."""
    amounts = {"heads": "head_sparsity", "channels": "ffn_sparsity"}
    given = [f"model.{amounts[kind]}={share}" for kind, share in plan.shares.items()]
    return (
        "model._name=wav2vec_ctc_slim",
        "model.fix_attn=false",
        *(given if plan.keep is None else (f"model.keep_parameters={plan.keep}",)),
        f"model.criterion={plan.criterion}",
        f"model.freeze_finetune_updates={plan.begin}",
        f"model.prune_end={plan.end}",
        f"model.prune_every={plan.every}",
        f"model.slim_scope={plan.scope}",
        f"model.slim_schedule={plan.shape}",
        f"model.slim_floor={plan.floor}",
        f"model.slim_cap={plan.cap}",
        f"model.whole_layers={list(plan.whole_layers)}".replace(" ", ""),
    )


def record_steps(path: Path, on_processor: bool = True) -> None:
    """Prepare a run to record, at ``path``, weights and gradients of each update as its optimizer
    gets them, and weights after its step."""
    from fairseq.trainer import Trainer

    if on_processor:  # fairseq's fp16 asks which device is in use
        torch.cuda.current_device = lambda: None
    steps: list[dict[str, Any]] = []
    clip = Trainer.clip_grad_norm

    @wraps(clip)
    def clip_and_record(trainer: Any, *args: Any) -> Any:
        norm = clip(trainer, *args)
        weights = weights_of(trainer.get_model())
        steps.append(
            {
                "update": trainer.get_num_updates(),
                "scale": float(getattr(trainer.optimizer, "_multiply_factor", 1.0)),
                "before": copies(weights),
                "copies": copies([w.master_copy for w in weights if hasattr(w, "master_copy")]),
                "gradients": [None if w.grad is None else w.grad.clone() for w in weights],
            }
        )
        return norm

    def record_after(trainer: Any) -> None:
        steps[-1]["after"] = copies(weights_of(trainer.get_model()))
        torch.save(steps, path)

    Trainer.clip_grad_norm = clip_and_record
    call_after_each_update(record_after)


def weights_of(model: nn.Module) -> list[nn.Parameter]:
    """All that belongs to units, layer by layer."""
    layers = len(model.get_submodule(ENCODER))
    return [
        model.get_parameter(f"{ENCODER}.{layer}.{name}.weight")
        for layer in range(layers)
        for name in NAMES
    ]


def copies(tensors: list[Any]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


def by_layer(tensors: list[Any]) -> list[list[Any]]:
    size = len(NAMES)
    return [tensors[start : start + size] for start in range(0, len(tensors), size)]


def assert_follows(run: Run, record: Path, plan: HandPlan) -> SlimByHand:
    """Each update began with the weights that the one before had left, but for those of removed
    units; and each checkpoint has the scores, choices and weights of slimming by hand."""
    steps = torch.load(record)
    left = steps[0]["before"]
    layers = [HandLayer(each[:3], each[3], each[4], HEADS) for each in by_layer(left)]
    hand = SlimByHand(layers, plan)
    for number, step in enumerate(steps):
        assert step["update"] == number
        for weight, before, copy in zip(left, step["before"], step["copies"] or step["before"]):
            assert torch.equal(weight, before), number
            assert torch.equal(copy.to(weight.dtype), weight), number
        hand.observe(by_layer(step["gradients"]), step["scale"])
        for weight, after in zip(left, step["after"]):
            weight.copy_(after)
        hand.begin(number + 1)
        saved = checkpoint_at(run, number + 1)["model"]
        assert_state_is(saved, hand)
        assert_weights_are(saved, left)
    return hand


def assert_weights_are(state: Mapping[str, Tensor], weights: list[Tensor]) -> None:
    names = [
        f"{ENCODER}.{layer}.{name}.weight"
        for layer in range(len(by_layer(weights)))
        for name in NAMES
    ]
    for name, weight in zip(names, weights):
        assert torch.equal(state[name], weight.to(state[name].dtype)), name
