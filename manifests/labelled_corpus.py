"""A corpus whose clips have classes in place of transcripts, as it was found on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechprune.errors import UserError
from speechprune.manifests.classes import refuse_unseen
from speechprune.manifests.corpus import Clip, Corpus, Segment
from speechprune.manifests.slots import Slots, check_name, slots_of

_SEPARATOR = "\t"


@dataclass(frozen=True, repr=False)
class ClassLabels:
    """Labels that are classes: the transcripts are lines of `SPLIT.lbl` already."""

    slots: Slots
    units: bool = True

    def __repr__(self) -> str:
        return f"ClassLabels({', '.join(slot.name for slot in self.slots)})"

    def label(self, transcripts: Sequence[str]) -> tuple[list[str], Counter[str]]:
        """The transcripts as they are; nothing is dropped."""
        return list(transcripts), Counter()


def labelled_clip(
    source: str, labels: Sequence[str], speaker: str = "", segment: Segment | None = None
) -> Clip:
    """A clip with a class in each slot.

    Raises UserError for a class, or a speaker, that a line cannot hold.
    """
    for label in labels:
        check_name(label, "a class")
    if speaker:
        check_name(speaker, "a speaker")
    return Clip(source, _SEPARATOR.join(labels), speaker, segment)


def labels_of(text: str) -> tuple[str, ...]:
    """The classes of a clip, or of an utterance made of it."""
    return tuple(text.split(_SEPARATOR))


def labelled_corpus(
    name: str,
    language: str,
    root: Path,
    splits: Mapping[str, Sequence[Clip]],
    slots: Sequence[str],
    *,
    options: Mapping[str, Any],
    shared_speakers: bool = False,
    unread: Sequence[tuple[str, str, str]] = (),
) -> Corpus:
    """A corpus of clips that `labelled_clip` made, or that cannot be used.

    Args:
        slots: their names, in the order of the clips' classes.
        shared_speakers, unread: as in `Corpus`.

    Raises:
        UserError: a slot has a single class, a class is to be recognised that no split to train on
            has, no clip can be used, or as `Corpus`.
    """
    labels = {
        split: [labels_of(clip.transcript) for clip in clips if not clip.problem]
        for split, clips in splits.items()
    }
    bad = [clip for clips in splits.values() for clip in clips if clip.problem]
    if bad and not any(labels.values()):
        raise UserError(f"no row of {name} can be used: {bad[0].name} {bad[0].problem}")
    try:
        found = slots_of(slots, (each for split in labels.values() for each in split))
        refuse_unseen(labels, found)
    except UserError as error:
        raise UserError(f"{root}: {error}") from None
    return Corpus(
        name,
        language,
        root,
        splits,
        ClassLabels(found),
        options=options,
        unread=unread,
        shared_speakers=shared_speakers,
    )
