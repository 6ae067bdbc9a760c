"""All that is wrong with a manifest folder, counted by kind; `check` stops at the first of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from speechprune.errors import UserError
from speechprune.manifests.audio import SAMPLE_RATE
from speechprune.manifests.class_check import ClassCheck
from speechprune.manifests.dictionary import SPECIAL_SYMBOLS, dictionary_name, read_dictionary
from speechprune.manifests.headers import header_problems
from speechprune.manifests.label_files import (
    CLASSES,
    LETTERS,
    SPEAKERS,
    WORDS,
    chosen_endings,
    named_ending,
)
from speechprune.manifests.lines import read_lines
from speechprune.manifests.provenance import read_provenance, shared_speakers
from speechprune.manifests.rows import Row, audio_key, parse_row, read_raw_rows, split_names
from speechprune.manifests.spelling import WORD_END
from speechprune.tables import table

#: Problems of each kind that are described in full.
EXAMPLES = 3

_TRAIN, _HELD_OUT = "train", ("test", "valid", "dev")


@dataclass(frozen=True)
class SplitRow:
    """What a split holds.

    Attributes:
        hours: of audio, at the sample rate that was asked for.
        longest: recording, in seconds.
        symbols: distinct ones in the labels, in letters if there are several kinds.
        labels: the same for each kind of labels, by the ending of their file.
        errors: problems found in it.
    """

    utterances: int
    hours: float
    longest: float
    symbols: int
    labels: Mapping[str, int]
    errors: int


@dataclass(frozen=True)
class Report:
    """What a folder holds, and what is wrong with it.

    Attributes:
        counts: problems by kind.
        warnings: what may be right, by kind, such as recordings that lack their last moments.
        examples: the first few of each kind, a line each.
    """

    folder: Path
    splits: Mapping[str, SplitRow]
    counts: Mapping[str, int]
    warnings: Mapping[str, int]
    examples: Mapping[str, Sequence[str]]

    @property
    def errors(self) -> int:
        """Problems of all kinds, those of the dictionary included."""
        return sum(self.counts.values())

    def describe(self) -> dict[str, Any]:
        """The same as plain values."""
        problems, warnings = (
            {
                kind: {"count": count, "examples": self.examples[kind]}
                for kind, count in found.items()
            }
            for found in (self.counts, self.warnings)
        )
        splits = {name: asdict(row) for name, row in self.splits.items()}
        return {
            "folder": str(self.folder),
            "errors": self.errors,
            "splits": splits,
            "problems": problems,
            "warnings": warnings,
        }

    def describe_in_words(self) -> str:
        """A table of the splits, then the problems, one a line."""
        endings = list(dict.fromkeys(e for row in self.splits.values() for e in row.labels))
        # Letters alone, as most folders have them, need not be told.
        named = [f"{'classes' if e == CLASSES else 'symbols'} in .{e}" for e in endings]
        titles = ["symbols"] if endings == [LETTERS] else named
        rows = [["split", "utterances", "hours", "longest s", *titles, "errors"]]
        for name, row in self.splits.items():
            sizes = [f"{row.utterances:,}", f"{row.hours:.2f}", f"{row.longest:.2f}"]
            symbols = [str(row.labels.get(ending, "")) for ending in endings]
            rows.append([name, *sizes, *symbols, f"{row.errors:,}"])
        lines = [table(rows)]
        for prefix, found in (("", self.counts), ("warning: ", self.warnings)):
            for kind, count in found.items():
                for number, example in enumerate(self.examples[kind], start=1):
                    lines.append(f"{prefix}{kind}, {number} of {count:,}: {example}")
        return "\n".join(lines)


def check_folder(
    folder: Path,
    *,
    labels: str | None = None,
    dictionary: Path | None = None,
    sample_rate: int = SAMPLE_RATE,
    max_tokens: int | None = None,
) -> Report:
    """Look for problems in all splits of a manifest folder, audio headers included.

    Args:
        labels: ending of the label files; all there are by default.
        dictionary: a file to compare labels with in place of that of the folder.
        sample_rate: what every recording must have, in Hz.
        max_tokens: most samples that fit in a batch.

    Raises:
        UserError: the folder does not exist, holds no split, or none with these labels.
    """
    names = split_names(folder)
    endings = chosen_endings(folder, labels)
    dictionaries = {ending: folder / dictionary_name(ending) for ending in endings}
    if dictionary is not None:
        dictionaries[named_ending(dictionary, endings)] = dictionary
    check = _Check(folder, dictionaries, sample_rate, max_tokens)
    sizes = {name: check.split(name) for name in names}
    check.compare_speakers()
    check.compare_classes()
    splits = {}
    for name, (frames, found) in sizes.items():
        seconds, longest = sum(frames) / sample_rate, max(frames, default=0) / sample_rate
        errors = check.by_split[name]
        symbols = next(iter(found.values()), 0)
        splits[name] = SplitRow(len(frames), seconds / 3600, longest, symbols, found, errors)
    return Report(folder, splits, check.counts, check.warnings, check.examples)


class _Check:
    """Goes through the splits and collects problems.

    Args:
        dictionaries: of each kind of labels, by the ending of their files.

    Attributes:
        counts, warnings, examples: as a report has them.
        by_split: number of problems.
    """

    def __init__(
        self,
        folder: Path,
        dictionaries: Mapping[str, Path],
        sample_rate: int,
        max_tokens: int | None,
    ) -> None:
        self.folder, self.sample_rate, self.max_tokens = folder, sample_rate, max_tokens
        self.counts: Counter[str] = Counter()
        self.warnings: Counter[str] = Counter()
        self.by_split: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}
        self._recordings: dict[str, str] = {}
        self._speakers: dict[str, set[str]] = {}
        self._dictionaries = dictionaries
        self._known = {
            ending: self._dictionary(path)
            for ending, path in dictionaries.items()
            if ending != CLASSES
        }
        self._classes = None
        if CLASSES in dictionaries:
            self._classes = ClassCheck(folder, dictionaries[CLASSES], self.add, self.warn)
        self._shared = self._shared_speakers()

    def split(self, name: str) -> tuple[list[int], dict[str, int]]:
        """Check a split; returns the samples of each recording, and the number of symbols of each
        kind of labels."""
        try:
            root, lines = read_raw_rows(self.folder / f"{name}.tsv")
        except UserError as error:
            self.add(name, "manifest", str(error))
            return [], dict.fromkeys(self._endings(name), 0)
        rows = []
        for number, line in enumerate(lines, start=2):
            row = parse_row(line)
            if row is None:
                where = f"{self.folder / name}.tsv line {number}"
                self.add(name, "row", f"{where}: expected `path<TAB>samples`, got {line!r}")
            else:
                rows.append(row)
        self._paths(name, root, rows)
        self._speakers[name] = set(self._column(name, SPEAKERS, len(lines))) - {""}
        endings = self._endings(name)
        columns = {e: self._column(name, e, len(lines), required=True) for e in endings}
        words = columns.get(WORDS) or self._column(name, WORDS, len(lines))
        symbols = {
            ending: self._classes.split(name, columns[ending])
            if self._classes and ending == CLASSES
            else self._labels(name, ending, columns[ending], words)
            for ending in endings
        }
        self._headers(name, root, rows)
        return [frames for _, frames in rows], symbols

    def compare_speakers(self) -> None:
        """Once all splits are checked: who is trained on is not tested on, unless that is meant."""
        train = {
            speaker: name
            for name in sorted(self._speakers, reverse=True)
            if name.startswith(_TRAIN)
            for speaker in self._speakers[name]
        }
        for name in sorted(self._speakers):
            if name.startswith(_HELD_OUT):
                for speaker in sorted(self._speakers[name] & train.keys() - self._shared):
                    where = f"in {train[speaker]} and in {name}"
                    self.add(name, "shared speaker", f"{speaker!r} speaks {where}")

    def compare_classes(self) -> None:
        """Once all splits are checked: what is tested is trained on."""
        if self._classes:
            self._classes.compare()

    def add(self, split: str, kind: str, message: str) -> None:
        """Note a problem of a split, "" for the whole folder."""
        self.counts[kind] += 1
        self.by_split[split] += 1
        self._example(kind, message)

    def warn(self, kind: str, message: str) -> None:
        """Note what may be right."""
        self.warnings[kind] += 1
        self._example(kind, message)

    def _example(self, kind: str, message: str) -> None:
        examples = self.examples.setdefault(kind, [])
        if len(examples) < EXAMPLES:
            examples.append(message)

    def _endings(self, split: str) -> list[str]:
        """Of the labels of a split, which need not have all kinds; the first where it has none."""
        there = [e for e in self._dictionaries if (self.folder / f"{split}.{e}").exists()]
        return there or list(self._dictionaries)[:1]

    def _dictionary(self, path: Path) -> dict[str, int] | None:
        try:
            return read_dictionary(path)[0]
        except UserError as error:
            self.add("", "dictionary", str(error))
            return None

    def _shared_speakers(self) -> set[str]:
        try:
            return set(shared_speakers(read_provenance(self.folder)))
        except UserError as error:
            self.add("", "provenance", str(error))
            return set()

    def _paths(self, name: str, root: str, rows: Sequence[Row]) -> None:
        """Look for recordings that are there twice, or are too long."""
        for path, frames in rows:
            key = audio_key(root, path)
            before = self._recordings.setdefault(key, name)
            # Sets to train on may contain one another, as Libri-light's do.
            if before != name and not (before.startswith(_TRAIN) and name.startswith(_TRAIN)):
                self.add(name, "shared recording", f"{key} is in {before} and in {name}")
            if self.max_tokens is not None and frames > self.max_tokens:
                message = f"{key} has {frames} samples, more than --max-tokens {self.max_tokens}"
                self.add(name, "too long", message)
        repeated = Counter(audio_key(root, path) for path, _ in rows)
        for key, times in repeated.items():
            if times > 1:
                self.add(name, "repeated path", f"{key} is {times} times in {name}.tsv")

    def _column(self, name: str, ending: str, count: int, *, required: bool = False) -> list[str]:
        """The lines of a file that should have `count`; none if it has another number or is not
        there."""
        path = self.folder / f"{name}.{ending}"
        if not required and not path.exists():
            return []
        try:
            lines = read_lines(path)
        except UserError as error:
            self.add(name, "manifest", str(error))
            return []
        if len(lines) != count:
            message = f"{path} has {len(lines)} lines for {count} recordings in {name}.tsv"
            self.add(name, "line count", message)
            return []
        return lines

    def _labels(self, name: str, ending: str, labels: Sequence[str], words: Sequence[str]) -> int:
        """Check labels of one kind against words and dictionary; returns the number of symbols."""
        path, known = self.folder / f"{name}.{ending}", self._known[ending]
        symbols: Counter[str] = Counter()
        first: dict[str, int] = {}
        for number, label in enumerate(labels, start=1):
            found = label.split()
            if set(found) <= {WORD_END}:
                self.add(name, "empty label", f"{path} line {number}")
            for symbol in set(found) - symbols.keys():
                first[symbol] = number
            symbols.update(found)
        if WORD_END in symbols or WORD_END in (known or ()):
            self._compare_words(name, labels, words)
        if known is not None:
            for symbol in sorted(symbols.keys() - known.keys() - set(SPECIAL_SYMBOLS)):
                where = f"{path} line {first[symbol]}"
                lacking = f"{symbol!r} is not in {self._dictionaries[ending].name}"
                message = f"{lacking}: {symbols[symbol]} times, first in"
                self.add(name, "unknown symbol", f"{message} {where}")
        return len(symbols)

    def _compare_words(self, name: str, labels: Sequence[str], words: Sequence[str]) -> None:
        for number, (label, text) in enumerate(zip(labels, words), start=1):
            read = "".join(label.split()).replace(WORD_END, " ").split()
            if read != text.split():
                message = f"{text!r}, but the letters say {' '.join(read)!r}"
                self.add(name, "words", f"{self.folder / name}.wrd line {number}: {message}")

    def _headers(self, name: str, root: str, rows: Sequence[Row]) -> None:
        if not Path(root).is_dir():
            message = f"{self.folder / name}.tsv line 1: no folder {root!r}"
            self.add(name, "audio folder", message)
            return
        for problem in header_problems(Path(root), rows, self.sample_rate, name, samples=True):
            if problem.warning:
                self.warn(problem.kind, problem.message)
            else:
                self.add(name, problem.kind, problem.message)
