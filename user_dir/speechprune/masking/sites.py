"""Where masks go: one maskable tensor of a model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import nn

from speechprune.masking.matrix_view import MatrixView
from speechprune.masking.weight_norm import direction_of


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
        tensor: its attribute name there, ``weight`` or ``bias``.
        matrix: how it is a matrix, (out, in); None where its first dimension is the outputs, as in
            PyTorch's own layers.
    """

    name: str
    role: str
    layer: int | None
    module: nn.Module
    tensor: str
    matrix: MatrixView | None = None


def before_weight_norm(site: Site) -> Site:
    """The direction of a weight that weight norm makes, in the place of the weight; else ``site``.

    Zeros of the direction are zeros of the weight, and can be written into it and saved with it, as
    policies do that train weights.
    """
    direction = direction_of(site.module, site.tensor)
    if direction is None:
        return site
    owner = site.name[: -len(site.tensor)]
    path, module, tensor = direction
    return replace(site, name=owner + path, module=module, tensor=tensor)


def with_biases(sites: Iterable[Site]) -> list[Site]:
    """``sites``, each weight followed by its module's bias, if it has one."""
    found = []
    for site in sites:
        found.append(site)
        if site.tensor == "weight" and getattr(site.module, "bias", None) is not None:
            name = site.name[: -len("weight")] + "bias"
            found.append(Site(name, site.role, site.layer, site.module, "bias"))
    return found
