"""Manifest folders whose utterances have classes, one in each slot: keywords, speakers, intents.

Beside `SPLIT.tsv`, and `SPLIT.spk` where speakers are known, a folder holds for each SPLIT
`SPLIT.lbl`: a line for each utterance, a column for each slot, parted by tabs. Classes are free
text, which `dict.lbl.txt` lists; see `slots`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from speechprune.errors import UserError
from speechprune.manifests.audio import SAMPLE_RATE
from speechprune.manifests.label_files import CLASSES, SPEAKERS
from speechprune.manifests.lines import write_lines
from speechprune.manifests.manifest import check_audio
from speechprune.manifests.provenance import write_provenance
from speechprune.manifests.rows import described_size
from speechprune.manifests.slots import (
    CLASS_DICTIONARY,
    Slot,
    Slots,
    copy_class_dictionary,
    count_classes,
    read_slots,
    write_class_counts,
)
from speechprune.manifests.verbatim import read_verbatim

_TRAIN = "train"
_TOLD = 20  # classes that a refusal names


class LabelledUtterance(NamedTuple):
    """One recording.

    Attributes:
        path: relative to the audio's root.
        frames: length in samples.
        labels: its class in each slot.
        speaker: whoever speaks; "" where that is not known.
    """

    path: str
    frames: int
    labels: tuple[str, ...]
    speaker: str = ""


@dataclass(frozen=True)
class LabelledSplit:
    """The utterances of one split, in file order, and the folder that their paths start from."""

    name: str
    root: Path
    slots: Slots
    utterances: tuple[LabelledUtterance, ...]

    @property
    def seconds(self) -> float:
        """Length of the audio at `SAMPLE_RATE`."""
        return sum(u.frames for u in self.utterances) / SAMPLE_RATE


def read_labelled_split(folder: Path, name: str, slots: Slots | None = None) -> LabelledSplit:
    """Read split `name` of a manifest folder, with the classes in `name.lbl`.

    Args:
        slots: those of a model, which must know every class; by default the folder's.

    Raises:
        UserError: a file is missing or malformed, line counts differ, or a line has another number
            of columns than there are slots, nothing in one, or a class that its slot lacks.
    """
    slots = read_slots(folder) if slots is None else slots
    lines = read_verbatim(folder, name, CLASSES, (SPEAKERS,))
    known = {line: label_problem(line, slots) for line in set(lines.columns[CLASSES])}
    labels = []
    for number, line in enumerate(lines.columns[CLASSES], start=1):
        if known[line]:
            raise UserError(f"{folder / name}.{CLASSES} line {number}: {known[line]}")
        labels.append(tuple(line.split("\t")))
    speakers = lines.columns.get(SPEAKERS, [""] * len(lines))
    utterances = map(LabelledUtterance, lines.paths, lines.frames, labels, speakers)
    return LabelledSplit(name, Path(lines.root), slots, tuple(utterances))


def label_problem(line: str, slots: Slots) -> str:
    """What is wrong with a line of `SPLIT.lbl`; "" if nothing is."""
    labels = line.split("\t")
    if len(labels) != len(slots):
        names = ", ".join(slot.name for slot in slots)
        return f"has {len(labels)} column(s) for {len(slots)} slot(s), {names}"
    for label, slot in zip(labels, slots):
        if label not in slot.classes:
            return _unknown(label, slot)
    return ""


def _unknown(label: str, slot: Slot) -> str:
    if not label.strip():
        return f"has no class in slot {slot.name!r}"
    nearest = get_close_matches(label, slot.classes, n=1)
    rest = f" and {len(slot.classes) - _TOLD} more" if len(slot.classes) > _TOLD else ""
    known = f"training knows {', '.join(slot.classes[:_TOLD])}{rest}"
    hint = f"did you mean {nearest[0]!r}?" if nearest else known
    return f"unknown class {label!r} of slot {slot.name!r}; {hint}"


def write_labelled_manifest(
    folder: Path,
    splits: Sequence[LabelledSplit],
    provenance: Mapping[str, Any],
    *,
    dictionary: Path | None = None,
) -> None:
    """Write the text files of a manifest folder, as `manifest.write_manifest` does for texts.

    Utterances are sorted by path. Call it within `folders.replacing`, which makes the whole folder
    appear at once.

    Args:
        splits: at least one, all of the same slots; their roots need not exist yet.
        provenance: what `provenance.json` says about the corpus, beside counts and hours.
        dictionary: a file to copy; by default the slots of the splits are listed.

    Raises:
        UserError: a path leaves its root, an utterance has no samples, slots differ between splits,
            a label is not in its slot, `dictionary` has other slots or lacks a class, or a class
            is to be recognised that no split to train on has.
    """
    slots = splits[0].slots
    for split in splits:
        _check_labels(split, slots)
    refuse_unseen({split.name: [u.labels for u in split.utterances] for split in splits}, slots)
    for split in splits:
        _write_split(folder, split)
    counts = count_classes(slots, (u.labels for split in splits for u in split.utterances))
    if dictionary is None:
        write_class_counts(folder / CLASS_DICTIONARY, counts)
    else:
        needed = {slot: [c for c, times in each.items() if times] for slot, each in counts.items()}
        copy_class_dictionary(dictionary, folder / CLASS_DICTIONARY, needed)
    sizes = {split.name: described_size([u.frames for u in split.utterances]) for split in splits}
    write_provenance(folder, {**provenance, "splits": sizes})


def _check_labels(split: LabelledSplit, slots: Slots) -> None:
    names, expected = ([slot.name for slot in each] for each in (split.slots, slots))
    if names != expected:
        raise UserError(
            f"split {split.name} has the slots {', '.join(names)}, another {', '.join(expected)}; "
            "give all splits the same"
        )
    known: dict[tuple[str, ...], str] = {}
    for utterance in split.utterances:
        check_audio(utterance.path, utterance.frames)
        if utterance.labels not in known:
            known[utterance.labels] = label_problem("\t".join(utterance.labels), slots)
        if known[utterance.labels]:
            raise UserError(f"utterance {utterance.path} {known[utterance.labels]}")


def _write_split(folder: Path, split: LabelledSplit) -> None:
    utterances = sorted(split.utterances)
    rows = (f"{u.path}\t{u.frames}" for u in utterances)
    write_lines(folder / f"{split.name}.tsv", chain([str(split.root)], rows))
    write_lines(folder / f"{split.name}.{CLASSES}", ("\t".join(u.labels) for u in utterances))
    if any(u.speaker for u in utterances):
        write_lines(folder / f"{split.name}.{SPEAKERS}", (u.speaker for u in utterances))


def is_for_training(split: str) -> bool:
    """Whether a split is to be trained on, as its name says."""
    return split.startswith(_TRAIN)


def unseen(
    splits: Mapping[str, Iterable[Sequence[str]]], slots: Slots
) -> Iterator[tuple[str, str]]:
    """Classes of some split that no split to train on has: (slot, class), in order.

    There are none if no split is to train on.

    Args:
        splits: the labels of the utterances by split.
    """
    seen: list[set[str]] = [set() for _ in slots]
    held_out: list[set[str]] = [set() for _ in slots]
    for name, labels in splits.items():
        found = seen if is_for_training(name) else held_out
        for each in set(map(tuple, labels)):
            for classes, label in zip(found, each):
                classes.add(label)
    if any(seen):
        for slot, trained, tested in zip(slots, seen, held_out):
            yield from ((slot.name, label) for label in sorted(tested - trained))


def refuse_unseen(splits: Mapping[str, Iterable[Sequence[str]]], slots: Slots) -> None:
    """Raise UserError if a class is to be recognised that no split to train on has."""
    missing = list(unseen(splits, slots))
    if missing:
        slot, label = missing[0]
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"no utterance to train on has the class {label!r} of slot {slot!r}{more}, which "
            "another split has; add some, or leave the class out"
        )
