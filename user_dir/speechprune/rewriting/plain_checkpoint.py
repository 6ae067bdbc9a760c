"""Any pretrained or finetuned checkpoint as one without masks, beside the encoder in it."""

from __future__ import annotations

from speechprune import quiet_fairseq  # noqa: F401  (before fairseq)

# isort: split
from argparse import Namespace
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig
from omegaconf import OmegaConf
from torch import Tensor, nn

from speechprune.backbones import backbone_called
from speechprune.checkpoint.file import PROVENANCE, PathLike, read
from speechprune.checkpoint.pretrained import model_name
from speechprune.checkpoint.settings import encoder_of, plain
from speechprune.checkpoint.upgrading import read_upgraded
from speechprune.models.declaration import declared
from speechprune.models.encoder import building_from, load_weights
from speechprune.models.loading import load_finetuned, read_known
from speechprune.models.names import WEIGHTS
from speechprune.models.plain import PlainModel
from speechprune.rewriting.folding import folded_weights, plain_config
from speechprune.state_names import ENCODER, HEAD, is_finetuned, key_of

#: What a model becomes without its masks, of whatever family its encoder is.
_PLAIN = PlainModel(WEIGHTS, Wav2Vec2CtcConfig.__dataclass_fields__, lambda settings: {})


@dataclass(frozen=True)
class PlainCheckpoint:
    """What is in a checkpoint once its masks are baked in.

    Attributes:
        path: of the file.
        encoder: with the weights of the file, in evaluation mode, on the CPU, without gradient.
        prefix: how the encoder's keys begin in ``tensors``.
        tensors: all of the model, in the types of the file, without a teacher.
        cfg: the settings in today's form, as plain containers.
        masks: what was kept of each site that has a mask, or had one before it was folded; bool.
    """

    path: PathLike
    encoder: nn.Module
    prefix: str
    tensors: Mapping[str, Tensor]
    cfg: Mapping[str, Any]
    masks: Mapping[str, Tensor]


def read_plain(path: PathLike) -> PlainCheckpoint:
    """The checkpoint at ``path``, with its masks baked into its weights.

    Raises:
        UserError: the file cannot be read, or holds no encoder of a registered family.
    """
    if is_finetuned(read(path, mmap=True)["model"]):
        return _finetuned(path)
    backbone_called(model_name(path)).make_known()
    state = read_upgraded(path)
    return _with_encoder(path, "", state["model"], _contained(state["cfg"]), {})


def _finetuned(path: PathLike) -> PlainCheckpoint:
    state = read_known(path)
    tensors, cfg = state["model"], state["cfg"]
    is_whole = all(key.startswith((ENCODER, HEAD)) for key in tensors)
    if is_whole and not declared(cfg.model._name).has_masks:
        # It is not built: the published ones of 2020 lack the dictionary that this takes.
        masked = (state.get(PROVENANCE) or {}).get("kept") or {}
        return _with_encoder(
            path, ENCODER, tensors, _contained(cfg), _as_zeros_tell(masked, tensors)
        )
    loaded = load_finetuned(path)
    controller = getattr(loaded.model, "mask_controller", None)
    masks = dict(controller.mask_set()) if controller else {}
    own = {k: v for k, v in folded_weights(loaded).items() if k.startswith((ENCODER, HEAD))}
    return _with_encoder(path, ENCODER, own, plain_config(loaded.cfg, _PLAIN), masks)


def _with_encoder(
    path: PathLike,
    prefix: str,
    tensors: Mapping[str, Any],
    cfg: dict[str, Any],
    masks: Mapping[str, Tensor],
) -> PlainCheckpoint:
    """Build the encoder that ``cfg`` tells of, with its weights among ``tensors``."""
    found = {key: value for key, value in tensors.items() if isinstance(value, Tensor)}
    pretrained = cfg["model"]["w2v_args"] if prefix else cfg
    settings = encoder_of(cfg["model"])
    family = backbone_called(str(settings.get("_name") or settings.get("arch")))
    family.make_known()
    with building_from(path):
        encoder = family.build(pretrained["task"], settings)
    own = {k[len(prefix) :]: v for k, v in found.items() if k.startswith(prefix)}
    load_weights(encoder, own, path)
    encoder.eval().requires_grad_(False)
    return PlainCheckpoint(path, encoder, prefix, found, cfg, masks)


def _contained(cfg: Any) -> dict[str, Any]:
    """A configuration as plain containers, with that of pretraining in today's form."""
    container: dict[str, Any] = plain(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))
    pretrained = container["model"].get("w2v_args")
    if isinstance(pretrained, Namespace):
        container["model"]["w2v_args"] = plain(convert_namespace_to_omegaconf(pretrained))
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
