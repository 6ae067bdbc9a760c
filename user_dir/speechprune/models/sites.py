"""Where a finetuned model keeps its encoder, its head, and what masks fit on."""

from typing import Any, Iterable, List

from torch import nn

from speechprune.backbones import LAYER_ROLES, OTHER_ROLES, find_backbone
from speechprune.masking.sites import Site, before_weight_norm, with_biases
from speechprune.state_names import FINETUNED, HEAD_SITES


def encoder_of_model(model: Any) -> nn.Module:
    """The self-supervised encoder, without the output layer; a model of text itself, which is
    called with the name of its output layer."""
    speech = _of_speech(model)
    if speech is not None:
        encoder: nn.Module = speech.w2v_model
        return encoder
    assert model.classification_heads is not None  # what has no such thing is not finetuned
    text: nn.Module = model
    return text


def output_layer_of(model: Any) -> nn.Module:
    """The output layer, from channels to symbols or classes; of a model of text, all that it has
    by now: they are added once it is built."""
    speech = _of_speech(model)
    layer: nn.Module = model.classification_heads if speech is None else speech.proj
    return layer


def _of_speech(model: Any) -> Any:
    """Where a finetuned model of speech keeps its encoder and output layer; None in others."""
    return getattr(model, FINETUNED.rstrip("."), None)


def head_sites(model: Any) -> List[Site]:
    """The weight of the output layer, as a site; none if that is made of several layers."""
    layer = output_layer_of(model)
    if not hasattr(layer, "weight"):
        return []
    return [Site(HEAD_SITES[0], "head", None, layer, "weight")]


def advice_of_slim(model: Any) -> str:
    """What to add to the refusal of masks of other shapes; empty unless a model is slim."""
    encoder = encoder_of_model(model)
    if find_backbone(encoder).slim_plan(encoder) is None:
        return ""
    return "; heads or channels were cut out of this model, which takes masks of its own shapes"


def maskable_sites(model: Any) -> List[Site]:
    """Every tensor that could have a mask, the head last."""
    encoder = encoder_of_model(model)
    sites = find_backbone(encoder).sites(encoder, LAYER_ROLES + OTHER_ROLES)
    return [*sites, *head_sites(model)]


def prunable(sites: Iterable[Site], *, biases: bool) -> List[Site]:
    """The tensors in the place of ``sites`` whose zeros can be written and saved: directions in the
    place of weights that weight norm makes; and biases, each after its weight."""
    found = [before_weight_norm(site) for site in sites]
    return with_biases(found) if biases else found
