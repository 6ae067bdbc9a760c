"""Three ways to adapt a pretrained model to a task: its head alone, all weights, or connections."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from speechprune.models.names import ROUTER, WEIGHTS
from speechprune.state_names import HEAD, MASK_EMBEDDING, is_mask

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

    def bytes_in(self, tensors: Mapping[str, Tensor]) -> int:
        """Bytes of a state dict that a task adds beside the model that all tasks share: all
        weights, or a head, or a head, one bit per masked weight and the embedding of masked
        spans."""
        return sum(tensors[key].numel() * tensors[key].element_size() for key in self._own(tensors))

    def _own(self, keys: Collection[str]) -> Collection[str]:
        if self.name == ALL_WEIGHTS:
            return keys
        own = [key for key in keys if key.startswith(HEAD) or is_mask(key)]
        if self.name == MASKS:
            own += [key for key in keys if key.endswith(MASK_EMBEDDING)]
        return own


def head_alone(*overrides: str, model: str = WEIGHTS) -> Method:
    """The encoder stays as pretrained."""
    own = (f"model._name={model}", f"model.freeze_finetune_updates={_NEVER}", *overrides)
    return Method(HEAD_ALONE, "head alone", own)


def all_weights(*overrides: str, model: str = WEIGHTS) -> Method:
    """All weights are finetuned."""
    return Method(ALL_WEIGHTS, "weights finetuned", (f"model._name={model}", *overrides))


def connections(keep: float, *overrides: str, model: str = ROUTER) -> Method:
    """A mask is learned over frozen weights, of which the share ``keep`` stays (S3-Router)."""
    own = (
        f"model._name={model}",
        f"model.prune_rate={keep!r}",
        "model.trainable_proj=true",
        "model.init_score=weight_rank",
        *overrides,
    )
    return Method(MASKS, "connections finetuned", own)
