"""Masks of any file that has some, with where they came from.

Mask files are read without fairseq, which is imported for checkpoints alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Union

from speechprune import __version__
from speechprune.errors import UserError
from speechprune.files import digest
from speechprune.masking.mask_set import SYMBOLS, MaskSet, is_mask_file
from speechprune.state_names import (
    HEAD_SITES,
    is_finetuned,
    is_scores,
    keys_of_mask,
    scored_by,
    site_of,
)

#: Settings that are mentioned even where they are the default.
_ALWAYS_MENTIONED = ("prune_rate", "policy", "sparsity")


def read_mask_set(path: Union[str, Path]) -> MaskSet:
    """The masks in a mask file or a finetuned checkpoint; raises UserError if it holds none."""
    return MaskSet.load(path) if is_mask_file(path) else read_checkpoint_masks(path)


def read_checkpoint_masks(path: Union[str, Path]) -> MaskSet:
    """The masks in a finetuned checkpoint, with where they came from.

    Raises UserError if the file is not a checkpoint or holds no masks that fit its weights.
    """
    from speechprune.checkpoint.file import read
    from speechprune.checkpoint.masks import masks_in

    state = read(path, mmap=True)
    try:
        masks = masks_in(state["model"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    scored = {site_of(scored_by(key)) for key in state["model"] if is_scores(key)}
    if masks and scored <= masks.keys():
        return MaskSet(masks, _provenance(state, path))
    if scored:
        # S3-Router saves scores alone: the model knows what they choose, and whether all are there.
        from speechprune.models.loading import load_finetuned

        model: Any = load_finetuned(path).model
        return model.mask_controller.mask_set(_provenance(state, path))
    if not is_finetuned(state["model"]):
        raise UserError(f"{path} is a pretrained model: masks are learned by finetuning it")
    raise UserError(f"{path} holds no masks: it was finetuned without them, or folded")


def _provenance(state: Mapping[str, Any], path: Union[str, Path]) -> dict[str, str]:
    """Backbone, pretrained file, the checkpoint's digest, settings that are not the default,
    versions, and the symbols of an output layer that has masks."""
    from speechprune.checkpoint.outputs import saved_dictionary, spelt
    from speechprune.checkpoint.settings import models_in
    from speechprune.models.declaration import declared, is_changed
    from speechprune.models.registration import register_all

    register_all()
    model: Any = next(models_in(state), {})
    name = model.get("_name")
    settings = [
        f"{flag}={_text(model[flag])}"
        for flag in (declared(name).mask_flags() if name else ())
        if flag in model and (flag in _ALWAYS_MENTIONED or is_changed(flag, model[flag]))
    ]
    facts = {
        "backbone": _family(model),
        "pretrained": Path(str(model.get("w2v_path") or model.get("roberta_path") or "")).name,
        "checkpoint": f"sha256:{digest(path)}",
        "settings": " ".join(settings),
        "versions": f"speechprune={__version__} torch={version('torch')}",
    }
    dictionary = saved_dictionary(state)
    masked = any(key in state["model"] for site in HEAD_SITES for key in keys_of_mask(site))
    if dictionary is not None and masked:
        facts[SYMBOLS] = spelt(dictionary)
    return {key: str(fact) for key, fact in facts.items() if fact}


def _family(model: Mapping[str, Any]) -> str | None:
    """The family of the encoder that a model's settings name, if they name one."""
    from speechprune.checkpoint.settings import encoder_of
    from speechprune.models.names import ROBERTA, is_of_sentences

    if is_of_sentences(str(model.get("_name"))):
        return ROBERTA
    return encoder_of(model).get("_name") if model.get("w2v_args") else None


def _text(value: Any) -> str:
    """A setting as it is written on a command line."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
