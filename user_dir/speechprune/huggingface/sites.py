"""The maskable tensors of models in transformers."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from speechprune.backbones.base import LAYER_ROLES
from speechprune.errors import UserError
from speechprune.huggingface.families import Family, family_of, layers_of, part_of
from speechprune.masking.matrix_view import MatrixView
from speechprune.masking.sites import Site, with_biases
from speechprune.masking.unit_view import UnitView
from speechprune.registry import unknown_name
from speechprune.slimming.unit_views import unit_views

#: (C, H, D): of queries, keys and values the heads' channels are the outputs, of the last
#: projection C is.
_READS = MatrixView((1, 2))
_WRITES = MatrixView((0,))


@dataclass(frozen=True)
class _Units:
    """How many heads, of which size, and how many feed-forward channels each layer has."""

    heads: int
    head_size: int
    channels: int


def sites_of(
    model: nn.Module, roles: Collection[str] = LAYER_ROLES, *, biases: bool = False
) -> list[Site]:
    """The tensors of a model that can be masked, in model order.

    Args:
        model: of transformers, with the head of a task or without.
        roles: what the tensors do: ``attn.q``, ``attn.k``, ``attn.v``, ``attn.out``, ``ffn.in`` and
            ``ffn.out`` in each layer; in speech models ``front.conv``, ``front.proj`` and
            ``pos.conv`` too.
        biases: whether each weight is followed by its bias, if it has one.

    Returns:
        Sites whose names are relative to the model without the head of its task, so that masks go
        from one task to another.

    Raises:
        UserError: a family that speechprune does not know, or a role that it has no tensor of.
    """
    if isinstance(roles, str):
        raise UserError(f"roles is a list of names, not {roles!r}; give [{roles!r}]")
    family = family_of(model)
    known = [*family.outside, *family.weights]
    for role in roles:
        if role not in known:
            raise UserError(unknown_name(f"role in {family.model_type} models", role, known))
    found = [site for site in _all_sites(model, family) if site.role in roles]
    return with_biases(found) if biases else found


def _all_sites(model: nn.Module, family: Family) -> Iterator[Site]:
    for role, pattern in family.outside.items():
        for path in _matching(model, pattern):
            yield _site(model, path, role, None)
    for number in range(len(layers_of(model))):
        for role, path in family.weights.items():
            bare = family.bare_attention and role.startswith("attn.")
            matrix = (_WRITES if role == "attn.out" else _READS) if bare else None
            yield _site(model, f"{family.layers}.{number}.{path}", role, number, matrix)


def _matching(model: nn.Module, pattern: str) -> list[str]:
    """The names that a pattern stands for."""
    start, star, end = pattern.partition(".*")
    if not star:
        return [pattern]
    members: Any = part_of(model, start)
    return [f"{start}.{number}{end}" for number in range(len(members))]


def _site(
    model: nn.Module, name: str, role: str, layer: int | None, matrix: MatrixView | None = None
) -> Site:
    path, _, tensor = name.rpartition(".")
    return Site(name, role, layer, part_of(model, path), tensor, matrix)


def views_of(model: nn.Module, sites: Collection[Site]) -> dict[str, UnitView]:
    """How the heads and feed-forward channels of a model lie in its sites, by the site's name."""
    config: Any = model.config
    heads, width = config.num_attention_heads, config.hidden_size
    channels = getattr(config, family_of(model).channels)
    units = _Units(heads, width // heads, channels)
    return unit_views(sites, [units] * len(layers_of(model)))
