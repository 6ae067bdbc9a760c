"""The settings of a checkpoint that holds masks without scores, from which others would be chosen:
its masks stay as they are, also if it is finetuned further."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechprune.models.declaration import DEFAULTS

#: What plain configurations lack: in training it comes from other groups.
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


def with_fixed_masks(
    model: Mapping[str, Any], seed: int, density: float, flags: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of a model with its masks fixed.

    Args:
        model: its settings so far.
        seed: of its run.
        density: what its masks keep.
        flags: which model it is to be, and which tensors have masks.
    """
    return {
        **DEFAULTS,
        **_CONTEXT,
        "seed": seed,
        **model,
        "mask_file": None,
        "prune_rate": density,
        "layerwise_prune_rate": [],
        "fc_attn_prune_rate": [],
        "linear_st_op": "linear_st",
        "fix_mask": True,
        "fix_mask_before": None,
        "load_mask_only": False,
        "load_mask_before": None,
        **flags,
    }


def seed_of(cfg: Mapping[str, Any]) -> int:
    """The seed of the run that settings are of."""
    return int((cfg.get("common") or {}).get("seed", 1))
