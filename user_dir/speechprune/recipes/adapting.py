"""Three ways to adapt a pretrained model to a task: its head alone, all weights, or connections."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from speechprune.models.names import ROUTER, WEIGHTS
from speechprune.state_names import HEAD, MASK_EMBEDDING, is_mask

#: More updates than any run has: the encoder stays frozen.
_NEVER = 1000000

#: The ends of the keys of what `TRAINED_NORMS` frees.
_NORMS = (".bias", "layer_norm.weight")
TRAINED_NORMS = ("model.trainable_bias=true", "model.trainable_layer_norm=true")

MASKS, HEAD_ALONE, ALL_WEIGHTS = "masks", "head", "weights"


@dataclass(frozen=True)
class Method:
    """One way to adapt the model.

    Attributes:
        name: of its folder.
        title: in tables.
        overrides: of the config.
        norms: whether biases and layer norms train beside masks.
    """

    name: str
    title: str
    overrides: tuple[str, ...]
    norms: bool = False

    def bytes_in(self, tensors: Mapping[str, Tensor]) -> int:
        """Bytes of a state dict that a task adds beside the model that all tasks share: all
        weights, or a head, or a head, one bit per masked weight, the embedding of masked spans
        and, if they trained, biases and layer norms."""
        return sum(tensors[key].numel() * tensors[key].element_size() for key in self._own(tensors))

    def _own(self, keys: Collection[str]) -> Collection[str]:
        if self.name == ALL_WEIGHTS:
            return keys
        own = [key for key in keys if key.startswith(HEAD) or is_mask(key)]
        if self.name == MASKS:
            own += [key for key in keys if key.endswith(MASK_EMBEDDING)]
        if self.norms:
            own += [key for key in keys if not key.startswith(HEAD) and key.endswith(_NORMS)]
        return own


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
    return Method(MASKS, "connections finetuned", own, norms)
