"""The masks of a model of transformers, which are saved and loaded with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from speechprune.errors import UserError
from speechprune.masking.controller import MaskController
from speechprune.masking.mask_set import MaskSet
from speechprune.masking.recomputation import require_gradient
from speechprune.masking.selection import keep_count
from speechprune.masking.weight_norm import current_weight

#: Where a model keeps its masks.
_MASKS = "mask_controller"


class ModelMasks(MaskController):
    """Masks that are saved and loaded with the model that they are on.

    `state_dict` chooses the masks of the update to come before it reads them, so that what is saved
    is the network that was learnt; `load_state_dict` takes the masks of what it loads.

    Attributes:
        provenance: where the masks come from, as mask files tell it.
    """

    def __init__(self, *arguments: Any, provenance: Mapping[str, str], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.provenance = dict(provenance)
        self._handles: list[Any] = []

    def follow(self, model: nn.Module, layers: list[nn.Module]) -> None:
        """Become a part of ``model``.

        Args:
            layers: those that may be computed anew for the backward pass.
        """
        setattr(model, _MASKS, self)
        self._handles = [
            model.register_state_dict_pre_hook(_settle),
            model.register_load_state_dict_post_hook(_take_loaded),
            *(layer.register_forward_pre_hook(_let_gradient_through) for layer in layers),
        ]
        self.train(model.training)
        self.settle()

    def mask_set(self, provenance: Mapping[str, str] | None = None) -> MaskSet:
        """The masks as a value, each in the shape of its weight.

        Args:
            provenance: what to say of where they come from, beside what is known.
        """
        return super().mask_set({**self.provenance, **(provenance or {})})

    def density_at(self, update: int) -> float:
        """The share of all masked entries that the schedule keeps at an update: of each site a
        whole number of entries, or of units."""
        kept, total = 0.0, 0
        for site in self.sites:
            entries = current_weight(site.module, site.tensor).numel()
            view = self._views.get(site.name)
            ranked = entries if view is None else view.count
            chosen = keep_count(ranked, self.schedule.density(site, update))
            kept, total = kept + chosen * entries / ranked, total + entries
        return kept / total

    def fold(self) -> None:
        super().fold()
        for handle in self._handles:
            handle.remove()
        self._handles = []


def masks_of(model: nn.Module) -> ModelMasks:
    """The masks on a model; raises UserError if it has none."""
    masks = getattr(model, _MASKS, None)
    if masks is None:
        raise UserError(
            f"{type(model).__name__} has no masks; speechprune.huggingface.mask() first"
        )
    assert isinstance(masks, ModelMasks)
    return masks


def has_masks(model: nn.Module) -> bool:
    """Whether there are masks on a model."""
    return getattr(model, _MASKS, None) is not None


def fold(model: nn.Module) -> None:
    """Bake the masks of a model in, in place: ordinary parameters with zeros remain, so that
    `save_pretrained` writes what any `from_pretrained` loads.

    Raises:
        UserError: it has no masks.
    """
    masks_of(model).fold()
    delattr(model, _MASKS)


def _settle(model: nn.Module, *_: Any) -> None:
    masks_of(model).settle()


def _take_loaded(model: nn.Module, *_: Any) -> None:
    masks_of(model).loaded()


def _let_gradient_through(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    recomputes = layer.training and getattr(layer, "gradient_checkpointing", False)
    return require_gradient(layer, args) if recomputes else args
