"""Model families: where their maskable tensors, layers and hidden states are."""

from speechprune.backbones.base import (
    BACKBONES,
    LAYER_ROLES,
    OTHER_ROLES,
    Backbone,
    backbone_called,
    find_backbone,
)

__all__ = [
    "BACKBONES",
    "LAYER_ROLES",
    "OTHER_ROLES",
    "Backbone",
    "backbone_called",
    "find_backbone",
]
