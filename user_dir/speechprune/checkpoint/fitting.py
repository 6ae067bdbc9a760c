"""Whether the settings of an encoder fit its tensors: only then is it built.

What a file says in a few bytes could fill any memory: a million layers, or one as wide.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from speechprune.backbones import BACKBONES
from speechprune.checkpoint.evaluated import convolutions
from speechprune.checkpoint.settings import encoder_of, models_in
from speechprune.errors import UserError
from speechprune.slimming.plan import SLIM_PLAN, SlimPlan
from speechprune.state_names import (
    ENCODER,
    MASK_EMBEDDING,
    encoder_layer_of,
    is_finetuned,
    role_of,
)

#: Settings that are the length of a tensor, of pretraining's heads perhaps, which a finetuned file
#: lacks: no longer than this, or than its longest tensor.
_LONGEST = 8192
#: Modules that any file may ask for.
_FEW = 16
_LENGTHS = (
    *("encoder_ffn_embed_dim", "final_dim", "latent_dim", "latent_vars", "conv_pos"),
    "depthwise_conv_kernel_size",
)
#: Settings that count modules, each of which has a tensor, or parts of one.
_COUNTS = ("pos_conv_depth", "quantizer_depth", "quantizer_factor", "latent_groups")
#: What the rows of a layer's tensors belong to, by the tensor's place in its layer.
_ROWS = {
    "self_attn.q_proj": "heads",
    "self_attn.k_proj": "heads",
    "self_attn.v_proj": "heads",
    "fc1": "channels",
}
#: The settings that count what a slim plan is of.
_UNITS = {"heads": "encoder_attention_heads", "channels": "encoder_ffn_embed_dim"}
#: fairseq's default for relative positions is 100,000.
_MOST_POSITIONS = 1 << 17


def refuse_misfit(state: Mapping[str, Any], path: object) -> None:
    """Raise UserError if the settings of the encoder are those of another one than its tensors.

    Args:
        state: a pretrained or finetuned checkpoint; settings that it lacks are not compared.
    """
    tensors = {key: value for key, value in state["model"].items() if isinstance(value, Tensor)}
    prefix = ENCODER if is_finetuned(tensors) else ""
    lengths = [length for tensor in tensors.values() for length in tensor.shape]
    bounds = {
        **dict.fromkeys(_LENGTHS, max([_LONGEST, *lengths])),
        **dict.fromkeys(_COUNTS, max(_FEW, len(tensors))),
        "max_positions": _MOST_POSITIONS,
    }
    for model in models_in(state):
        settings = encoder_of(model)
        for name, bound in bounds.items():
            value = settings.get(name)
            if isinstance(value, int) and value > bound:
                raise _misfit(path, name, value, f"more than its {len(tensors)} tensors bear out")
        _check_depth(settings, tensors, path)
        _check_width(settings, tensors, prefix, path)
        _check_front_end(settings, tensors, prefix, path)
        _check_units(settings, tensors, path)


def _check_depth(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], path: object) -> None:
    said = settings.get("encoder_layers")
    layers = {layer for layer in map(encoder_layer_of, tensors) if layer is not None}
    if isinstance(said, int) and layers and layers != set(range(min(said, len(layers) + 1))):
        raise _misfit(path, "encoder_layers", said, f"but it has the tensors of {len(layers)}")


def _check_width(
    settings: Mapping[str, Any], tensors: Mapping[str, Tensor], prefix: str, path: object
) -> None:
    said, embedding = settings.get("encoder_embed_dim"), tensors.get(prefix + MASK_EMBEDDING)
    if said is not None and embedding is not None and said != embedding.numel():
        width = embedding.numel()
        raise _misfit(path, "encoder_embed_dim", said, f"but its tensors have {width} channels")


def _check_units(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], path: object) -> None:
    """What a layer keeps of its heads and channels must be what its tensors have."""
    whole = {
        "heads": settings.get("encoder_embed_dim"),
        "channels": settings.get("encoder_ffn_embed_dim"),
    }
    plan = _slim_plan(settings, tensors, path)
    for key, tensor in tensors.items():
        layer, role = encoder_layer_of(key), role_of(key)
        if layer is None or not key.endswith(".weight") or role not in _ROWS:
            continue
        said, rows = whole[_ROWS[role]], tensor.shape[0]
        if plan is None:
            if isinstance(said, int) and rows < said:
                raise UserError(
                    f"{path} is damaged: {key} has {rows} of {said} rows, but its settings hold no "
                    f"{SLIM_PLAN} that tells which heads and channels were cut out"
                )
            continue
        kept = plan.kept[layer]
        size = int(settings.get("encoder_embed_dim") or 0) // plan.heads
        said = len(kept.channels) if _ROWS[role] == "channels" else len(kept.heads) * size
        if rows != said:
            raise UserError(
                f"{path} is damaged: its slim plan keeps {said} rows of {key}, which has {rows}"
            )


def _slim_plan(
    settings: Mapping[str, Any], tensors: Mapping[str, Tensor], path: object
) -> SlimPlan | None:
    """What the settings say of heads and channels; UserError if it is of another model."""
    described = settings.get(SLIM_PLAN)
    if described is None:
        return None
    layers = {layer for layer in map(encoder_layer_of, tensors) if layer is not None}
    listed = described.get("layers")
    # Looked at first: a few bytes could stand for any number of layers and units.
    if isinstance(listed, list) and len(listed) != len(layers):
        raise UserError(
            f"{path} is damaged: its slim plan is of {len(listed)} layers, but it has the "
            f"tensors of {len(layers)}"
        )
    for kind, name in _UNITS.items():
        counted = described.get(kind)
        if name in settings and counted != settings[name]:
            raise UserError(
                f"{path} is damaged: its slim plan is of a model of {repr(counted)[:60]} {kind}, "
                f"but its settings say {name}={repr(settings[name])[:60]}"
            )
    try:
        plan = SlimPlan.of(described)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    family = str(settings.get("_name") or settings.get("arch") or plan.backbone)
    known = plan.backbone in BACKBONES.names() and BACKBONES.build(plan.backbone).is_called(family)
    if plan.backbone != family and not known:
        raise UserError(
            f"{path} is damaged: its slim plan is of the family {plan.backbone}, but its model of "
            f"{family}"
        )
    return plan


def _check_front_end(
    settings: Mapping[str, Any], tensors: Mapping[str, Tensor], prefix: str, path: object
) -> None:
    text = settings.get("conv_feature_layers")
    if text is None:
        return
    said = convolutions(text)
    for index, (channels, kernel, _) in enumerate(said):
        weight = tensors.get(f"{prefix}feature_extractor.conv_layers.{index}.0.weight")
        shape = None if weight is None else list(weight.shape)
        if shape is None or len(shape) != 3 or (shape[0], shape[2]) != (channels, kernel):
            name = f"layer {index} of its convolutions"
            raise _misfit(path, "conv_feature_layers", text, f"but {name} has the shape {shape}")


def _misfit(path: object, name: str, value: Any, reason: str) -> UserError:
    return UserError(f"{path} is damaged: its settings say {name}={value}, {reason}")
