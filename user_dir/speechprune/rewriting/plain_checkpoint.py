"""Any pretrained or finetuned checkpoint as one without masks, and the encoder in it."""

from __future__ import annotations

from speechprune import quiet_fairseq  # noqa: F401  (before fairseq)

# isort: split
from argparse import Namespace
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf
from torch import Tensor, nn

from speechprune.backbones import backbone_called
from speechprune.checkpoint.file import PROVENANCE, PathLike, read
from speechprune.checkpoint.pretrained import model_name
from speechprune.checkpoint.settings import encoder_of, plain
from speechprune.checkpoint.text import read_text_model, with_vocabulary
from speechprune.checkpoint.upgrading import read_upgraded
from speechprune.models.declaration import declared
from speechprune.models.encoder import building_from, load_weights
from speechprune.models.loading import load_finetuned, read_known
from speechprune.models.plain import without_masks
from speechprune.models.uninitialised import Uninitialised
from speechprune.rewriting.folding import folded_weights, plain_config
from speechprune.state_names import (
    ENCODER,
    HEAD,
    TEXT_HEADS,
    encoder_tensors,
    is_finetuned,
    is_text,
    key_of,
)

#: How the keys of a finetuned model of text begin.
_PARTS_OF_TEXT = ("encoder.", TEXT_HEADS)


@dataclass(frozen=True)
class PlainCheckpoint:
    """What is in a checkpoint once its masks are baked in.

    Attributes:
        path: of the file.
        prefix: how the encoder's keys begin in ``tensors``: ENCODER, or "" if it is a pretrained
            model, or one of text.
        tensors: all of the model, in the types of the file, without a teacher.
        cfg: the settings in today's form, as plain containers.
        masks: what was kept of each site that has a mask, or had one before it was folded; bool.
    """

    path: PathLike
    prefix: str
    tensors: Mapping[str, Tensor]
    cfg: Mapping[str, Any]
    masks: Mapping[str, Tensor]

    @property
    def pretraining(self) -> Mapping[str, Any]:
        """The settings of pretraining: of its ``task``, and of the encoder as its ``model``."""
        pretraining: Mapping[str, Any] = self.cfg["model"]["w2v_args"] if self.prefix else self.cfg
        return pretraining

    @property
    def is_text(self) -> bool:
        """Whether the encoder is one of text."""
        return is_text(self.tensors)

    @cached_property
    def encoder(self) -> nn.Module:
        """The encoder with its weights, in evaluation mode, on the CPU, without gradient; built
        once. Raises UserError if it is of no known family, or its settings do not fit."""
        settings = encoder_of(self.cfg["model"])
        own = encoder_tensors(self.tensors) if self.prefix or self.is_text else self.tensors
        if self.is_text:
            settings = with_vocabulary(settings, own, self.path)
        family = backbone_called(str(settings.get("_name") or settings.get("arch")))
        family.make_known()
        with building_from(self.path), Uninitialised():
            encoder = family.build(self.pretraining["task"], settings)
        load_weights(encoder, own, self.path)
        return encoder.eval().requires_grad_(False)


def read_plain(path: PathLike) -> PlainCheckpoint:
    """The checkpoint at ``path``, pretrained or finetuned, with its masks baked into its weights.

    Raises:
        UserError: the file cannot be read, or holds no encoder of a registered family.
    """
    if is_finetuned(read(path, mmap=True)["model"]):
        return read_plain_finetuned(path)
    if is_text(read(path, mmap=True)["model"]):
        state = read_upgraded(path)
        found = read_text_model(path)
        return PlainCheckpoint(path, "", found.weights, _contained(state["cfg"]), {})
    backbone_called(model_name(path)).make_known()
    state = read_upgraded(path)
    # The weights of data2vec's teacher are nested.
    tensors = {key: value for key, value in state["model"].items() if isinstance(value, Tensor)}
    return PlainCheckpoint(path, "", tensors, _contained(state["cfg"]), {})


def read_plain_finetuned(path: PathLike) -> PlainCheckpoint:
    """As `read_plain`, of a finetuned checkpoint; raises UserError as `read_known`."""
    state = read_known(path)
    tensors, cfg = state["model"], state["cfg"]
    of_text = is_text(tensors)
    prefix, parts = ("", _PARTS_OF_TEXT) if of_text else (ENCODER, (ENCODER, HEAD))
    is_whole = all(key.startswith(parts) for key in tensors)
    if is_whole and not declared(cfg.model._name).needs_folding:
        # It is not built: the published ones of 2020 lack the dictionary that this takes.
        folded = (state.get(PROVENANCE) or {}).get("kept") or {}
        masks = _as_zeros_tell(folded, tensors)
        return PlainCheckpoint(path, prefix, tensors, _contained(cfg), masks)
    loaded = load_finetuned(path)
    controller = getattr(loaded.model, "mask_controller", None)
    masks = dict(controller.mask_set()) if controller else {}
    own = {k: v for k, v in folded_weights(loaded).items() if k.startswith(parts)}
    settings = plain_config(
        _contained(loaded.cfg), without_masks(loaded.cfg.model._name, ours=of_text)
    )
    return PlainCheckpoint(path, prefix, own, settings, masks)


def _contained(cfg: Any) -> dict[str, Any]:
    """A configuration as plain containers, with that of pretraining in today's form."""
    container: dict[str, Any] = plain(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))
    pretraining = container["model"].get("w2v_args")
    if isinstance(pretraining, Namespace):
        container["model"]["w2v_args"] = plain(convert_namespace_to_omegaconf(pretraining))
    return container


def _as_zeros_tell(masked: Iterable[str], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks that were folded away: whatever is not zero was kept."""
    found = {}
    for name in masked:
        key = key_of(name)
        # Under weight norm, it is the direction that has zeros.
        tensor = tensors.get(key, tensors.get(f"{key}_v"))
        if tensor is not None:
            found[name] = tensor != 0
    return found
