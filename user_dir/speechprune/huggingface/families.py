"""The families of models in transformers whose tensors can be masked: one row of a table each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from speechprune.errors import UserError


@dataclass(frozen=True)
class Family:
    """Where the models of one family keep what can be masked and cut out.

    Names are relative to the base model: the encoder without the head of a task.

    Attributes:
        model_type: what transformers calls the family, in the config of each model.
        layers: the list of transformer layers.
        weights: what can be masked in a layer, by its role.
        outside: what can be masked outside the layers, by its role; `*` stands for each module of
            a list.
        channels: the config's key for the number of feed-forward channels.
        bare_attention: whether the weights of attention are bare parameters, (C, H, D), that
            einsums read: C channels, and H heads of D channels.
    """

    model_type: str
    layers: str
    weights: Mapping[str, str]
    channels: str
    outside: Mapping[str, str] = field(default_factory=dict)
    bare_attention: bool = False


_BERT = Family(
    "bert",
    layers="encoder.layer",
    weights={
        "attn.q": "attention.self.query.weight",
        "attn.k": "attention.self.key.weight",
        "attn.v": "attention.self.value.weight",
        "attn.out": "attention.output.dense.weight",
        "ffn.in": "intermediate.dense.weight",
        "ffn.out": "output.dense.weight",
    },
    channels="intermediate_size",
)
_DISTILBERT = Family(
    "distilbert",
    layers="transformer.layer",
    weights={
        "attn.q": "attention.q_lin.weight",
        "attn.k": "attention.k_lin.weight",
        "attn.v": "attention.v_lin.weight",
        "attn.out": "attention.out_lin.weight",
        "ffn.in": "ffn.lin1.weight",
        "ffn.out": "ffn.lin2.weight",
    },
    channels="hidden_dim",
)
_XLNET = Family(
    "xlnet",
    layers="layer",
    weights={
        "attn.q": "rel_attn.q",
        "attn.k": "rel_attn.k",
        "attn.v": "rel_attn.v",
        "attn.out": "rel_attn.o",
        "ffn.in": "ff.layer_1.weight",
        "ffn.out": "ff.layer_2.weight",
    },
    channels="d_inner",
    bare_attention=True,
)
_WAV2VEC2 = Family(
    "wav2vec2",
    layers="encoder.layers",
    weights={
        "attn.q": "attention.q_proj.weight",
        "attn.k": "attention.k_proj.weight",
        "attn.v": "attention.v_proj.weight",
        "attn.out": "attention.out_proj.weight",
        "ffn.in": "feed_forward.intermediate_dense.weight",
        "ffn.out": "feed_forward.output_dense.weight",
    },
    channels="intermediate_size",
    outside={
        "front.conv": "feature_extractor.conv_layers.*.conv.weight",
        "front.proj": "feature_projection.projection.weight",
        "pos.conv": "encoder.pos_conv_embed.conv.weight",
    },
)

#: All families, by what transformers calls them.
FAMILIES: Mapping[str, Family] = {
    family.model_type: family
    for family in (
        _BERT,
        replace(_BERT, model_type="roberta"),
        _DISTILBERT,
        _XLNET,
        _WAV2VEC2,
        replace(_WAV2VEC2, model_type="hubert"),
        replace(_WAV2VEC2, model_type="wavlm"),
    )
}


def family_of(model: nn.Module) -> Family:
    """The family of a model; raises UserError if it is of none, or no model of transformers."""
    config = getattr(model, "config", None)
    model_type = getattr(config, "model_type", None)
    if model_type is None or not hasattr(model, "base_model"):
        raise UserError(
            f"{type(model).__name__} is not a model of transformers; give what from_pretrained "
            "returned, without a wrapper"
        )
    if model_type not in FAMILIES:
        raise UserError(
            f"{type(model).__name__} is of the family {model_type!r}, whose tensors speechprune "
            f"does not know; it knows {', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]


def base_of(model: nn.Module) -> nn.Module:
    """The encoder of a model, without the head of its task; the model itself if it has none."""
    base: Any = model.base_model
    encoder: nn.Module = base
    return encoder


def part_of(model: nn.Module, path: str) -> nn.Module:
    """A module of the encoder of a model; raises UserError if it has been changed or wrapped."""
    try:
        return base_of(model).get_submodule(path)
    except AttributeError as error:
        raise UserError(
            f"{type(model).__name__} has no {path}, which models of the family "
            f"{family_of(model).model_type!r} have; give the model itself, without adapters"
        ) from error


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The transformer layers, in order."""
    layers: Any = part_of(model, family_of(model).layers)
    return list(layers)
