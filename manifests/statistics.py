"""What a manifest folder holds, in numbers and as a figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

import numpy as np

from speechprune.errors import UserError
from speechprune.figures import INK, SHADES, new_figure, save_figure
from speechprune.manifests.audio import SAMPLE_RATE
from speechprune.manifests.dictionary import dictionary_name, ranked, read_dictionary
from speechprune.manifests.label_files import CLASSES, LETTERS, SPEAKERS, WORDS, chosen_endings
from speechprune.manifests.rows import split_names
from speechprune.manifests.slots import read_class_counts
from speechprune.manifests.spelling import WORD_END, unspell
from speechprune.manifests.verbatim import Lines, read_verbatim
from speechprune.tables import table

_BINS = 40
_PANEL = (6.0, 1.1)  # inch
_GAP = 0.35  # of a panel's height
#: Rows of the table of symbols; Mandarin has thousands.
_MOST_FREQUENT = 40


@dataclass(frozen=True)
class Statistics:
    """Of one split.

    Attributes:
        seconds: length of each recording at 16 kHz, float64 (utterances,).
        symbols: count of each in the labels, most frequent first, ties by symbol; a class of whole
            utterances is `slot: class`.
        words: in all texts together; None where labels are units and there is no .wrd.
        speakers: distinct; None where they are not known.
    """

    seconds: np.ndarray
    symbols: Mapping[str, int]
    words: int | None
    speakers: int | None

    @classmethod
    def of(
        cls,
        lines: Lines,
        ending: str = LETTERS,
        *,
        letters: bool = False,
        symbols_of: Callable[[str], Sequence[str]] = str.split,
    ) -> Statistics:
        """Count, with the labels of the file with some ending.

        Args:
            letters: the labels are letters, although no word of theirs may end with `WORD_END`.
            symbols_of: the symbols of one line.
        """
        labels = lines.columns[ending]
        symbols = Counter(symbol for label in labels for symbol in symbols_of(label))
        texts = lines.columns.get(WORDS)
        if texts is None and (letters or WORD_END in symbols):
            texts = [unspell(label, letters=True) for label in labels]
        speakers = set(lines.columns.get(SPEAKERS, ())) - {""}
        return cls(
            np.array(lines.frames) / SAMPLE_RATE,
            dict(ranked(symbols)),
            None if texts is None else sum(len(text.split()) for text in texts),
            len(speakers) or None,
        )

    def describe(self) -> dict[str, Any]:
        """As plain values."""
        total = float(self.seconds.sum())
        return {
            "utterances": len(self.seconds),
            "hours": total / 3600,
            "shortest": float(self.seconds.min()),
            "median": float(np.median(self.seconds)),
            "mean": float(self.seconds.mean()),
            "longest": float(self.seconds.max()),
            "distinct_symbols": len(self.symbols),
            "symbols_per_second": sum(self.symbols.values()) / total,
            "words": self.words,
            "speakers": self.speakers,
            "symbols": dict(self.symbols),
        }


def read_statistics(folder: Path, labels: str | None = None) -> dict[str, dict[str, Statistics]]:
    """Statistics of each split that has labels of some kind, by name, for each kind.

    Args:
        labels: ending of the label files; by default, each kind of labels is counted.

    Raises UserError if the folder is malformed, or has no such labels.
    """
    endings = chosen_endings(folder, labels)
    there = {
        ending: [n for n in split_names(folder) if (folder / f"{n}.{ending}").exists()]
        for ending in endings
    }
    for name in split_names(folder):
        if not any(name in names for names in there.values()):
            raise UserError(f"{folder / name}.{endings[0]} is missing; prepare the corpus again")
    return {ending: _of_kind(folder, names, ending) for ending, names in there.items()}


def _of_kind(folder: Path, names: Sequence[str], ending: str) -> dict[str, Statistics]:
    """Statistics of splits with the labels of one kind."""
    dictionary = folder / dictionary_name(ending)
    if ending == CLASSES:
        slots = list(read_class_counts(dictionary))

        def classes_of(line: str) -> list[str]:
            return [f"{slot}: {label}" for slot, label in zip(slots, line.split("\t"))]

        return {
            name: Statistics.of(read_verbatim(folder, name, ending), ending, symbols_of=classes_of)
            for name in names
        }
    letters = dictionary.exists() and WORD_END in read_dictionary(dictionary)[0]
    return {
        name: Statistics.of(read_verbatim(folder, name, ending), ending, letters=letters)
        for name in names
    }


def describe_in_words(splits: Mapping[str, Statistics], *, classes: bool = False) -> str:
    """A table of the splits, and one of the most frequent symbols.

    Args:
        classes: the symbols are classes of whole utterances, and there are no words.
    """
    titles = ["classes", "speakers"] if classes else ["symbols", "symbols/s", "words", "speakers"]
    rows = [
        ["split", "utterances", "hours", "shortest s", "median s", "mean s", "longest s", *titles]
    ]
    for name, statistics in splits.items():
        found = statistics.describe()
        lengths = [f"{found[key]:.2f}" for key in ("shortest", "median", "mean", "longest")]
        counts = {
            "classes": str(found["distinct_symbols"]),
            "symbols": str(found["distinct_symbols"]),
            "symbols/s": f"{found['symbols_per_second']:.2f}",
            **{k: "" if found[k] is None else f"{found[k]:,}" for k in ("words", "speakers")},
        }
        sizes = [f"{found['utterances']:,}", f"{found['hours']:.2f}"]
        rows.append([name, *sizes, *lengths, *(counts[title] for title in titles)])
    return f"{table(rows)}\n\n{_symbol_table(splits, 'class' if classes else 'symbol')}"


def _symbol_table(splits: Mapping[str, Statistics], title: str) -> str:
    total: Counter[str] = Counter()
    for statistics in splits.values():
        total.update(statistics.symbols)
    rows = [[title, *splits, "all"]]
    for symbol, count in ranked(total)[:_MOST_FREQUENT]:
        counts = [f"{statistics.symbols.get(symbol, 0):,}" for statistics in splits.values()]
        rows.append([symbol, *counts, f"{count:,}"])
    left = len(total) - _MOST_FREQUENT
    rarer = "rarer classes" if title == "class" else "rarer symbols"
    return table(rows) + (f"\nand {left:,} {rarer}, which --json lists" if left > 0 else "")


def length_histogram(lengths: Mapping[str, Sequence[float]], path: Union[str, Path]) -> None:
    """Draw the lengths of utterances: a panel for each split, one axis for all.

    Args:
        lengths: seconds of each utterance, by split.
        path: the figure, .png, .pdf or .svg; written atomically.

    Raises UserError as `figures.save_figure` does.
    """
    width, height = _PANEL
    figure, axes = new_figure((width, height * len(lengths)))
    edges = np.linspace(0.0, max(map(np.max, lengths.values())), _BINS + 1)
    step = 1.0 / len(lengths)
    for index, (name, seconds) in enumerate(lengths.items()):
        panel = axes if index == 0 else figure.add_axes((0.0, 0.0, 1.0, 1.0))
        panel.set_position((0.0, 1.0 - (index + 1) * step, 1.0, step * (1.0 - _GAP)))
        panel.hist(seconds, edges.tolist(), color=SHADES[0], rwidth=0.94)
        panel.set_xlim(0.0, edges[-1])
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(length=0, labelsize=9, colors=INK, labelbottom=index + 1 == len(lengths))
        panel.locator_params(axis="y", nbins=3, integer=True)
        title = f"{name}, {len(seconds):,} utterances"
        panel.set_title(title, fontsize=9, color=INK, pad=4, loc="left")
    panel.set_xlabel("seconds", fontsize=9, color=INK)
    save_figure(figure, path)
