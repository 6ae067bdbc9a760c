"""Where masks go: one maskable tensor of a model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, eq=False)
class Site:
    """One tensor that can be masked.

    Attributes:
        name: dotted name relative to the backbone, ``encoder.layers.3.fc1.weight``: the key in
            checkpoints and mask files.
        role: what the tensor does, ``attn.q``, ``attn.k``, ``attn.v``, ``attn.out``, ``ffn.in``,
            ``ffn.out``, ``front.conv``, ``front.proj``, ``pos.conv`` or ``head``.
        layer: 0-based layer, or None outside the layers.
        module: the module that owns the tensor.
        tensor: its attribute name there, ``weight``.
    """

    name: str
    role: str
    layer: int | None
    module: nn.Module
    tensor: str
