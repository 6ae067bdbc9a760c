"""Cutting feed-forward channels out of models of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from speechprune.errors import UserError
from speechprune.huggingface.families import base_of, family_of
from speechprune.huggingface.masks import has_masks
from speechprune.huggingface.sites import sites_of
from speechprune.slimming.choice import LayerScores, ShareChoice
from speechprune.slimming.criteria import CRITERIA, Criterion
from speechprune.slimming.cutting import cut_channels
from speechprune.slimming.plan import SlimPlan
from speechprune.slimming.scores import channel_scores


def slim(
    model: nn.Module,
    *,
    ffn: float = 0.0,
    heads: float = 0.0,
    criterion: str = "magnitude",
    options: Mapping[str, Any] | None = None,
    multiple_of: int = 1,
) -> SlimPlan:
    """Cut the least important feed-forward channels out of a model of transformers, in place.

    Each layer loses as many: its config has one number for all of them, which is set, so that
    `save_pretrained` writes what any `from_pretrained` loads. The output is that of the whole model
    with these channels' weights at zero.

    Args:
        model: of transformers, without masks.
        ffn: share of the feed-forward channels of each layer that is removed, in [0, 1).
        heads: 0, since transformers 5 loads no model of fewer heads of the same size.
        criterion: how important weights are; but for ``magnitude``, by the gradients that the
            weights have, after ``loss.backward()``.
        options: of the criterion, by name.
        multiple_of: what the number of channels is rounded up to, as far as there are so many.

    Returns:
        What each layer keeps.

    Raises:
        UserError: the model has masks, gradients are missing, or what is asked for cannot be.
    """
    family = family_of(model)
    if has_masks(model):
        raise UserError("the model has masks; speechprune.huggingface.fold() bakes them in first")
    if heads:
        raise UserError(
            f"transformers {version('transformers')} gives each head hidden_size / "
            f"num_attention_heads channels, so that a {family.model_type} of fewer heads could not "
            "be loaded again; remove feed-forward channels: ffn=SHARE"
        )
    choice = ShareChoice(heads=0.0, channels=ffn, multiple_of=multiple_of)
    rule: Criterion = CRITERIA.build(criterion, **(options or {}))
    blocks = _feed_forward_blocks(model)
    config: Any = model.config
    whole = (config.num_attention_heads, blocks[0][0].out_features)
    of_heads = torch.ones(whole[0])  # all of them stay
    scores = [LayerScores(of_heads, _scores(rule, criterion, second)) for _, second in blocks]
    kept = choice.choose(scores)
    for (first, second), keeps in zip(blocks, kept):
        cut_channels(first, second, keeps.channels)
    for part in (model, base_of(model)):
        setattr(part.config, family.channels, len(kept[0].channels))
    return SlimPlan(family.model_type, *whole, tuple(kept))


def _feed_forward_blocks(model: nn.Module) -> Sequence[tuple[nn.Linear, nn.Linear]]:
    """The two linear layers of each layer's feed-forward block."""
    modules: list[Any] = [site.module for site in sites_of(model, ("ffn.in", "ffn.out"))]
    return list(zip(modules[::2], modules[1::2]))


def _scores(rule: Criterion, name: str, second: nn.Linear) -> torch.Tensor:
    gradient = second.weight.grad
    if rule.needs_gradient and gradient is None:
        raise UserError(
            f"criterion {name!r} needs gradients, and a weight has none: call loss.backward() "
            "before slim(), or take criterion='magnitude'"
        )
    return channel_scores(rule, second.weight.detach(), gradient)
