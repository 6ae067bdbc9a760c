"""Digit strings of which so many minutes are labelled, and of which a speaker is never heard."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from speechprune.manifests.audio import SAMPLE_RATE
from speechprune.manifests.digits import DigitStrings, make_digits
from speechprune.manifests.folders import replacing
from speechprune.manifests.manifest import Split, Utterance, read_split, write_manifest

#: Labelled utterances whose error stands for that of training.
_TRAINED = 100


@dataclass(frozen=True)
class Fold:
    """Data of which a speaker is left out.

    Attributes:
        folder: of manifests: train, valid, trained (some of train), known and unknown.
        speaker: who is only in unknown.
    """

    folder: Path
    speaker: str


def make_whole(out: Path, archive: Path) -> Path:
    """The folder of all strings, made once: half an hour and some to train on."""
    folder = out / "digits"
    sizes = {"train": 1400, "valid": 100, "test": 300}
    make_digits(folder, archive, DigitStrings(sizes), resume=True)
    return folder


def speakers_of(whole: Path) -> list[str]:
    """Who speaks, sorted."""
    return sorted({utterance.speaker for utterance in read_split(whole, "train", "ltr").utterances})


def make_fold(whole: Path, out: Path, speaker: str, minutes: float) -> Fold:
    """A fold with so many minutes to train on; of more minutes, the first are the same.

    Args:
        whole: the folder of all strings.
        out: where folds are.
    """
    folder = out / f"{minutes:g}-minutes-without-{speaker}"
    if not folder.exists():
        splits = [
            _split(whole, "train", "train", lambda each: each.speaker != speaker, minutes),
            _split(whole, "valid", "valid", lambda each: each.speaker != speaker),
            _split(whole, "test", "known", lambda each: each.speaker != speaker),
            _split(whole, "test", "unknown", lambda each: each.speaker == speaker),
        ]
        trained = replace(splits[0], name="trained", utterances=splits[0].utterances[:_TRAINED])
        with replacing(folder) as partial:
            write_manifest(partial, [*splits, trained], {"corpus": "digits", "left out": speaker})
    return Fold(folder, speaker)


def _split(
    whole: Path,
    name: str,
    new_name: str,
    takes: Callable[[Utterance], bool],
    minutes: float = float("inf"),
) -> Split:
    found = read_split(whole, name, "ltr")
    return replace(
        found, name=new_name, utterances=tuple(_first(filter(takes, found.utterances), minutes))
    )


def _first(utterances: Iterable[Utterance], minutes: float) -> list[Utterance]:
    """As many as it takes to last so long."""
    left, found = minutes * 60 * SAMPLE_RATE, []
    for utterance in utterances:
        if left <= 0:
            break
        found.append(utterance)
        left -= utterance.frames
    return found
