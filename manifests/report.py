"""All that is wrong with a manifest folder, counted by kind; `check` stops at the first of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from speechprune.errors import UserError
from speechprune.manifests.audio import SAMPLE_RATE
from speechprune.manifests.dictionary import DICTIONARY, SPECIAL_SYMBOLS, read_dictionary
from speechprune.manifests.headers import header_problems
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
        symbols: distinct ones in the labels.
        errors: problems found in it.
    """

    utterances: int
    hours: float
    longest: float
    symbols: int
    errors: int


@dataclass(frozen=True)
class Report:
    """What a folder holds, and what is wrong with it.

    Attributes:
        counts: problems by kind.
        examples: the first few of each kind, a line each.
    """

    folder: Path
    splits: Mapping[str, SplitRow]
    counts: Mapping[str, int]
    examples: Mapping[str, Sequence[str]]

    @property
    def errors(self) -> int:
        """Problems of all kinds, those of the dictionary included."""
        return sum(self.counts.values())

    def describe(self) -> dict[str, Any]:
        """The same as plain values."""
        problems = {
            kind: {"count": count, "examples": list(self.examples[kind])}
            for kind, count in self.counts.items()
        }
        splits = {name: asdict(row) for name, row in self.splits.items()}
        return {
            "folder": str(self.folder),
            "errors": self.errors,
            "splits": splits,
            "problems": problems,
        }

    def describe_in_words(self) -> str:
        """A table of the splits, then the problems, one a line."""
        rows = [["split", "utterances", "hours", "longest s", "symbols", "errors"]]
        for name, row in self.splits.items():
            sizes = [f"{row.utterances:,}", f"{row.hours:.2f}", f"{row.longest:.2f}"]
            rows.append([name, *sizes, str(row.symbols), f"{row.errors:,}"])
        lines = [table(rows)]
        for kind, count in self.counts.items():
            for number, example in enumerate(self.examples[kind], start=1):
                lines.append(f"{kind}, {number} of {count:,}: {example}")
        return "\n".join(lines)


def check_folder(
    folder: Path, *, sample_rate: int = SAMPLE_RATE, max_tokens: int | None = None
) -> Report:
    """Look for problems in all splits of a manifest folder, audio headers included.

    Args:
        sample_rate: what every recording must have, in Hz.
        max_tokens: most samples that fit in a batch.

    Raises:
        UserError: the folder does not exist, or holds no split.
    """
    names = split_names(folder)
    check = _Check(folder, sample_rate, max_tokens)
    sizes = {name: check.split(name) for name in names}
    check.compare_speakers()
    splits = {}
    for name, (frames, symbols) in sizes.items():
        seconds, longest = sum(frames) / sample_rate, max(frames, default=0) / sample_rate
        errors = check.by_split[name]
        splits[name] = SplitRow(len(frames), seconds / 3600, longest, symbols, errors)
    return Report(folder, splits, check.counts, check.examples)


class _Check:
    """Goes through the splits and collects problems.

    Attributes:
        counts, examples: as a report has them.
        by_split: number of problems.
    """

    def __init__(self, folder: Path, sample_rate: int, max_tokens: int | None) -> None:
        self.folder, self.sample_rate, self.max_tokens = folder, sample_rate, max_tokens
        self.counts: Counter[str] = Counter()
        self.by_split: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}
        self._recordings: dict[str, str] = {}
        self._speakers: dict[str, set[str]] = {}
        self._known = self._dictionary()
        self._shared = self._shared_speakers()

    def split(self, name: str) -> tuple[list[int], int]:
        """Check a split; returns the samples of each recording and the number of symbols."""
        try:
            root, lines = read_raw_rows(self.folder / f"{name}.tsv")
        except UserError as error:
            self._add(name, "manifest", str(error))
            return [], 0
        rows = []
        for number, line in enumerate(lines, start=2):
            row = parse_row(line)
            if row is None:
                where = f"{self.folder / name}.tsv line {number}"
                self._add(name, "row", f"{where}: expected `path<TAB>samples`, got {line!r}")
            else:
                rows.append(row)
        self._paths(name, root, rows)
        symbols = self._labels(name, len(lines))
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
                    self._add(name, "shared speaker", f"{speaker!r} speaks {where}")

    def _add(self, split: str, kind: str, message: str) -> None:
        self.counts[kind] += 1
        self.by_split[split] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < EXAMPLES:
            examples.append(message)

    def _dictionary(self) -> dict[str, int] | None:
        try:
            return read_dictionary(self.folder / DICTIONARY)[0]
        except UserError as error:
            self._add("", "dictionary", str(error))
            return None

    def _shared_speakers(self) -> set[str]:
        try:
            return set(shared_speakers(read_provenance(self.folder)))
        except UserError as error:
            self._add("", "provenance", str(error))
            return set()

    def _paths(self, name: str, root: str, rows: Sequence[Row]) -> None:
        """Look for recordings that are there twice, or are too long."""
        for path, frames in rows:
            key = audio_key(root, path)
            before = self._recordings.setdefault(key, name)
            # Sets to train on may contain one another, as Libri-light's do.
            if before != name and not (before.startswith(_TRAIN) and name.startswith(_TRAIN)):
                self._add(name, "shared recording", f"{key} is in {before} and in {name}")
            if self.max_tokens is not None and frames > self.max_tokens:
                message = f"{key} has {frames} samples, more than --max-tokens {self.max_tokens}"
                self._add(name, "too long", message)
        repeated = Counter(audio_key(root, path) for path, _ in rows)
        for key, times in repeated.items():
            if times > 1:
                self._add(name, "repeated path", f"{key} is {times} times in {name}.tsv")

    def _column(self, name: str, ending: str, count: int) -> list[str]:
        """The lines of a file that should have `count`; an empty list if it has another number."""
        path = self.folder / f"{name}.{ending}"
        if ending != "ltr" and not path.exists():
            return []
        try:
            lines = read_lines(path)
        except UserError as error:
            self._add(name, "manifest", str(error))
            return []
        if len(lines) != count:
            message = f"{path} has {len(lines)} lines for {count} recordings in {name}.tsv"
            self._add(name, "line count", message)
            return []
        return lines

    def _labels(self, name: str, count: int) -> int:
        """Check labels, words and speakers; returns the number of distinct symbols."""
        labels = self._column(name, "ltr", count)
        words = self._column(name, "wrd", count)
        self._speakers[name] = set(self._column(name, "spk", count)) - {""}
        symbols: Counter[str] = Counter()
        first: dict[str, int] = {}
        for number, label in enumerate(labels, start=1):
            found = label.split()
            if set(found) <= {WORD_END}:
                self._add(name, "empty label", f"{self.folder / name}.ltr line {number}")
            for symbol in set(found) - symbols.keys():
                first[symbol] = number
            symbols.update(found)
        self._compare_words(name, labels, words, spelt=WORD_END in symbols)
        if self._known is not None:
            for symbol in sorted(symbols.keys() - self._known.keys() - set(SPECIAL_SYMBOLS)):
                where = f"{self.folder / name}.ltr line {first[symbol]}"
                message = f"{symbol!r} is not in {DICTIONARY}: {symbols[symbol]} times, first in"
                self._add(name, "unknown symbol", f"{message} {where}")
        return len(symbols)

    def _compare_words(
        self, name: str, labels: Sequence[str], words: Sequence[str], *, spelt: bool
    ) -> None:
        if not spelt:
            return
        for number, (label, text) in enumerate(zip(labels, words), start=1):
            read = "".join(label.split()).replace(WORD_END, " ").split()
            if read != text.split():
                message = f"{text!r}, but the letters say {' '.join(read)!r}"
                self._add(name, "words", f"{self.folder / name}.wrd line {number}: {message}")

    def _headers(self, name: str, root: str, rows: Sequence[Row]) -> None:
        if not Path(root).is_dir():
            message = f"{self.folder / name}.tsv line 1: no folder {root!r}"
            self._add(name, "audio folder", message)
            return
        for kind, message in header_problems(Path(root), rows, self.sample_rate, name, ends=True):
            self._add(name, kind, message)
