"""Smaller checkpoints: layers dropped from any pretrained or finetuned file, in its own layout."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from speechprune.backbones import Backbone
from speechprune.checkpoint.file import PathLike
from speechprune.checkpoint.layers import (
    DROPPED,
    count_layers,
    family_of,
    lost_layers,
    without_layers,
)
from speechprune.checkpoint.settings import encoder_of, mapping, models_in, plain
from speechprune.checkpoint.slimming import note_kept_layers, refuse_uncut
from speechprune.errors import UserError
from speechprune.layers.plan import LayerPlan
from speechprune.masking.masked_site import density_of, fixed_densities
from speechprune.models.layer_flags import LayerFlags
from speechprune.models.loading import load_finetuned
from speechprune.models.mask_flags import freezes_scores
from speechprune.models.masked import DENSITY_TOLERANCE
from speechprune.rewriting.rewriting import AVERAGES, Rewriting

#: Settings that count layers from below.
_LAYERS_BELOW = ("fix_mask_before", "load_mask_before")
#: Settings of the run that made a file, which has dropped its layers before, at rest.
_OF_THE_RUN: Mapping[str, Any] = vars(LayerFlags())


def drop_layers(
    path: PathLike,
    dropped: Collection[int],
    out: PathLike,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint without some layers, which loads wherever the source does.

    Tensors, masks and scores among them, have the numbers of their layers and nothing else
    changed; the configuration tells the new depth, and of settings for each layer those that are
    left. There is no optimizer state.

    Args:
        path: any pretrained or finetuned checkpoint, ours or fairseq's.
        dropped: 0-based layers.
        provenance: more to note in ``out`` beside the source's digest, and all layers that were
            ever ``dropped`` of how many ``layers``.

    Raises:
        UserError: the source cannot be read or is of no known family; a layer does not exist, none
            is named or none would be left; ``out`` is the source or cannot be written.
    """
    rewriting = Rewriting(path, out)
    state = rewriting.state
    refuse_uncut(path, state["model"], "which are numbered by layer")
    family = family_of(state, path)
    layers = count_layers(state["model"], family, path)
    gone = _checked(dropped, layers, path)
    kept = [layer for layer in range(layers) if layer not in gone]
    noted = {
        **_noted_of_the_rest(rewriting.noted_before, gone, family),
        "layers_dropped_from": rewriting.digest,
        **_lost(state, LayerPlan(layers, tuple(gone))),
        **(provenance or {}),
    }
    changes = {
        **_smaller_settings(state, kept, _rates_of_fixed_masks(path, state, kept)),
        "model": without_layers(state["model"], gone, family),
        "last_optimizer_state": None,
    }
    if state.get("extra_state"):
        changes["extra_state"] = _without_layers_in_averages(state["extra_state"], gone, family)
    rewriting.write({**state, **changes}, noted)


def _lost(state: Mapping[str, Any], plan: LayerPlan) -> dict[str, Any]:
    lost = lost_layers(state, plan)
    assert lost is not None
    return {"layers": lost.layers, "dropped": list(lost.dropped)}


def _checked(dropped: Collection[int], layers: int, path: PathLike) -> list[int]:
    """The layers to drop, each once, in order; raises UserError if that is not possible."""
    gone = sorted(set(dropped))
    if not gone:
        raise UserError(f"no layer of {path} is to be dropped; name some of 0..{layers - 1}")
    for layer in gone:
        if not 0 <= layer < layers:
            raise UserError(f"cannot drop layer {layer}: {path} has layers 0..{layers - 1}")
    if len(gone) == layers:
        raise UserError(f"cannot drop every layer of {path}: at least one must stay")
    return gone


# --- tensors -------------------------------------------------------------------------------------


def _without_layers_in_averages(
    extra: Mapping[str, Any], gone: list[int], family: Backbone
) -> dict[str, Any]:
    averages = {key: without_layers(extra[key], gone, family) for key in AVERAGES if extra.get(key)}
    return {**extra, **averages}


# --- settings ------------------------------------------------------------------------------------


def _smaller_settings(
    state: Mapping[str, Any], kept: list[int], rates: Mapping[str, Any]
) -> dict[str, Any]:
    """The configuration of a smaller model, in the layouts that ``state`` has.

    Args:
        rates: more changes to the settings of the model.
    """
    settings = {key: plain(state[key]) for key in ("cfg", "args") if key in state}
    for model in models_in(settings):
        # fairseq lets a finetuned model's own settings of adapters rule over its encoder's.
        _refuse_numbered_adapters({**encoder_of(model), **model})
        _shorten_encoder(encoder_of(model), len(kept))
        note_kept_layers(encoder_of(model), kept)
        if "w2v_args" in model:
            # Its numbers are of a model before the one at hand, whose provenance tells of it.
            mapping(model["w2v_args"]).pop(DROPPED, None)
        _drop_flags(model, kept)
        model.update(rates)
    return settings


def _refuse_numbered_adapters(encoder: Mapping[str, Any]) -> None:
    """Raise UserError if only some layers of an encoder have adapters: their settings give the
    numbers of these layers, which would be others after dropping.

    Args:
        encoder: settings of the pretrained model, as they are in force.
    """
    if encoder.get("layer_type") == "trf_adp" and encoder.get("adp_trf_idx") != "all":
        raise UserError(
            f"adp_trf_idx={encoder.get('adp_trf_idx')} numbers the layers that have adapters: "
            "layers can be dropped if all have them (adp_trf_idx=all) or none"
        )


def _shorten_encoder(encoder: dict[str, Any], layers: int) -> None:
    encoder["encoder_layers"] = layers
    # data2vec's targets are an average over so many of the last layers.
    if encoder.get("average_top_k_layers") is not None:
        encoder["average_top_k_layers"] = min(encoder["average_top_k_layers"], layers)


def _drop_flags(model: dict[str, Any], kept: list[int]) -> None:
    """Settings for each layer become those of the layers that are kept."""
    rates = model.get("layerwise_prune_rate")
    if rates:
        model["layerwise_prune_rate"] = [rates[layer] for layer in kept if layer < len(rates)]
    for key in _LAYERS_BELOW:
        if model.get(key) is not None:
            model[key] = sum(layer < model[key] for layer in kept)
    model.update({key: value for key, value in _OF_THE_RUN.items() if key in model})


# --- densities -----------------------------------------------------------------------------------


def _rates_of_fixed_masks(
    path: PathLike, state: Mapping[str, Any], layers: list[int]
) -> dict[str, Any]:
    """What the settings have to claim of fixed masks, where that is another share than before.

    Fixed masks may share their density unequally, and no run begins from masks whose settings claim
    another than they have together. All other masks may keep whatever they do.

    Raises:
        UserError: in the layers that are left they keep nothing.
    """
    if not any(m.get("fix_mask") or m.get("fix_mask_before") for m in models_in(state)):
        return {}
    loaded = load_finetuned(path)
    cfg, controller = loaded.cfg.model, getattr(loaded.model, "mask_controller", None)
    if controller is None or controller.policy.trains_weights:
        return {}
    sites = [site for site in controller.sites if site.layer is None or site.layer in layers]
    frozen = [site for site in sites if freezes_scores(cfg, site)]
    kept, claimed = fixed_densities(frozen, controller.schedule)
    if abs(kept - claimed) <= DENSITY_TOLERANCE:
        return {}
    if not kept:
        raise UserError(f"the fixed masks of {path} keep nothing in the layers that would be left")
    if cfg.fix_mask:
        return {"prune_rate": kept, "layerwise_prune_rate": [], "fc_attn_prune_rate": []}
    of_layers = [[site for site in sites if site.layer == layer] for layer in layers]
    own = [density_of(of_layer) for of_layer in of_layers]
    fixed = [layer < cfg.fix_mask_before for layer in layers]
    return {"layerwise_prune_rate": [kept if f else o for f, o in zip(fixed, own)]}


def _noted_of_the_rest(
    noted: Mapping[str, Any], gone: list[int], family: Backbone
) -> dict[str, Any]:
    """Provenance, with the density of a folded model, whose masks cannot be seen any more."""
    if not noted.get("kept"):
        return dict(noted)
    kept = without_layers(noted["kept"], gone, family)
    density = sum(n for n, _ in kept.values()) / sum(entries for _, entries in kept.values())
    return {**noted, "kept": kept, "density": density}
