"""Masks put on a finetuned checkpoint, in the place of those that it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

from speechprune.checkpoint.file import PathLike
from speechprune.checkpoint.outputs import masks_by_symbol
from speechprune.checkpoint.slimming import refuse_uncut
from speechprune.checkpoint.text import with_vocabulary
from speechprune.errors import UserError
from speechprune.masking.bits import pack_bits
from speechprune.masking.mask_set import MaskSet
from speechprune.models.loading import (
    LoadedLabeller,
    LoadedModel,
    LoadedRecogniser,
    LoadedSentences,
    load_finetuned,
)
from speechprune.models.mask_flags import SITE_FLAGS, MaskFlags, flags_of, masked_roles
from speechprune.models.names import LABELS_ROUTER, names_beside
from speechprune.models.sites import advice_of_slim, maskable_sites, prunable
from speechprune.rewriting.fixed_masks import seed_of, with_fixed_masks
from speechprune.rewriting.rewriting import Rewriting
from speechprune.state_names import is_of_masks, key_of, mask_key, sibling


def apply_masks(path: PathLike, masks: MaskSet, out: PathLike) -> None:
    """Put ``masks`` on a finetuned checkpoint, a plain `wav2vec_ctc` or one with masks.

    What is at ``out`` is a `wav2vec_ctc_st` with ``model.fix_mask``, or, if biases or a direction
    under weight norm have masks, a `wav2vec_ctc_masked`; of text, a `roberta_st` or
    `roberta_masked`. It has no scores, from which other masks would be chosen, and no optimizer
    state.

    Raises:
        UserError: the checkpoint cannot be loaded, the masks are of another model, or ``out``
            cannot be written.
    """
    rewriting = Rewriting(path, out)
    refuse_uncut(path, rewriting.state["model"], "which would grow again under masks")
    loaded = load_finetuned(path)
    if isinstance(loaded, LoadedRecogniser):
        masks = masks_by_symbol(masks, loaded.dictionary)
    flags = _fitting_flags(loaded, masks)
    changes = {
        "args": None,
        "cfg": _with_flags(loaded, flags, masks.density, rewriting.state["model"]),
        "model": _with_masks(rewriting.state["model"], masks),
        "last_optimizer_state": None,
    }
    noted = {"masks_applied_to": rewriting.digest, "masks": masks.provenance}
    rewriting.write({**rewriting.state, **changes}, noted)


def _with_flags(
    loaded: LoadedModel, flags: Mapping[str, Any], density: float, tensors: Mapping[str, Tensor]
) -> dict[str, Any]:
    """A configuration with the ``flags`` of a model with masks, which are fixed."""
    container: Any = OmegaConf.to_container(loaded.cfg, resolve=True, enum_to_str=True)
    changed: dict[str, Any] = dict(container)
    if isinstance(loaded, LoadedSentences):  # fairseq's own do not tell how many symbols there are
        changed["model"] = with_vocabulary(changed["model"], tensors, loaded.path)
    changed["model"] = with_fixed_masks(changed["model"], seed_of(changed), density, flags)
    return changed


def _with_masks(tensors: Mapping[str, Tensor], masks: MaskSet) -> dict[str, Tensor]:
    """A state dict with other masks, and without all that belongs to its own."""
    changed = {key: tensor for key, tensor in tensors.items() if not is_of_masks(key)}
    return {**changed, **{sibling(key_of(s), mask_key): pack_bits(m) for s, m in masks.items()}}


def _fitting_flags(loaded: LoadedModel, masks: MaskSet) -> dict[str, Any]:
    """The flags of a model that has exactly the sites of ``masks``, fixed as they are: one that
    takes biases and directions only if need be.

    Raises UserError if there is none.
    """
    of_directions = any(name.endswith(".weight_v") for name in masks)
    weights = maskable_sites(loaded.model)
    is_plain = not hasattr(loaded.model, "mask_controller")
    if not is_plain:
        chosen = {name: getattr(loaded.cfg.model, name) for name in SITE_FLAGS}
        biases = any(site.tensor == "bias" for site in loaded.model.mask_controller.sites)
        loaded.model.fold()  # without its own masks, weight norm has its direction
    else:
        roles = {site.name: site.role for site in prunable(weights, biases=True)}
        roles.update({site.name: site.role for site in weights})
        chosen = flags_of({role for name, role in roles.items() if name in masks})
        biases = any(name.endswith(".bias") for name in masks)
    masked = masked_roles(MaskFlags(**chosen))
    sites = prunable(weights, biases=biases) if biases or of_directions else weights
    wanted = [site for site in sites if site.role in masked]
    try:
        masks.check_fits((s.name, tuple(getattr(s.module, s.tensor).shape)) for s in wanted)
    except UserError as error:
        advice = advice_of_slim(loaded.model)
        raise UserError(f"{loaded.path} cannot take these masks: {error}{advice}") from error
    if not masks.tally.kept:
        raise UserError("these masks keep nothing: a model without any connection is of no use")
    return {
        **chosen,
        "_name": _name_of_masked(loaded, of_pruning=biases or of_directions),
        "trainable_proj": is_plain or loaded.cfg.model.trainable_proj,
        "prune_biases": biases,
    }


def _name_of_masked(loaded: LoadedModel, *, of_pruning: bool) -> str:
    """The model that has fixed masks, of what only pruning masks too or of weights alone.

    Raises UserError if there is none.
    """
    if not isinstance(loaded, LoadedLabeller):
        names = names_beside(str(loaded.cfg.model._name))
        return names.fixed_mask if of_pruning else names.router
    if of_pruning:
        raise UserError(
            f"{loaded.path} cannot take masks of biases, or of what comes before weight norm: no "
            "model for labels keeps such masks; make masks of weights alone"
        )
    return LABELS_ROUTER
