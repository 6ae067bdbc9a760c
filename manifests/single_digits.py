"""Single spoken digits with classes: which digit, which speaker, or both."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from speechprune.errors import UserError
from speechprune.manifests.audio import SAMPLE_RATE, resample, write_flac
from speechprune.manifests.classes import (
    LabelledSplit,
    LabelledUtterance,
    write_labelled_manifest,
)
from speechprune.manifests.digit_recordings import (
    Recording,
    finished_of,
    read_recordings,
    recordings_digest,
)
from speechprune.manifests.digits import WORDS, keep_recordings
from speechprune.manifests.folders import replacing
from speechprune.manifests.making import SPLITS, check_seed, check_sizes
from speechprune.manifests.manifest import AUDIO
from speechprune.manifests.progress import Progress, unwatched
from speechprune.manifests.provenance import ARCHIVE_DIGEST, SHARED_SPEAKERS
from speechprune.manifests.slots import classes_digest, slots_of

#: The slots of each task, in the order of the columns.
TASKS = {"keyword": ("digit",), "speaker": ("speaker",), "intent": ("digit", "speaker")}


@dataclass(frozen=True)
class SingleDigits:
    """Settings of a corpus of single digits.

    Attributes:
        task: one of `TASKS`.
        sizes: utterances per split, None for every recording that the split may use.
        seed: which recordings, where not all are used.
    """

    task: str
    sizes: Mapping[str, int | None] = field(default_factory=lambda: dict.fromkeys(SPLITS))
    seed: int = 1

    def __post_init__(self) -> None:
        check_sizes({name: 1 if size is None else size for name, size in self.sizes.items()})
        check_seed(self.seed)


def make_single_digits(
    folder: Path,
    archive: Path,
    settings: SingleDigits,
    *,
    dictionary: Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress = unwatched,
) -> None:
    """Write each recording, at 16 kHz, as an utterance of the manifest folder `folder`.

    A recording is in the split that it has in strings of digits, too. Of a split that does not use
    all of them, classes are balanced.

    Args:
        archive: the recordings, an archive or a folder.
        dictionary: a dictionary of classes to copy.
        resume, progress: as in `digits.make_digits`.

    Raises:
        UserError: there are fewer recordings than asked, one is there twice, or as
            `read_recordings`, `write_labelled_manifest` and `folders.replacing`.
    """
    provenance: dict[str, Any] = {
        "corpus": "Free Spoken Digit Dataset",
        "language": "en",
        "archive": os.path.basename(os.path.abspath(archive)),
        "settings": asdict(settings),
        "dictionary": classes_digest(dictionary),
    }
    if resume and finished_of(folder, provenance, archive):
        return
    keep_recordings(archive, folder)
    provenance[ARCHIVE_DIGEST] = recordings_digest(archive)
    recordings, rate = read_recordings(archive)
    _refuse_repeated(archive, recordings)
    chosen = {
        name: _draw([r for r in recordings if r.split == name], name, size, settings.seed)
        for name, size in settings.sizes.items()
    }
    with replacing(folder, overwrite) as partial:
        stream = _utterances(chosen, settings.task, rate, partial / AUDIO)
        found = list(progress(stream, sum(map(len, chosen.values()))))
        slots = slots_of(TASKS[settings.task], (utterance.labels for utterance in found))
        root = Path(os.path.realpath(folder)) / AUDIO
        splits = [
            LabelledSplit(
                name, root, slots, tuple(u for u in found if u.path.startswith(f"{name}/"))
            )
            for name in settings.sizes
        ]
        # By design: the data set tests on the speakers that it trains on.
        provenance[SHARED_SPEAKERS] = sorted({utterance.speaker for utterance in found})
        write_labelled_manifest(partial, splits, provenance, dictionary=dictionary)


def _refuse_repeated(archive: Path, recordings: Sequence[Recording]) -> None:
    names = Counter(map(_name, recordings))
    for name, count in names.items():
        if count > 1:
            raise UserError(f"{archive} holds {count} recordings called {name}; keep one of them")


def _name(recording: Recording) -> str:
    return f"{recording.digit}_{recording.speaker}_{recording.index}"


def _draw(recordings: list[Recording], split: str, size: int | None, seed: int) -> list[Recording]:
    """Some of the recordings of a split, digits and speakers balanced; sorted."""
    if not recordings:
        raise UserError(f"the archive has no recordings for the {split} split")
    if size is None:
        return recordings
    if size > len(recordings):
        raise UserError(
            f"--{split} {size}: the archive has {len(recordings)} recordings for that split; ask "
            "for no more"
        )
    random = np.random.default_rng((seed, SPLITS.index(split)))
    order = [recordings[i] for i in random.permutation(len(recordings))]
    digits, speakers = (
        [sorted(found)[i] for i in random.permutation(len(found))]
        for found in ({r.digit for r in recordings}, {r.speaker for r in recordings})
    )
    ranks: Counter[tuple[int, str]] = Counter()

    def turn(recording: Recording) -> tuple[int, int, int]:
        """Of each digit and speaker one, then the next; speakers shift from digit to digit, so that
        each ten in a row have every digit, and every speaker as often."""
        cell = recording.digit, recording.speaker
        ranks[cell] += 1
        place = digits.index(recording.digit)
        shift = (speakers.index(recording.speaker) - place) % len(speakers)
        return ranks[cell], shift, place

    chosen = sorted(order, key=turn)[:size]
    return sorted(chosen, key=lambda r: (r.digit, r.speaker, r.index))


def _utterances(
    chosen: Mapping[str, Sequence[Recording]], task: str, rate: int, folder: Path
) -> Iterator[LabelledUtterance]:
    for split, recordings in chosen.items():
        for recording in recordings:
            classes = {"digit": WORDS[recording.digit], "speaker": recording.speaker}
            path = f"{split}/{_name(recording)}.flac"
            frames = write_flac(folder / path, resample(recording.samples, rate, SAMPLE_RATE))
            labels = tuple(classes[slot] for slot in TASKS[task])
            yield LabelledUtterance(path, frames, labels, recording.speaker)
