"""GLUE's tables become the folder that fairseq's task `sentence_prediction` reads.

`input0`, and `input1` of pairs, each with `dict.txt` and `SPLIT.bin`; `label` with the classes in
`dict.txt` and `SPLIT.bin`, or with scores in `SPLIT.label`. The folder appears whole or not at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from speechprune.errors import UserError
from speechprune.manifests.dictionary import symbols_digest, write_dictionary
from speechprune.manifests.folders import replacing
from speechprune.manifests.glue.binarising import binarise, load_dictionary
from speechprune.manifests.glue.folder import CORPUS, described_task
from speechprune.manifests.glue.tables import TextCorpus, TextSplit, read_corpus, task_folder
from speechprune.manifests.glue.vocabulary import BytePairs, Tokens, Words, learn_dictionary
from speechprune.manifests.lines import read_lines, write_lines
from speechprune.manifests.processes import chunked, spread
from speechprune.manifests.progress import Progress, unwatched
from speechprune.manifests.provenance import finished, write_provenance

#: Sentences that a worker handles at a time.
_CHUNK = 512
#: The largest share of the training set's tokens that a dictionary may lack.
_MOST_UNKNOWN = 0.5


@dataclass(frozen=True)
class TextSettings:
    """What a prepared folder depends on, beside the tables.

    Attributes:
        task: its name.
        bpe: folder of GPT-2's byte pairs, with their dictionary; None for words.
        dictionary: file with the dictionary of a model; None for one learned of the training set.
        min_count: how often the training set has a word of a learned dictionary.
        classes: the task's, in the order of a model's outputs; None for the usual order.
        scale: what scores are divided by; None for the task's own.
    """

    task: str
    bpe: Path | None = None
    dictionary: Path | None = None
    min_count: int = 2
    classes: tuple[str, ...] | None = None
    scale: float | None = None

    def __post_init__(self) -> None:
        if self.bpe is not None and self.dictionary is not None:
            raise UserError(
                "--bpe brings the dictionary of its folder, and --dictionary is for words; choose "
                "one"
            )

    @property
    def tokens(self) -> Tokens:
        """How sentences become tokens."""
        return Words() if self.bpe is None else BytePairs(self.bpe.absolute())

    @property
    def dictionary_file(self) -> Path | None:
        """The dictionary to take; None if it is to be learned."""
        return self.dictionary if self.bpe is None else self.bpe / "dict.txt"


@dataclass(frozen=True)
class SplitSize:
    """How large a split is.

    Attributes:
        examples: sentences or pairs.
        labelled: whether their classes or scores are known.
        tokens: of all inputs, with the ends of sentences.
        unknown: those among them that the dictionary lacks.
        longest: tokens of the longest example, with `<s>` and `</s>` around each sentence.
    """

    name: str
    examples: int
    labelled: bool
    tokens: int
    unknown: int
    longest: int


@dataclass(frozen=True)
class PreparedText:
    """What was prepared.

    Attributes:
        vocabulary: what tokens are, `words` or `gpt2`.
        symbols: number of the dictionary, without those that fairseq adds.
        left_out: (split, line of its table, reason) of rows that were left out, in order.
    """

    vocabulary: str
    symbols: int
    splits: tuple[SplitSize, ...]
    left_out: tuple[tuple[str, int, str], ...]


def prepare_text(
    source: Path,
    folder: Path,
    settings: TextSettings,
    *,
    workers: int | None = None,
    max_bad: float = 0.01,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = unwatched,
) -> PreparedText:
    """Write the folder `folder` of a task of GLUE, or of one in its layout.

    The result is the same for any number of `workers` (all cores by default), and each file the
    one that `fairseq-preprocess` makes of the same tokens, classes and dictionary.

    Args:
        source: the folder of the task's tables, or the one that it lies in.
        max_bad: largest share of rows that may be left out.
        resume: leave a finished folder of the same settings as it is, instead of refusing.
        overwrite: replace a finished folder.
        progress: wraps the stream of sentences that have become tokens.

    Raises:
        UserError: the tables cannot be used (as `tables.read_corpus`) or too many of their rows,
            files of `bpe` or the dictionary are missing or belong to something else, or as
            `folders.replacing`.
    """
    if resume and overwrite:
        raise UserError("--resume keeps what is there and --overwrite replaces it; choose one")
    if isinstance(settings.tokens, BytePairs):
        settings.tokens.check()
    corpus = _read(source, settings)
    described = _described(corpus, settings)
    if resume and (there := finished(folder, described)) is not None:
        return _as_prepared(there)
    _keep_tables(task_folder(source, settings.task), folder)
    left_out = _refuse_too_many(corpus, max_bad)
    with replacing(folder, overwrite) as partial:
        writer = _Writer(corpus, settings, partial, workers, progress)
        sizes, symbols = writer.write()
        prepared = PreparedText(settings.tokens.name, symbols, sizes, left_out)
        write_provenance(partial, {**described, **_described_result(prepared, partial)})
    return prepared


def _read(source: Path, settings: TextSettings) -> TextCorpus:
    corpus = read_corpus(source, settings.task)
    task = corpus.task
    if settings.classes is not None:
        task = task.with_classes(settings.classes)
    if settings.scale is not None:
        task = task.with_scale(settings.scale)
    return TextCorpus(task, corpus.splits, corpus.digest)


def _described(corpus: TextCorpus, settings: TextSettings) -> dict[str, Any]:
    """What the provenance says about what a folder was made of."""
    learned = settings.dictionary_file is None
    return {
        "corpus": CORPUS,
        "task": described_task(corpus.task),
        "tables_sha256": corpus.digest,
        "tokens": settings.tokens.name,
        "given_dictionary": symbols_digest(settings.dictionary_file),
        "min_count": settings.min_count if learned else None,
    }


def _described_result(prepared: PreparedText, folder: Path) -> dict[str, Any]:
    """What the provenance says about what was prepared; see `_as_prepared`."""
    return {
        "dictionary": symbols_digest(folder / "input0" / "dict.txt"),
        "symbols": prepared.symbols,
        "splits": [asdict(size) for size in prepared.splits],
        "left_out": [list(row) for row in prepared.left_out],
    }


def _as_prepared(provenance: dict[str, Any]) -> PreparedText:
    """What was prepared in a finished folder."""
    return PreparedText(
        provenance["tokens"],
        provenance["symbols"],
        tuple(SplitSize(**size) for size in provenance["splits"]),
        tuple((split, line, reason) for split, line, reason in provenance["left_out"]),
    )


def _keep_tables(tables: Path, folder: Path) -> None:
    """Refuse to replace a folder in which the tables lie."""
    if tables.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{tables} lies in {folder}; choose another folder for --out")


def _refuse_too_many(corpus: TextCorpus, max_bad: float) -> tuple[tuple[str, int, str], ...]:
    """The rows that are left out; raises UserError if those are too many."""
    left_out = tuple(
        (split.name, line, reason) for split in corpus.splits for line, reason in split.left_out
    )
    total = sum(map(len, corpus.splits)) + len(left_out)
    if len(left_out) > max_bad * total:
        split, line, reason = left_out[0]
        raise UserError(
            f"{len(left_out)} of {total} rows cannot be used, more than --max-bad {max_bad:g}; the "
            f"first is line {line} of {split}, which {reason}"
        )
    return left_out


@dataclass(frozen=True)
class _Writer:
    """Writes the folder of a corpus."""

    corpus: TextCorpus
    settings: TextSettings
    folder: Path
    workers: int | None
    progress: Progress

    def write(self) -> tuple[tuple[SplitSize, ...], int]:
        """Write all files but the provenance; gives the sizes and the number of symbols."""
        total = sum(len(split) * len(split.texts) for split in self.corpus.splits)
        stream = iter(self.progress(self._tokens(), total))
        sizes: list[SplitSize] = []
        for split in self.corpus.splits:
            inputs = [[next(stream) for _ in texts] for texts in split.texts]
            if not sizes:
                symbols = self._write_dictionaries(inputs)
            sizes.append(self._write_split(split, inputs))
            if len(sizes) == 1:
                self._refuse_other_dictionary(sizes[0])
            if split.labels is not None:
                self._write_labels(split.name, split.labels)
        next(stream, None)  # lets a progress bar end
        return tuple(sizes), symbols

    def _tokens(self) -> Iterator[str]:
        """Tokens of each sentence, split after split, input after input."""
        texts = (text for split in self.corpus.splits for each in split.texts for text in each)
        try:
            for tokens in spread(self.settings.tokens, chunked(texts, _CHUNK), self.workers):
                yield from tokens
        except BrokenProcessPool as error:
            raise UserError(
                "a process that makes tokens was killed, perhaps for want of memory; try fewer "
                "--workers"
            ) from error

    def _write_dictionaries(self, train: Sequence[Sequence[str]]) -> int:
        """Write the dictionaries of tokens and of classes; gives the number of the first."""
        given = self.settings.dictionary_file
        lines = [f"{symbol} {count}" for symbol, count in self._learned(train)]
        for place in self._inputs():
            place.mkdir()
            write_lines(place / "dict.txt", lines if given is None else read_lines(given))
        (self.folder / "label").mkdir()
        task, labels = self.corpus.task, self.corpus.splits[0].labels
        if not task.has_scores:
            counts = Counter(labels)
            write_dictionary(
                self.folder / "label" / "dict.txt", {name: counts[name] for name in task.classes}
            )
        return len(lines if given is None else read_lines(given))

    def _learned(self, train: Sequence[Sequence[str]]) -> Iterable[tuple[str, int]]:
        if self.settings.dictionary_file is not None:
            return ()
        sentences = (sentence for each in train for sentence in each)
        return learn_dictionary(sentences, self.settings.min_count).items()

    def _inputs(self) -> list[Path]:
        return [self.folder / f"input{index}" for index in range(len(self.corpus.task.inputs))]

    def _write_split(self, split: TextSplit, inputs: Sequence[Sequence[str]]) -> SplitSize:
        dictionary = load_dictionary(self._inputs()[0] / "dict.txt")
        found = [
            binarise(sentences, dictionary, place / split.name)
            for place, sentences in zip(self._inputs(), inputs)
        ]
        longest = max(sum(len(text.split()) + 2 for text in example) for example in zip(*inputs))
        tokens, unknown = (sum(each) for each in zip(*((f.tokens, f.unknown) for f in found)))
        labelled = split.labels is not None
        return SplitSize(split.name, len(split), labelled, tokens, unknown, longest)

    def _refuse_other_dictionary(self, train: SplitSize) -> None:
        given = self.settings.dictionary_file
        if given is not None and train.unknown > _MOST_UNKNOWN * train.tokens:
            raise UserError(
                f"{given} lacks {train.unknown:,} of the {train.tokens:,} tokens of the training "
                "set, so it belongs to other texts or tokens; give that of the model to finetune"
            )

    def _write_labels(self, split: str, labels: Sequence[str]) -> None:
        place, task = self.folder / "label", self.corpus.task
        if task.has_scores:
            scores = (repr(float(label) / task.scale) for label in labels)
            write_lines(place / f"{split}.label", scores)
        else:
            binarise(labels, load_dictionary(place / "dict.txt"), place / split)
