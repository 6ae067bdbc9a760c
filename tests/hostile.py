"""Checkpoints with code where fairseq evaluates a setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from checkpoints import rewrite
from nano import CONV_FEATURE_LAYERS


def make_hostile(path: Path, marker: Path) -> Path:
    """Let a checkpoint make the file ``marker`` once its convolutions are evaluated."""
    code = f"(__import__('pathlib').Path({str(marker)!r}).touch(), {CONV_FEATURE_LAYERS})[1]"

    def change(state: dict[str, Any]) -> None:
        model = state["cfg"]["model"] if state.get("cfg") else vars(state["args"])
        inner = model.get("w2v_args")
        if inner is not None:
            model = inner["model"] if isinstance(inner, dict) else vars(inner)
        model["conv_feature_layers"] = code

    return rewrite(path, change)
