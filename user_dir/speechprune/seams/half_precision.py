"""fp16 and bf16 with their fp32 copies, and amp, which is refused."""

from __future__ import annotations

from typing import Any, NoReturn

import torch

from speechprune.errors import UserError
from speechprune.replacing import Function

NO_AMP = (
    "common.amp=true cannot train these models: fairseq's amp divides gradients by the loss scale "
    "twice and does not save it; use common.fp16=true or common.bf16=true"
)


def _copies(optimizer: Any) -> list[torch.Tensor]:
    """The fp32 copies of an FP16Optimizer: one for each parameter, or flat ones for each device."""
    found = optimizer.fp32_params
    return list(found.values()) if isinstance(found, dict) else list(found)


def naming_copies(build: Function) -> Function:
    """`FP16Optimizer.__init__`, giving each parameter that it trains its fp32 copy, `master_copy`.

    fairseq writes the copies over the parameters after each step: whoever edits a parameter has to
    edit its copy too.
    """

    def build_and_name(self: Any, *args: Any, **options: Any) -> None:
        build(self, *args, **options)
        offset = 0
        for index, parameter in enumerate(self.fp16_params):
            if self.has_flat_params:
                flat = _copies(self)[0].data
                copy = flat[offset : offset + parameter.numel()].view_as(parameter)
                offset += parameter.numel()
            else:
                copy = _copies(self)[index].data
            parameter.master_copy = copy

    return build_and_name


def saving_copies(save: Function) -> Function:
    """The optimizer's `state_dict` with the fp32 copies.

    fairseq does not save them: a resumed run would go on from rounded ones, and forget every change
    too small for half precision.
    """

    def save_copies(self: Any) -> dict[str, Any]:
        return {**save(self), "fp32_params": [copy.detach() for copy in _copies(self)]}

    return save_copies


def loading_copies(load: Function) -> Function:
    """The optimizer's `load_state_dict`, taking back what `saving_copies` saved."""

    def load_copies(self: Any, state: dict[str, Any], overrides: Any = None) -> None:
        load(self, {k: v for k, v in state.items() if k != "fp32_params"}, overrides)
        for copy, saved in zip(_copies(self), state.get("fp32_params", ())):
            copy.data.copy_(saved)

    return load_copies


def refusing_amp(build: Function) -> Function:
    """`AMPOptimizer.build_optimizer`, which would be wrong in silence if it did not crash first.

    fairseq's `AMPOptimizer` lets the gradient scaler unscale its torch optimizer and then step
    another object, for which the scaler unscales once more. It does not save the scale, so that a
    resumed run is another one. And encoders put a float32 `mask_emb` into half precision states,
    which torch refuses.

    Raises:
        UserError: always.
    """

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise UserError(NO_AMP)

    return refuse
