"""Error rates of a search over a corpus: emissions in batches, searched in several processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from tqdm import tqdm

from speechprune.decoding import MAX_TOKENS
from speechprune.decoding.beam import BeamSearch
from speechprune.decoding.emissions import EmissionSource, ModelEmissions
from speechprune.decoding.greedy import spells_words
from speechprune.decoding.hypothesis import Search
from speechprune.decoding.inference import (
    Evaluation,
    batches,
    check_references,
    evaluation_of,
    read_audio,
)
from speechprune.decoding.parallel import searched
from speechprune.decoding.scoring import ErrorCounts, count_text_errors
from speechprune.errors import UserError
from speechprune.manifests.manifest import Split
from speechprune.models.loading import LoadedRecogniser


class SplitEmissions:
    """The emissions of all utterances of a split, batch by batch, longest first.

    Attributes:
        order: the utterances that were heard so far, by their places in the split.
        reading: seconds that were spent on reading files.
    """

    def __init__(
        self, source: EmissionSource, split: Split, *, max_tokens: int, batch_size: int | None
    ) -> None:
        self._source, self._split = source, split
        self._limits = max_tokens, batch_size
        self.order: list[int] = []
        self.reading = 0.0

    def __iter__(self) -> Iterator[np.ndarray]:
        """Emissions, float32 (T, V) each."""
        utterances, root = self._split.utterances, self._split.root
        with tqdm(total=len(utterances), desc="decoding", leave=False, disable=None) as bar:
            for batch in batches([u.frames for u in utterances], *self._limits):
                start = perf_counter()
                audio = [read_audio(root / utterances[i].path, self._source.rate) for i in batch]
                self.reading += perf_counter() - start
                for index, emissions in zip(batch, self._source.emissions(audio)):
                    self.order.append(index)
                    yield emissions
                bar.update(len(batch))


def check_words(search: Search, split: Split) -> None:
    """Raise UserError if no word of the references can be written by a search."""
    if not isinstance(search, BeamSearch) or search.words is None:
        return
    wanted = dict.fromkeys(word for each in split.utterances for word in each.text.split())
    if search.words.isdisjoint(wanted):
        raise UserError(
            f"no word of {split.name}, such as {next(iter(wanted))!r}, is one of "
            f"{search.lexicon or search.language_model}, such as {min(search.words)!r}; both must "
            "be written alike, in upper or in lower case"
        )


@dataclass(frozen=True)
class SearchEvaluation:
    """How well a search transcribes a corpus.

    Attributes:
        evaluation: of the best transcript of each utterance, as the search has it.
        oracle: errors over the words of those that an oracle would choose, of all that it found.
    """

    evaluation: Evaluation
    oracle: ErrorCounts


def evaluate_search(
    loaded: LoadedRecogniser,
    split: Split,
    search: Search,
    *,
    max_tokens: int = MAX_TOKENS,
    batch_size: int | None = None,
    workers: int | None = None,
) -> SearchEvaluation:
    """As `speechprune.decoding.inference.evaluate`, by a search in place of the best symbols.

    Args:
        workers: processes that search, None for one per core.

    Raises:
        UserError: as that; or as the search.
    """
    check_references(loaded, split)
    check_words(search, split)
    heard = SplitEmissions(
        ModelEmissions(loaded), split, max_tokens=max_tokens, batch_size=batch_size
    )
    start = perf_counter()
    found = list(searched(search, heard, workers))
    seconds = perf_counter() - start - heard.reading
    in_order = [found[place] for place in np.argsort(heard.order)]
    texts = [each[0].text for each in in_order]
    letters = spells_words(loaded.dictionary)
    oracle = ErrorCounts()
    for utterance, hypotheses in zip(split.utterances, in_order):
        counts = [count_text_errors(utterance.text, h.text, letters=letters)[0] for h in hypotheses]
        oracle += min(counts, key=lambda each: each.errors)
    return SearchEvaluation(evaluation_of(loaded, split, texts, seconds), oracle)
