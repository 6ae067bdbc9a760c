"""What tests of averaging share: folders of runs, written by hand, and the mean by numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch
from checkpoints import MASKS
from click.testing import CliRunner, Result
from nano import write_corpus, write_data2vec, write_finetuned, write_wav2vec2
from torch import Tensor

from speechprune.rewriting.averaging import average
from speechprune.tools.main import commands

ENCODER = "w2v_encoder.w2v_model."
WEIGHT = f"{ENCODER}encoder.layers.0.fc1.weight"
#: Settings of a model under PARP; the last five come from other groups in training.
PARP = {
    **{"_name": "wav2vec_ctc_parp", "sparsity": 0.5, "no_prune_post_extract_proj": True},
    **{"use_bmuf": False, "store_ema": False},
    **{"pipeline_model_parallel": False, "zero_sharding": "none", "max_update": 10},
}
#: Changes a checkpoint before it is saved.
Change = Callable[[dict[str, Any]], Any]


class Runs:
    """Folders of runs, written by hand: each checkpoint is the source plus noise of its own."""

    def __init__(self, folder: Path) -> None:
        self.data = write_corpus(folder / "data", train=1, valid=2)
        self.pretrained = write_wav2vec2(folder / "pretrained.pt")
        self.data2vec = write_data2vec(folder / "data2vec.pt")
        self.plain = self.finetuned(folder / "plain.pt", {})
        self.masked = self.finetuned(folder / "masked.pt", MASKS)
        self.parp = self.finetuned(folder / "parp.pt", PARP)

    def finetuned(self, path: Path, model: dict[str, Any]) -> Path:
        return write_finetuned(path, self.pretrained, self.data, model=model)

    def save(
        self,
        run: Path,
        name: str,
        updates: int,
        valid: float | None = None,
        *,
        source: Path | None = None,
        change: Change | None = None,
        **measure: Any,
    ) -> Path:
        """A checkpoint of ``updates`` updates in the folder ``run``.

        Args:
            measure: settings of `checkpoint` that say what a good value is.
        """
        state = torch.load(source or self.plain, weights_only=True)
        state["model"] = add_noise(state["model"], torch.Generator().manual_seed(updates))
        state["optimizer_history"][-1]["num_updates"] = updates
        state["extra_state"].update(val_loss=valid, best=0.0, metrics={"valid": []})
        state["last_optimizer_state"] = {"state": {0: {"exp_avg": torch.ones(3)}}}
        state["cfg"].setdefault("checkpoint", {}).update(measure)
        if change is not None:
            change(state)
        path = run / "checkpoints" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, path)
        return path


def add_noise(tree: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
    """Changes floating-point tensors, but for zeros: what is pruned stays pruned."""
    changed: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            changed[key] = add_noise(value, generator)
        elif value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator).to(value)
            changed[key] = torch.where(value == 0, value, value + noise)
        else:
            changed[key] = value
    return changed


def flat(tree: dict[str, Any]) -> dict[str, Tensor]:
    found = {}
    for key, value in tree.items():
        inner = flat(value) if isinstance(value, dict) else {"": value}
        found.update({f"{key}/{name}": tensor for name, tensor in inner.items()})
    return found


def assert_is_the_mean(out: Path, sources: list[Path]) -> None:
    """Every floating-point tensor is numpy's float64 mean, in the type that is stored."""
    mean = flat(torch.load(out, weights_only=True)["model"])
    models = [flat(torch.load(path, weights_only=True)["model"]) for path in sources]
    assert set(mean) == {name for name in models[0] if not name.endswith("_regrown/")}
    for name, tensor in mean.items():
        stored = [model[name] for model in models]
        assert tensor.dtype == stored[0].dtype, name
        if tensor.is_floating_point():
            values = np.stack([t.double().numpy() for t in stored])
            expected = torch.from_numpy(np.asarray(values.mean(axis=0))).to(tensor.dtype)
            assert torch.equal(tensor, expected), name
        else:
            assert all(torch.equal(tensor, other) for other in stored), name


def names(run: Path, **options: Any) -> list[str]:
    return [checkpoint.path.name for checkpoint in average(run, **options).averaged]


def run_command(*arguments: object) -> Result:
    return CliRunner().invoke(commands, ["average", *map(str, arguments)])


def in_half_precision(state: dict[str, Any]) -> None:
    """One tensor of each type, and a counter."""
    model = state["model"]
    model[WEIGHT] = model[WEIGHT].half()
    bias = f"{ENCODER}encoder.layers.0.fc1.bias"
    model[bias] = model[bias].bfloat16()
    model["steps"] = torch.tensor(7)
