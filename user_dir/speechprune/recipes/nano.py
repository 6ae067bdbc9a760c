"""The nano wav2vec 2.0 that comes along: pretrained on synthetic speech, and how it was."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config
from omegaconf import OmegaConf

from speechprune.checkpoint.file import read, write
from speechprune.checkpoint.pretrained import pretrained_state
from speechprune.errors import UserError
from speechprune.manifests.acoustic_units import UNITS, write_units
from speechprune.manifests.synthetic import Progress, SyntheticSpeech, make_synthetic
from speechprune.training.command_line import quoted

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

# Needed to learn the encoder, and of no use to what is built on it.
_PRETRAINING_ONLY = ("label_embs_concat", "final_proj.")


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
        UserError: training failed; its log is named.
    """
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
        code = subprocess.run(command, stdout=stream, stderr=stream, env=_one_thread()).returncode
    if code:
        raise UserError(f"pretraining failed; see {log}")
    export_as_wav2vec2(run / "checkpoints" / "checkpoint_last.pt", out)


def export_as_wav2vec2(checkpoint: Path, out: Path) -> None:
    """Write the encoder of HuBERT's pretraining as wav2vec 2.0: half precision, no paths.

    Parameters are float16 in the file; loading copies them into float32 parameters. Raises
    UserError if `checkpoint` cannot be read or `out` cannot be written.
    """
    state = read(checkpoint)
    model = {
        name: tensor.half() if torch.is_floating_point(tensor) else tensor
        for name, tensor in state["model"].items()
        if not name.startswith(_PRETRAINING_ONLY)
    }
    updates = state["optimizer_history"][-1]["num_updates"]
    task = {"_name": "audio_pretraining", "data": ".", "normalize": False}
    settings = _wav2vec2_settings(state["cfg"]["model"])
    write(pretrained_state(model, task, settings, updates), out)


def _wav2vec2_settings(hubert: Mapping[str, Any]) -> dict[str, Any]:
    """The network's settings under wav2vec 2.0's name: the two models have one encoder."""
    settings = OmegaConf.to_container(OmegaConf.structured(Wav2Vec2Config), enum_to_str=True)
    assert isinstance(settings, dict)
    return {**{key: hubert.get(key, value) for key, value in settings.items()}, "_name": "wav2vec2"}


def _one_thread() -> dict[str, str]:
    # Sums in a fixed order: the recipe's result does not depend on the number of cores.
    return {**os.environ, "OMP_NUM_THREADS": "1"}
