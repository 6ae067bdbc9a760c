"""The masks inside finetuned checkpoints: reading them, and putting others in their place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from speechprune import __version__, checkpoint
from speechprune.backbones import LAYER_ROLES, find_backbone
from speechprune.backbones.base import OTHER_ROLES
from speechprune.checkpoint import LoadedModel, PathLike
from speechprune.checkpoint.finetuned import PROVENANCE
from speechprune.errors import UserError
from speechprune.masking.bits import pack_bits, unpack_bits
from speechprune.masking.mask_set import MaskSet
from speechprune.masking.masked_weight import mask_key, regrown_key, scores_key
from speechprune.masking.sites import Site, with_biases
from speechprune.models.layer_settings import LayerFlags
from speechprune.models.pruning_settings import PruningFlags
from speechprune.models.settings import SITE_FLAGS, MaskFlags, flags_of, masked_roles

_HEAD = "proj.weight"
_HEADS = (_HEAD, "proj.bias")
_DEFAULTS = {**vars(LayerFlags()), **vars(MaskFlags()), **vars(PruningFlags())}
#: What plain `wav2vec_ctc` configurations lack: in training it comes from other groups.
_CONTEXT = {
    "finetune_from_model": None,
    "save_dir": "checkpoints",
    "restore_file": "checkpoint_last.pt",
    "max_update": 0,
    "use_bmuf": False,
    "store_ema": False,
    "pipeline_model_parallel": False,
    "zero_sharding": "none",
}


def read_mask_set(path: PathLike) -> MaskSet:
    """The masks in a mask file or a finetuned checkpoint; raises UserError if it holds none."""
    return MaskSet.load(path) if _is_safetensors(Path(path)) else read_checkpoint_masks(path)


def read_checkpoint_masks(path: PathLike) -> MaskSet:
    """The masks in a finetuned checkpoint, with where they came from.

    Raises UserError if the file is no checkpoint or holds no masks that fit its weights.
    """
    state = checkpoint.read(path, mmap=True)
    try:
        masks = _masks(state["model"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if masks:
        return MaskSet(masks, _provenance(state, path))
    if any(key.endswith(".scores") for key in state["model"]):
        # S3-Router saves scores alone: the model knows what they choose.
        model: Any = checkpoint.load_finetuned(path).model
        return model.mask_controller.mask_set(_provenance(state, path))
    if not checkpoint.is_finetuned(state):
        raise UserError(f"{path} is a pretrained model: masks are learned by finetuning it")
    raise UserError(f"{path} holds no masks: it was finetuned without them, or folded")


def apply_masks(path: PathLike, masks: MaskSet, out: PathLike) -> None:
    """Put ``masks`` on a finetuned checkpoint, a plain `wav2vec_ctc` or one with masks.

    What is at ``out`` is a `wav2vec_ctc_st` with ``model.fix_mask``, or, if biases have masks, a
    `wav2vec_ctc_masked`. It has no scores, from which other masks would be chosen, and no optimizer
    state.

    Raises:
        UserError: the checkpoint cannot be loaded, the masks are of another model, or ``out``
            cannot be written.
    """
    loaded = checkpoint.load_finetuned(path)
    flags = _fitting_flags(loaded, masks)
    state = checkpoint.read(path)
    provenance = {
        **loaded.provenance,
        "version": __version__,
        "masks_applied_to": checkpoint.digest(path),
        "masks": masks.provenance,
    }
    changes = {
        "args": None,
        "cfg": _with_flags(loaded.cfg, flags),
        "model": _with_masks(state["model"], masks),
        "last_optimizer_state": None,
        PROVENANCE: provenance,
    }
    checkpoint.write({**state, **changes}, out)


def _is_safetensors(path: Path) -> bool:
    """Whether the file starts as safetensors do: eight bytes of length, then JSON."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def _masks(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The masks of a state dict by site; those of rows and columns in the shape of the weight."""
    masks = {}
    for key, weight in tensors.items():
        bits = tensors.get(_sibling(key, mask_key))
        if bits is None:
            continue
        scores = tensors.get(_sibling(key, scores_key), weight)
        try:
            masks[_site(key)] = unpack_bits(bits, scores.shape).expand(weight.shape)
        except (UserError, RuntimeError) as error:
            raise UserError(f"the mask of {key} is damaged: {error}") from error
    return masks


def _with_flags(cfg: DictConfig, flags: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with ``flags``, those of a model that takes biases only if need be."""
    container: Any = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    changed: dict[str, Any] = dict(container)
    seed = (changed.get("common") or {}).get("seed", 1)
    name = "wav2vec_ctc_masked" if flags["prune_biases"] else "wav2vec_ctc_st"
    added = {**_DEFAULTS, **_CONTEXT, "seed": seed}
    changed["model"] = {**added, **changed["model"], **flags, "_name": name}
    return changed


def _with_masks(tensors: Mapping[str, Tensor], masks: MaskSet) -> dict[str, Tensor]:
    """A state dict with other masks, and without the scores, or regrown weights, of its own."""
    changed = {k: v for k, v in tensors.items() if not k.endswith(regrown_key(""))}
    for site, mask in masks.items():
        changed.pop(_sibling(_key(site), scores_key), None)
        changed[_sibling(_key(site), mask_key)] = pack_bits(mask)
    return changed


def _fitting_flags(loaded: LoadedModel, masks: MaskSet) -> dict[str, Any]:
    """The flags under which the model has exactly the sites of ``masks``, fixed as they are.

    Raises UserError if there are none.
    """
    shapes = _maskable(loaded.model)
    is_plain = not hasattr(loaded.model, "mask_controller")
    if not is_plain:
        chosen = {name: getattr(loaded.cfg.model, name) for name in SITE_FLAGS}
        biases = any(site.tensor == "bias" for site in loaded.model.mask_controller.sites)
    else:
        chosen = flags_of({role for name, (role, _) in shapes.items() if name in masks})
        biases = any(name.endswith(".bias") for name in masks)
    roles = masked_roles(MaskFlags(**chosen))
    try:
        masks.check_fits(
            {
                name: shape
                for name, (role, shape) in shapes.items()
                if role in roles and (biases or not name.endswith(".bias"))
            }
        )
    except UserError as error:
        raise UserError(f"{loaded.path} cannot take these masks: {error}") from error
    if not masks.tally.kept:
        raise UserError("these masks keep nothing: a model without any connection is of no use")
    return {
        **chosen,
        "trainable_proj": is_plain or loaded.cfg.model.trainable_proj,
        "prune_biases": biases,
        "mask_file": None,
        "prune_rate": masks.density,
        "layerwise_prune_rate": [],
        "fc_attn_prune_rate": [],
        "linear_st_op": "linear_st",
        "fix_mask": True,
        "fix_mask_before": None,
        "load_mask_only": False,
        "load_mask_before": None,
    }


def _maskable(model: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Role and shape of every tensor of a CTC model that can have a mask, by site name."""
    backbone = model.w2v_encoder.w2v_model
    sites = find_backbone(backbone).sites(backbone, LAYER_ROLES + OTHER_ROLES)
    sites.append(Site(_HEAD, "head", None, model.w2v_encoder.proj, "weight"))
    return {s.name: (s.role, tuple(getattr(s.module, s.tensor).shape)) for s in with_biases(sites)}


def _provenance(state: Mapping[str, Any], path: PathLike) -> dict[str, str]:
    """Backbone, pretrained file, the checkpoint's digest, settings that are not the default, and
    versions."""
    model = state["cfg"]["model"]
    pretrained = (model.get("w2v_args") or {}).get("model") or {}
    settings = [
        f"{flag}={_text(model[flag])}"
        for flag in _flags_of_model(model["_name"])
        if flag in model and (flag in _ALWAYS_TOLD or model[flag] != _DEFAULTS[flag])
    ]
    facts = {
        "backbone": pretrained.get("_name"),
        "pretrained": Path(str(model.get("w2v_path") or "")).name,
        "checkpoint": f"sha256:{checkpoint.digest(path)}",
        "settings": " ".join(settings),
        "versions": f"speechprune={__version__} torch={version('torch')}",
    }
    return {key: str(fact) for key, fact in facts.items() if fact}


_ALWAYS_TOLD = ("prune_rate", "policy", "sparsity")


def _flags_of_model(name: str) -> list[str]:
    """The flags that say how the masks of a model came about."""
    if name == "wav2vec_ctc_parp":
        return [*vars(PruningFlags()), *SITE_FLAGS]
    if name == "wav2vec_ctc_masked":
        return ["mask_file", "prune_biases", *SITE_FLAGS]
    return list(vars(MaskFlags()))


def _text(value: Any) -> str:
    """A setting as it is written on a command line."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _key(site: str) -> str:
    """The key of a site's tensor in a checkpoint."""
    return f"w2v_encoder.{site}" if site in _HEADS else f"w2v_encoder.w2v_model.{site}"


def _site(key: str) -> str:
    """The site of a weight's key in a checkpoint."""
    for head in _HEADS:
        if key == _key(head):
            return head
    return key[len("w2v_encoder.w2v_model.") :]


def _sibling(key: str, name: Any) -> str:
    """The key of the mask or scores (``name`` is mask_key or scores_key) of a weight's key."""
    owner, _, tensor = key.rpartition(".")
    return f"{owner}.{name(tensor)}"
