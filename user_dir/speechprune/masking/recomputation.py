"""Masks of frozen weights in layers whose forward pass is computed anew for the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def require_gradient(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Make a layer's input part of the backward pass: a forward pre-hook.

    A layer is recomputed there only if its input requires gradient. With everything before it
    frozen the input does not, and the scores would silently get no gradient at all. Every layer
    needs this, since layerdrop may skip the first.
    """
    states = args[0]
    if torch.is_grad_enabled() and not states.requires_grad:
        states = states.detach().requires_grad_()
    return (states, *args[1:])
