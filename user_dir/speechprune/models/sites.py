"""Where a CTC model, fairseq's or ours, keeps its encoder, its head, and what masks fit on."""

from typing import Any, List

from torch import nn

from speechprune.backbones import LAYER_ROLES, OTHER_ROLES, find_backbone
from speechprune.masking.sites import Site, with_biases
from speechprune.state_names import HEAD_SITES


def encoder_of_model(model: Any) -> nn.Module:
    """The self-supervised encoder, without the output layer."""
    encoder: nn.Module = model.w2v_encoder.w2v_model
    return encoder


def output_layer_of(model: Any) -> nn.Module:
    """The output layer, from channels to symbols."""
    layer: nn.Module = model.w2v_encoder.proj
    return layer


def head_site(model: Any) -> Site:
    """The weight of the output layer, as a site."""
    return Site(HEAD_SITES[0], "head", None, output_layer_of(model), "weight")


def maskable_sites(model: Any) -> List[Site]:
    """Every tensor that could have a mask, each weight followed by its bias, the head last."""
    encoder = encoder_of_model(model)
    sites = find_backbone(encoder).sites(encoder, LAYER_ROLES + OTHER_ROLES)
    return with_biases([*sites, head_site(model)])
