"""CTC models of wav2vec 2.0 base, dense and slim, as checkpoints and as ONNX files."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from fractions import Fraction
from pathlib import Path

import torch
from fairseq import tasks
from omegaconf import OmegaConf

import speechprune.plugin  # noqa: F401  (models and tasks are registered)
from benchmarks.recognisers import SMALL_ENCODER
from benchmarks.slim_models import Kept, cut, dense, write
from speechprune.exporting.onnx_export import Bounds, export_onnx
from speechprune.models.names import WEIGHTS

SLIM = Kept(heads=Fraction(3, 4), channels=Fraction(1, 2), layers=Fraction(2, 3))
_LETTERS = "|ETAONIHSRDLUMWCFGYPBVK'XJQZ"


def write_files(folder: Path, *, small: bool) -> list[Path]:
    """Write both models, each as a checkpoint and as two ONNX files.

    Args:
        small: write tiny ones instead, to try benchmarks out.
    """
    (folder / "dict.ltr.txt").write_text("".join(f"{letter} 1\n" for letter in _LETTERS))
    whole = dense(SMALL_ENCODER if small else {})
    found = []
    for name, kept in (("dense", Kept()), ("slim", SLIM)):
        pretrained = folder / f"{name}_pretrained.pt"
        write(cut(whole, kept), pretrained)
        checkpoint = _finetuned(pretrained, folder / f"{name}.pt")
        found.append(checkpoint)
        for kind, in_8_bits in (("fp32", False), ("int8", True)):
            out = folder / f"{name}-{kind}.onnx"
            # Weights that were not trained say nothing, which symbol is best hangs by a thread.
            export_onnx(checkpoint, out, int8=in_8_bits, bounds=Bounds(agreement=0.0))
            found.append(out)
    return found


def _finetuned(pretrained: Path, path: Path) -> Path:
    """Write a CTC model with a pretrained encoder and a random head, without an optimizer."""
    data = str(pretrained.parent)
    cfg = OmegaConf.create(
        {
            # What the model's own settings point to.
            "common": {"seed": 0, "tpu": False},
            "distributed_training": {"ddp_backend": "legacy_ddp"},
            "task": {"_name": "audio_finetuning", "labels": "ltr", "data": data},
            "model": {"_name": WEIGHTS, "w2v_path": str(pretrained), "data": data},
            "criterion": {"_name": "ctc"},
        }
    )
    with redirect_stdout(io.StringIO()):
        task = tasks.setup_task(cfg.task)
        cfg.task = task.cfg
        model = task.build_model(cfg.model)
        cfg.model = model.cfg
    state = {
        "args": None,
        "cfg": OmegaConf.to_container(cfg, resolve=True, enum_to_str=True),
        "model": model.state_dict(),
        "criterion": None,
        "optimizer_history": [],
        "task_state": task.state_dict(),
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
    }
    torch.save(state, path)
    return path
