"""What a corpus declares: its options, and how it is read or made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Optional, Sequence, Union

from speechprune.errors import UserError
from speechprune.manifests.corpus import Corpus
from speechprune.manifests.forms import AnySplit
from speechprune.manifests.progress import Progress, unwatched
from speechprune.registry import Registry, option


class CorpusReader(ABC):
    """A corpus that was downloaded or recorded.

    A subclass is a frozen dataclass. Its fields, made by `registry.option`, are the options of
    `speechprune prepare NAME`, and its docstring is that command's help.
    """

    @abstractmethod
    def read(self, folder: Path) -> Corpus:
        """Find out who says what in which file of `folder`, without reading any audio.

        Raises:
            UserError: `folder` does not hold the corpus, or a file of it is missing or malformed.
        """


class CorpusMaker(ABC):
    """A corpus whose audio is made. A frozen dataclass of options, as a `CorpusReader` is."""

    @abstractmethod
    def make(
        self,
        folder: Path,
        *,
        dictionary: Optional[Path] = None,
        overwrite: bool = False,
        resume: bool = False,
        progress: Progress = unwatched,
    ) -> Sequence[AnySplit]:
        """Write the manifest folder `folder`, whole or not at all; returns its splits.

        Args:
            dictionary: a file whose symbols, in their order, the labels are to have.
            overwrite: replace a manifest folder that is there.
            resume: accept one that is there and was made with the same options.
            progress: wraps the stream of finished utterances.

        Raises:
            UserError: the options contradict each other, `dictionary` lacks a symbol, or the folder
                cannot be written.
        """


#: Every corpus, by its name with `_` for the `-` of its command.
CORPORA: Registry[Union[CorpusReader, CorpusMaker]] = Registry(
    "corpus", "speechprune.manifests.corpora"
)


#: In a split that is made: more would take longer than anyone waits, and fill any disk.
MOST_UTTERANCES = 1_000_000

WORKERS_HELP = "Processes to use, all cores by default; the result is the same."


def labels_option() -> Any:
    """The option `labels`, a `labels.LabelKind`."""
    return option("Labels to make of the transcripts; phones are those of espeak-ng.", "characters")


#: What is drawn where nothing else is asked for.
SHARES = "train=0.8,valid=0.1,test=0.1"


def shares_option() -> Any:
    """The option `shares`, an `Optional[str]`, of a reader that draws splits."""
    return option(
        f"Splits to draw, and their shares, where the corpus has none; by default {SHARES}.",
        None,
        metavar="SPLIT=SHARE,...",
    )


def by_option() -> Any:
    """The option `by`, an `Optional[drawn_splits.By]`, of a reader that draws splits."""
    return option(
        "What stays in one split where splits are drawn: a speaker, by default where speakers are "
        "known, or an utterance, with all classes in each split.",
        None,
    )


def refuse_to_draw(shares: Optional[str], by: Optional[str], splits: str) -> None:
    """Raise UserError if options ask for drawn splits; ``splits`` says why none are."""
    for flag, value in (("--shares", shares), ("--by", by)):
        if value is not None:
            raise UserError(f"{flag} {value} draws splits, but {splits}; leave it out")


def workers_option() -> Any:
    """The option `workers`, an `Optional[int]`, of a maker that spreads its work."""
    return option(WORKERS_HELP, None, least=1, most=1024)


def size_option(split: str, size: int) -> Any:
    """The size of a split that is made, an `int`."""
    return option(f"Utterances in the {split} split.", size, least=1, most=MOST_UTTERANCES)


def seed_option() -> Any:
    """The option `seed`, an `int`."""
    return option("Seed of everything that is drawn at random.", 1, least=0, most=2**32 - 1)
