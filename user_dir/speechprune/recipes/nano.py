"""The nano wav2vec 2.0 that comes along: pretrained on synthetic speech, and how it was."""

from __future__ import annotations

import os
import sys
from importlib.resources import files
from pathlib import Path

import torch

from speechprune.ending import run_child
from speechprune.errors import UserError
from speechprune.locks import locked
from speechprune.manifests.acoustic_units import UNITS, write_units
from speechprune.manifests.synthetic import Progress, SyntheticSpeech, make_synthetic
from speechprune.rewriting.conversion import convert
from speechprune.training.overrides import quoted

ASSET = Path(str(files("speechprune"))) / "assets" / "nano_wav2vec2.pt"

CORPUS = SyntheticSpeech(
    languages=("en", "de", "es", "it", "id", "sw"),
    sizes={"train": 4000, "valid": 60},
    vocabulary=None,
    sentence=(3, 6),
    rate=(130, 240),
    pitch=(15, 85),
    noise=(-45.0, -10.0),
    seed=101,
)
"""Nearly two hours of speech; its labels are not used."""


def pretrain_nano(
    out: Path,
    folder: Path,
    *,
    overrides: tuple[str, ...] = (),
    workers: int = 1,
    progress: Progress = lambda utterances, total: utterances,
) -> None:
    """Speak the corpus, label its frames, pretrain by `config/pretraining/nano.yaml`, and export.

    Args:
        out: the checkpoint to write.
        folder: where the corpus and the run are kept; what is there already is used.
        overrides: more overrides for fairseq-hydra-train.

    Raises:
        UserError: training failed, its log is named; or another process does this in ``folder``.
    """
    with locked(folder):
        _pretrain_nano(out, folder, overrides, workers, progress)


def _pretrain_nano(
    out: Path, folder: Path, overrides: tuple[str, ...], workers: int, progress: Progress
) -> None:
    corpus, run = folder / "corpus", folder / "run"
    if not corpus.exists():
        make_synthetic(corpus, CORPUS, workers=workers, progress=progress)
    if not (corpus / f"dict.{UNITS}.txt").exists():
        write_units(corpus, ("train", "valid"))
    log = folder / "train.log"
    command = [sys.executable, "-m", "speechprune.tools.main", "train"]
    command += ["--config-name", "pretraining/nano", f"hydra.run.dir={quoted(str(run.absolute()))}"]
    command += [f"task.data={quoted(str(corpus.absolute()))}", *overrides]
    with log.open("w", encoding="utf-8") as stream:
        code = run_child(command, stdout=stream, stderr=stream, env=_one_thread())
    if code:
        raise UserError(f"pretraining failed; see {log}")
    convert(run / "checkpoints" / "checkpoint_last.pt", out, dtype=torch.float16)


def _one_thread() -> dict[str, str]:
    # Sums in a fixed order: the recipe's result does not depend on the number of cores.
    return {**os.environ, "OMP_NUM_THREADS": "1"}
