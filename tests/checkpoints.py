"""What tests of checkpoints share: a model's output, a file rewritten, and a refusal's one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pytest
import torch

from speechprune.errors import UserError

#: Settings of a model with masks.
MASKS = {"_name": "wav2vec_ctc_st", "prune_rate": 0.5, "trainable_proj": True}


def refusal(action: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """The one line with which an action is refused."""
    with pytest.raises(UserError) as caught:
        action(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def logits(model: torch.nn.Module, rate: int = 16000) -> torch.Tensor:
    source = torch.randn(2, rate, generator=torch.Generator().manual_seed(0))
    padding_mask = torch.zeros(2, rate, dtype=torch.bool)
    padding_mask[1, rate // 2 :] = True
    with torch.inference_mode():
        return model(source=source, padding_mask=padding_mask)["encoder_out"]


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any], **options: Any) -> Path:
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path, **options)
    return path
