"""The nano wav2vec 2.0 that comes along: pretrained on synthetic speech, and how it was."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from speechprune.files import check_output
from speechprune.locks import locked
from speechprune.manifests.acoustic_units import write_units
from speechprune.manifests.dictionary import dictionary_name
from speechprune.manifests.frame_units import UNITS
from speechprune.manifests.progress import Progress, unwatched
from speechprune.manifests.synthetic import SyntheticSpeech, make_synthetic
from speechprune.recipes.pretraining import (
    PretrainingRun,
    check_overrides,
    export,
    folder_override,
)
from speechprune.training.overrides import key_of, value_of
from speechprune.training.rounds import Tell, finish_all

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

UPDATES = 4000


def pretrain_nano(
    out: Path,
    folder: Path,
    *,
    overrides: tuple[str, ...] = (),
    workers: int = 1,
    progress: Progress = unwatched,
    tell: Tell = lambda line: None,
) -> None:
    """Speak the corpus, label its frames, pretrain by `config/pretraining/nano.yaml`, and export.

    Args:
        out: the checkpoint to write.
        folder: where the corpus and the run are kept; what is there already is used.
        overrides: more overrides for fairseq-hydra-train.
        progress: wraps the stream of spoken utterances.
        tell: is called with a line when training begins.

    Raises:
        UserError: an override is of what the recipe sets itself; training failed, its log is named;
            ``folder`` was made with other settings; or another process does this in it.
    """
    check_overrides(overrides)
    check_output(out)
    with locked(folder):
        corpus = folder / "corpus"
        if not corpus.exists():
            make_synthetic(corpus, CORPUS, workers=workers, progress=progress)
        if not (corpus / dictionary_name(UNITS)).exists():
            write_units(corpus, ("train", "valid"), workers=workers)
        run = PretrainingRun(
            "pretraining",
            folder / "run",
            "pretraining/nano",
            (folder_override("task.data", corpus), *overrides),
            _updates(overrides),
        )
        finish_all([[run]], tell=tell)
        export(run, out)


def _updates(overrides: tuple[str, ...]) -> int:
    """Those that overrides ask for, or the recipe's; what is no number, training refuses."""
    asked = [value_of(each) for each in overrides if key_of(each) == "optimization.max_update"]
    return int(asked[-1]) if asked and asked[-1].isdecimal() else UPDATES
