"""Speed, memory and size of a dense model, a slim one, and their ONNX files in float32 and 8 bits.

    python -m benchmarks.export_speed

wav2vec 2.0 base with random weights and a CTC head hears noise; the slim one has half of the
feed-forward channels, three quarters of the heads and eight of twelve layers. Each model is in a
process of its own, and all take turns. Some minutes to export, and then one for each five rounds,
on two quiet cores.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from contextlib import redirect_stdout
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
import torch
from fairseq import tasks
from omegaconf import OmegaConf

import speechprune.plugin  # noqa: F401  (models and tasks are registered)
from benchmarks.harness import Report, machine
from benchmarks.recognisers import SMALL_ENCODER
from benchmarks.slim_models import Kept, cut, dense, write
from speechprune.benchmarking.measuring import measure
from speechprune.benchmarking.report import draw, in_words
from speechprune.exporting.onnx_export import Bounds, export_onnx
from speechprune.models.names import WEIGHTS

SLIM = Kept(heads=Fraction(3, 4), channels=Fraction(1, 2), layers=Fraction(2, 3))
_LETTERS = "|ETAONIHSRDLUMWCFGYPBVK'XJQZ"


@click.command(help=__doc__)
@click.option("--threads", type=click.IntRange(1), default=2, help="Threads of each model; 2.")
@click.option("--seconds", type=click.IntRange(1), default=10, help="Length of the audio; 10.")
@click.option("--batch", type=click.IntRange(1), default=4, help="Recordings in a batch; 4.")
@click.option("--repeats", type=click.IntRange(1), default=5, help="Rounds; 5.")
@click.option("--quick", is_flag=True, help="A tiny model and one round, to try this out.")
@click.option("--save", type=click.Path(path_type=Path), help="File for the table.")
@click.option("--figure", type=click.Path(path_type=Path), help="File for the figure.")
def main(
    threads: int,
    seconds: int,
    batch: int,
    repeats: int,
    quick: bool,
    save: Path | None,
    figure: Path | None,
) -> None:
    report = Report()
    report.tell(f"{machine()}; {threads} threads for each model, 1 and {batch} x {seconds} s\n")
    with tempfile.TemporaryDirectory() as folder:
        paths = _files(Path(folder), SMALL_ENCODER if quick else {})
        found = measure(
            paths,
            seconds=seconds,
            batch=batch,
            threads=threads,
            repeats=1 if quick else repeats,
        )
    for line in in_words(found).splitlines():
        report.tell(line)
    if figure is not None:
        draw(found, figure)
    if save is not None:
        report.save(save)


def _files(folder: Path, settings: Mapping[str, Any]) -> list[Path]:
    """Both models, each as a checkpoint and as two ONNX files."""
    (folder / "dict.ltr.txt").write_text("".join(f"{letter} 1\n" for letter in _LETTERS))
    whole = dense(settings)
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


if __name__ == "__main__":
    main()
