"""What tests of checkpoints share: a model's output, here and in plain fairseq, a file rewritten,
and a refusal's one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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


def logits(model: torch.nn.Module, rate: int = 16000, *, padded: bool = True) -> torch.Tensor:
    with torch.inference_mode():
        return model(**_batch(rate, padded=padded))["encoder_out"]


def _batch(rate: int, *, padded: bool) -> dict[str, torch.Tensor]:
    """A second of noise, and half of one or, without padding, another."""
    source = torch.randn(2, rate, generator=torch.Generator().manual_seed(0))
    padding_mask = torch.zeros(2, rate, dtype=torch.bool)
    padding_mask[1, rate // 2 :] = padded
    return {"source": source, "padding_mask": padding_mask}


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any], **options: Any) -> Path:
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path, **options)
    return path


_PLAIN_FAIRSEQ = """
import json, sys
import torch
from fairseq import checkpoint_utils
(model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([sys.argv[1]])
model.eval().requires_grad_(False)
with torch.inference_mode():
    output = model(**torch.load(sys.argv[2]))["encoder_out"]
torch.save(output, sys.argv[3])
assert "speechprune" not in sys.modules
unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(sys.argv[1])
print(json.dumps([type(model).__name__, task.target_dictionary.symbols, unsafe]))
"""


def in_plain_fairseq(path: Path, folder: Path, **environment: str) -> tuple[list, torch.Tensor]:
    """What fairseq makes of a checkpoint in a process without speechprune.

    Returns:
        The model's class, its alphabet and the classes that the file asks for; and `logits` without
        padding, of which fairseq makes something else.
    """
    torch.save(_batch(16000, padded=False), folder / "source.pt")
    files = [str(file) for file in (path, folder / "source.pt", folder / "output.pt")]
    ran = subprocess.run(
        [sys.executable, "-c", _PLAIN_FAIRSEQ, *files],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1]), torch.load(folder / "output.pt")
