"""The mini model: a HuBERT of ten million parameters, pretrained from nothing in two iterations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from speechprune.backbones.hubert import LABEL_EMBEDDINGS
from speechprune.checkpoint.file import digest, read, write
from speechprune.files import check_output, new_folder
from speechprune.locks import locked
from speechprune.made_with import claim
from speechprune.manifests.acoustic_units import write_units
from speechprune.manifests.frame_units import check_frame_units, write_frame_units
from speechprune.manifests.progress import Progress, unwatched
from speechprune.recipes.hidden_units import HiddenStates, Listening, middle
from speechprune.recipes.mini_speech import LANGUAGES, SPLITS, MiniSpeech, make_mini_speech
from speechprune.recipes.pretraining import (
    OWN_AND_UPDATES,
    PretrainingRun,
    check_overrides,
    export,
    folder_override,
)
from speechprune.training.devices import check_device
from speechprune.training.rounds import Tell, finish_all

CONFIG = "pretraining/mini"
#: Of cepstra, and of hidden states, which tell more sounds apart.
CLUSTERS = (100, 200)
_SEED = 1
#: One in so many updates is of the warm-up, however many there are.
_WARM_UP = 8
#: The checkpoint that the second iteration begins from, beside its units.
_START = "start.pt"
#: A dictionary of fairseq's begins with these, which have label embeddings too.
_SPECIAL_SYMBOLS = 4


@dataclass(frozen=True)
class Scale:
    """How much there is to do, fit for a device.

    Attributes:
        hours: of synthetic speech.
        updates: of each iteration.
        overrides: of the config, which is for a CPU.
    """

    hours: float
    updates: tuple[int, int]
    overrides: tuple[str, ...] = ()


#: By device: on a CPU about two hours of one core, on a GPU an estimated eight minutes of an H100.
SCALES = {
    "cpu": Scale(4.0, (2000, 3000)),
    "cuda": Scale(
        20.0,
        (1600, 2400),
        (
            "common.cpu=false",
            "common.bf16=true",
            "dataset.max_tokens=5120000",
            "dataset.num_workers=12",
        ),
    ),
}


@dataclass(frozen=True)
class MiniSettings:
    """How the mini model is pretrained.

    Attributes:
        speech: what it hears.
        updates: of each iteration.
        overrides: more overrides for fairseq-hydra-train, in both iterations.
        clusters: units of each iteration.
    """

    speech: MiniSpeech
    updates: tuple[int, int]
    overrides: tuple[str, ...] = ()
    clusters: tuple[int, int] = CLUSTERS


def pretrain_mini(
    out: Path,
    folder: Path,
    settings: MiniSettings,
    *,
    device: str = "cpu",
    workers: int | None = 1,
    progress: Progress = unwatched,
    tell: Tell = lambda line: None,
) -> None:
    """Speak, label frames by their cepstra, pretrain by `config/pretraining/mini.yaml`, label
    frames by what the model makes of them, pretrain on, and export.

    The second iteration begins from the first one's weights with new label embeddings. HuBERT's
    begins from nothing, after hundreds of thousands of updates; with a few thousand in all, what
    the first has learnt of speech would cost half of them again.

    Args:
        out: the checkpoint to write, a wav2vec 2.0 in half precision.
        folder: where speech, units and runs are kept; each that is there already is used.
        device: where hidden states are computed, "cpu" or "cuda"; overrides say where to train.
        workers: processes that speak and listen, None for one per core.
        progress: wraps streams of utterances.
        tell: is called with a line when a step begins.

    Raises:
        UserError: there is no GPU for ``device``; an override is of what the recipe sets itself;
            training failed, its log is named; a part of ``folder`` was made with other settings, or
            of something else; or another process does this in it.
    """
    check_device(device)
    check_overrides(settings.overrides, OWN_AND_UPDATES)
    check_output(out)
    with locked(folder):
        tell(f"speech in {len(LANGUAGES)} languages, in {folder / 'speech'}")
        data = make_mini_speech(
            folder / "speech", settings.speech, workers=workers, progress=progress
        )
        tell("units of cepstra, for the first iteration")
        first = folder / "units-1"
        _make_units(
            first,
            {"of": "cepstra", "clusters": settings.clusters[0], "data": _manifests(data)},
            lambda out: write_units(
                data, SPLITS, settings.clusters[0], out=out, workers=workers, progress=progress
            ),
        )
        run = _run(1, folder, data, first, settings)
        finish_all([[run]], tell=tell)
        listening = Listening(torch.device(device), workers, progress)
        second, start = _second_targets(folder, data, run, settings, listening, tell)
        last = _run(2, folder, data, second, settings, start)
        finish_all([[last]], tell=tell)
        export(last, out)


def _run(
    number: int,
    folder: Path,
    data: Path,
    units: Path,
    settings: MiniSettings,
    start: Path | None = None,
) -> PretrainingRun:
    check_frame_units(units, data, SPLITS)
    own = [folder_override("task.data", data), folder_override("task.label_dir", units)]
    if start is not None:
        own.append(folder_override("checkpoint.finetune_from_model", start))
    updates = settings.updates[number - 1]
    own.append(f"lr_scheduler.warmup_updates={updates // _WARM_UP}")
    return PretrainingRun(
        f"iteration {number} of pretraining",
        folder / f"run-{number}",
        CONFIG,
        (*own, *settings.overrides),
        updates,
        needs=() if start is None else (start,),
    )


def _second_targets(
    folder: Path,
    data: Path,
    run: PretrainingRun,
    settings: MiniSettings,
    listening: Listening,
    tell: Tell,
) -> tuple[Path, Path]:
    """The units of hidden states, and the checkpoint that learns them, as it begins.

    Their folder is called by the model of the first iteration: with another one, the run of the
    second would have other settings, and be refused.
    """
    model, count = digest(run.checkpoint), settings.clusters[1]
    units, layer = folder / f"units-2-of-{model[:12]}", middle(run.checkpoint)
    tell(f"units of hidden state {layer}, for the second iteration")

    def listen(out: Path) -> None:
        states = HiddenStates(data, run.checkpoint, layer, listening)
        write_frame_units(out, states, SPLITS, count, _SEED)
        with_new_labels(run.checkpoint, out / _START, count)

    made_of = {"of": model, "layer": layer, "clusters": count, "data": _manifests(data)}
    _make_units(units, made_of, listen)
    return units, units / _START


def _make_units(folder: Path, made_of: dict[str, Any], make: Callable[[Path], None]) -> None:
    """Make a folder of units, whole or not at all; one that is there must be made of the same."""
    if not folder.exists():
        with new_folder(folder) as partial:
            make(partial)
            claim(partial, made_of)
    claim(folder, made_of)


def _manifests(data: Path) -> list[str]:
    """What tells recordings from others."""
    return [digest(data / f"{split}.tsv") for split in SPLITS]


def with_new_labels(checkpoint: Path, out: Path, units: int) -> None:
    """Write a checkpoint of HuBERT's pretraining to begin from, on other units than its own.

    What stands for each unit is drawn anew, as fairseq does; the rest stays.

    Args:
        units: their number.

    Raises:
        UserError: the file cannot be read, or ``out`` not be written.
    """
    state = read(checkpoint)
    width = state["model"][LABEL_EMBEDDINGS].shape[1]
    generator = torch.Generator().manual_seed(_SEED)
    drawn = torch.rand(units + _SPECIAL_SYMBOLS, width, generator=generator)
    model = {**state["model"], LABEL_EMBEDDINGS: drawn}
    write({**state, "model": model, "last_optimizer_state": None}, out)
