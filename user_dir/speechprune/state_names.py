"""The names that tensors have in state dicts: of an encoder, its head, and what masks add to both.

In a finetuned checkpoint the tensors of a speech encoder stand under ``w2v_encoder.w2v_model.`` and
those of its output layer under ``w2v_encoder.proj.``. A masked tensor ``fc1.weight`` is saved with
``fc1.scores`` (S3-Router's own key), ``fc1.weight_mask`` (the mask's bits, packed), and, where
removed weights may come back, ``fc1.weight_regrown`` (the values that these have in training). A
policy that gathers statistics adds ``fc1.weight_observed``.

A *site* is named relative to its encoder, ``encoder.layers.3.fc1.weight``; those of the output
layer are ``proj.weight`` and ``proj.bias``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

#: Where a finetuned model keeps its encoder with the output layer, where that keeps the pretrained
#: one, and both together.
FINETUNED = "w2v_encoder."
PRETRAINED = "w2v_model."
ENCODER = FINETUNED + PRETRAINED
#: The sites of the output layer, which finetuning adds.
HEAD_SITES = ("proj.weight", "proj.bias")
HEAD = f"{FINETUNED}proj."
#: Of a head that reads all hidden states of its encoder: a weight for each, L + 1 entries.
STATE_WEIGHTS = f"{HEAD}layer_weights"
#: Of a head with several layers: an entry for each of its outputs.
OUTPUT_BIAS = f"{HEAD}output.bias"
#: The embedding of masked spans, of every pretrained encoder of speech: an entry for each channel.
MASK_EMBEDDING = "mask_emb"
#: Where a model of text keeps its encoder, pretrained or finetuned, the embeddings of its symbols,
#: and its output layers by name. Names of its sites are their keys.
TEXT_ENCODER = "encoder.sentence_encoder."
SYMBOL_EMBEDDINGS = f"{TEXT_ENCODER}embed_tokens.weight"
TEXT_HEADS = "classification_heads."
#: Where models of 2019 and 2020, the published ones, kept it.
_OLDER_TEXT_ENCODER = "decoder.sentence_encoder."
#: The setting of a model of text that tells how many symbols there are.
VOCABULARY = "vocabulary"

#: The number of a layer in the name of a site, of whatever model.
_LAYER = re.compile(r"(?:^|\.)layers?\.(\d+)\.")
#: That of a speech encoder's layer in a key of a checkpoint, which may have a decoder too. The keys
#: of data2vec's teacher begin where its encoder does.
_ENCODER_LAYER = re.compile(r"(?:^|\b(?:sentence_)?encoder\.)layers\.(\d+)\.")


def scores_key(tensor: str) -> str:
    """Name of a tensor's scores: S3-Router's ``scores`` for a ``weight``."""
    return "scores" if tensor == "weight" else f"{tensor}_scores"


def mask_key(tensor: str) -> str:
    """Name of a tensor's packed mask."""
    return f"{tensor}_mask"


def regrown_key(tensor: str) -> str:
    """Name of what a tensor's removed entries are in training by now."""
    return f"{tensor}_regrown"


def observed_key(tensor: str) -> str:
    """Name of the statistics that a policy gathered of a tensor."""
    return f"{tensor}_observed"


_OF_MASKS = (scores_key, mask_key, regrown_key, observed_key)


def is_mask(key: str) -> bool:
    """Whether a key is that of a packed mask."""
    return key.endswith(mask_key(""))


def is_scores(key: str) -> bool:
    """Whether a key is that of scores."""
    return key.rpartition(".")[2].endswith("scores")


def is_regrown(key: str) -> bool:
    """Whether a key is that of what removed entries have grown to."""
    return key.endswith(regrown_key(""))


def is_of_masks(key: str) -> bool:
    """Whether a key is of what a mask adds to its tensor."""
    return is_mask(key) or is_scores(key) or is_regrown(key) or key.endswith(observed_key(""))


def masked_by(mask: str) -> str:
    """The key of the tensor whose packed mask has the key ``mask``."""
    return mask[: -len(mask_key(""))]


def scored_by(scores: str) -> str:
    """The key of the tensor whose scores have the key ``scores``."""
    owner, dot, name = scores.rpartition(".")
    return f"{owner}{dot}{name[: -len('_scores')] or 'weight'}"


def masked_key(regrown: str) -> str:
    """The key of the tensor whose regrown values are kept under the key ``regrown``."""
    return regrown[: -len(regrown_key(""))]


def sibling(key: str, name: Callable[[str], str]) -> str:
    """The key of what ``name``, such as `mask_key`, calls a part of the tensor ``key``."""
    owner, dot, tensor = key.rpartition(".")
    return f"{owner}{dot}{name(tensor)}"


def keys_of_mask(site: str) -> list[str]:
    """All keys, in a finetuned checkpoint, of what a mask adds to a site."""
    return [sibling(key_of(site), name) for name in _OF_MASKS]


def key_of(site: str) -> str:
    """The key of a site's tensor in a finetuned checkpoint."""
    if site.startswith(TEXT_ENCODER):
        return site
    return (FINETUNED if site in HEAD_SITES else ENCODER) + site


def site_of(key: str) -> str:
    """The site of a tensor's key in a finetuned checkpoint."""
    if key.startswith(TEXT_ENCODER):
        return key
    return key[len(FINETUNED) :] if key.startswith(HEAD) else key[len(ENCODER) :]


def encoder_tensors(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The encoder's part of a finetuned state dict, under the names of a pretrained one."""
    if is_text(tensors):
        return {key: value for key, value in tensors.items() if not key.startswith(TEXT_HEADS)}
    return {k[len(ENCODER) :]: v for k, v in tensors.items() if k.startswith(ENCODER)}


def is_finetuned(keys: Iterable[str]) -> bool:
    """Whether keys are those of a finetuned model."""
    return any(key.startswith((FINETUNED, TEXT_HEADS)) for key in keys)


def is_text(keys: Iterable[str]) -> bool:
    """Whether keys are those of a model of text, pretrained or finetuned."""
    return any(key.startswith((TEXT_ENCODER, _OLDER_TEXT_ENCODER)) for key in keys)


def has_masks(keys: Iterable[str]) -> bool:
    """Whether keys are those of a model with masks."""
    return any(map(is_mask, keys))


def is_of_s3router(keys: Collection[str]) -> bool:
    """Whether keys are those that S3-Router's own code saves: scores, but no masks."""
    return any(map(is_scores, keys)) and not has_masks(keys)


def layer_of(name: str) -> int | None:
    """The 0-based layer in a key or a site's name; None for what is outside the layers."""
    found = _LAYER.search(name)
    return int(found[1]) if found else None


def encoder_layer_of(key: str) -> int | None:
    """The 0-based layer of a speech encoder in a key of a checkpoint; None for all else."""
    found = _ENCODER_LAYER.search(key)
    return int(found[1]) if found else None


def role_of(site: str) -> str:
    """What a site is called within its layer, e.g. "self_attn.q_proj" or "fc1".

    It is the name after the layer's number, without the ending ".weight" or ".bias", so it needs
    no list of the names that a model family uses; a bias counts with its weight.
    """
    found = _LAYER.search(site)
    within = site[found.end() :] if found else site
    for ending in (".weight", ".bias"):
        if within.endswith(ending):
            return within[: -len(ending)]
    return within


def without_layers(key: str, dropped: Iterable[int]) -> str | None:
    """What a key is called once the 0-based layers ``dropped`` of a speech encoder are gone.

    Args:
        key: of a checkpoint, under any prefix, or of its EMA teacher; it may name what is kept
            beside a layer's tensors, such as masks and scores.

    Returns:
        The key with its layer renumbered, None if it belongs to a dropped layer, and the key itself
        if it belongs to none.
    """
    found = _ENCODER_LAYER.search(key)
    if found is None:
        return key
    layer, gone = int(found[1]), set(dropped)
    if layer in gone:
        return None
    left = layer - sum(other < layer for other in gone)
    return f"{key[: found.start(1)]}{left}{key[found.end(1) :]}"
