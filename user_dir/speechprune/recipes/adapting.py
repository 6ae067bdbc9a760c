"""Three ways to adapt a pretrained model to a task: its head alone, all weights, or connections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from speechprune.bank.task import PRECISIONS
from speechprune.models.names import ROUTER, WEIGHTS
from speechprune.recipes.setting import TRAINED_NORMS
from speechprune.state_names import ENCODER, is_mask, is_of_masks

#: More updates than any run has: the encoder stays frozen.
_NEVER = 1000000

MASKS, HEAD_ALONE, ALL_WEIGHTS = "masks", "head", "weights"


@dataclass(frozen=True)
class Method:
    """One way to adapt the model.

    Attributes:
        name: of its folder.
        title: in tables.
        overrides: of the config.
    """

    name: str
    title: str
    overrides: tuple[str, ...]

    def bytes_in(self, tensors: Mapping[str, Tensor], pretrained: Mapping[str, Tensor]) -> int:
        """Bytes of a state dict that a task adds beside the model that all tasks share: all
        weights; or what training added or changed, with one bit per masked weight.

        Args:
            pretrained: the state dict of the encoder, as training found it.
        """
        keys = tensors if self.name == ALL_WEIGHTS else added_or_changed(tensors, pretrained)
        own = [*keys, *(filter(is_mask, tensors) if self.name == MASKS else ())]
        return sum(tensors[key].numel() * tensors[key].element_size() for key in own)


def added_or_changed(tensors: Mapping[str, Tensor], pretrained: Mapping[str, Tensor]) -> list[str]:
    """The keys of a finetuned state dict that hold something else than the pretrained one of its
    encoder, apart from masks and their scores.

    A tensor that training in half precision only rounded is as it was.
    """

    def is_as_before(key: str) -> bool:
        before, after = pretrained.get(key.removeprefix(ENCODER)), tensors[key]
        return before is not None and any(
            torch.equal(after, rounded.to(after.dtype)) for rounded in _as_trained(before)
        )

    return [key for key in tensors if not is_of_masks(key) and not is_as_before(key)]


def _as_trained(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor as it is, and rounded to each precision of training, which fairseq widens again
    when it saves."""
    yield tensor
    if tensor.is_floating_point():
        yield from (tensor.to(getattr(torch, name)) for name in PRECISIONS)


def head_alone(*overrides: str, model: str = WEIGHTS) -> Method:
    """The encoder stays as pretrained."""
    own = (f"model._name={model}", f"model.freeze_finetune_updates={_NEVER}", *overrides)
    return Method(HEAD_ALONE, "head alone", own)


def all_weights(*overrides: str, model: str = WEIGHTS) -> Method:
    """All weights are finetuned."""
    return Method(ALL_WEIGHTS, "weights finetuned", (f"model._name={model}", *overrides))


def connections(keep: float, *overrides: str, model: str = ROUTER, norms: bool = False) -> Method:
    """A mask is learned over frozen weights, of which the share ``keep`` stays (S3-Router).

    Args:
        norms: train biases and layer norms too, which S3-Router's own recipe leaves frozen.
    """
    own = (
        f"model._name={model}",
        f"model.prune_rate={keep!r}",
        "model.trainable_proj=true",
        "model.init_score=weight_rank",
        *(TRAINED_NORMS if norms else ()),
        *overrides,
    )
    return Method(MASKS, "connections finetuned", own)
