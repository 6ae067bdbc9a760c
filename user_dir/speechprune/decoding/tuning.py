"""The weights of a beam search that make the fewest errors on a validation split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from tqdm import tqdm

from speechprune.decoding import MAX_TOKENS
from speechprune.decoding.beam import BeamSearch
from speechprune.decoding.emissions import ModelEmissions
from speechprune.decoding.greedy import spells_words
from speechprune.decoding.hypothesis import GreedySearch, Search
from speechprune.decoding.inference import check_references
from speechprune.decoding.parallel import searched_by_all
from speechprune.decoding.scoring import ErrorCounts, count_text_errors
from speechprune.decoding.searching import SplitEmissions, check_words
from speechprune.manifests.manifest import Split
from speechprune.models.loading import LoadedRecogniser

#: Where the search for weights begins; it goes on beyond if the best ones lie on the edge.
LM_WEIGHTS = (0.0, 1.0, 2.0, 3.0, 4.0)
WORD_SCORES = (-2.0, -1.0, 0.0, 1.0, 2.0)
#: How far apart they lie.
_STEP = 1.0


@dataclass(frozen=True)
class Trial:
    """The errors that a search makes with some weights.

    Attributes:
        lm_weight, word_score: as of `BeamSearch`.
        words, characters: errors over all utterances.
    """

    lm_weight: float
    word_score: float
    words: ErrorCounts
    characters: ErrorCounts

    @property
    def rank(self) -> tuple[int, int, float, float]:
        """Smaller is better: errors of words, then of characters, then small weights."""
        return self.words.errors, self.characters.errors, self.lm_weight, abs(self.word_score)


@dataclass(frozen=True)
class Tuning:
    """What was tried, in the order in which it was, and what there is without a search."""

    greedy: Trial
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The trial with the fewest errors; of equal ones that with the smaller weights."""
        return _best(self.trials)


def tune(
    loaded: LoadedRecogniser,
    split: Split,
    search: BeamSearch,
    *,
    rounds: int = 2,
    max_tokens: int = MAX_TOKENS,
    workers: int | None = None,
) -> Tuning:
    """Try weights on a grid, and then ever closer around the best ones.

    The model hears the split once; its emissions stay in memory. All weights are tried in an order
    that depends on nothing but the errors before.

    Args:
        search: with any weights. If it has no lexicon's words, the word score stays 0.
        rounds: how often the neighbours of the best weights are tried, at half the distance of the
            round before.
        max_tokens: as for `evaluate`.
        workers: processes that search, None for one per core.

    Raises:
        UserError: as `evaluate_search`.
    """
    search.prepare()
    check_references(loaded, split)
    check_words(search, split)
    heard = SplitEmissions(ModelEmissions(loaded), split, max_tokens=max_tokens, batch_size=None)
    emissions = list(heard)
    in_order = [emissions[place] for place in np.argsort(heard.order)]
    letters = spells_words(loaded.dictionary)
    words = search.words is not None
    trials: dict[tuple[float, float], Trial] = {}
    with tqdm(desc="weights", unit="pair", leave=False, disable=None) as bar:

        def attempt(points: Iterable[tuple[float, float]]) -> None:
            new = [point for point in points if point not in trials]
            searches = [
                replace(search, nbest=1, lm_weight=weight, word_score=score)
                for weight, score in new
            ]
            found = _errors(searches, in_order, split, workers, letters=letters)
            for point, counts in zip(new, found):
                trials[point] = Trial(*point, *counts)
                bar.update()

        attempt(product(LM_WEIGHTS, WORD_SCORES if words else (0.0,)))
        best = None
        while best != _best(trials.values()):  # it may lie on the edge of the grid
            best = _best(trials.values())
            attempt(_neighbours(best, _STEP, words=words))
        for halvings in range(1, 1 + rounds):
            attempt(_neighbours(_best(trials.values()), _STEP / 2**halvings, words=words))
    (greedy,) = _errors([GreedySearch(search.symbols)], in_order, split, 1, letters=letters)
    return Tuning(Trial(0.0, 0.0, *greedy), tuple(trials.values()))


def _best(trials: Iterable[Trial]) -> Trial:
    return min(trials, key=lambda trial: trial.rank)


def _neighbours(best: Trial, step: float, *, words: bool) -> Iterator[tuple[float, float]]:
    """The weights around the best ones, in order; none is below 0."""
    for more, longer in product((-step, 0.0, step), (-step, 0.0, step) if words else (0.0,)):
        if (more or longer) and best.lm_weight + more >= 0:
            yield best.lm_weight + more, best.word_score + longer


def _errors(
    searches: Sequence[Search],
    emissions: Sequence[np.ndarray],
    split: Split,
    workers: int | None,
    *,
    letters: bool,
) -> Iterator[tuple[ErrorCounts, ErrorCounts]]:
    """Errors of each search over words and over characters of all utterances, in the order of the
    split."""
    found = searched_by_all(searches, emissions, workers)
    for _ in searches:
        words, characters = ErrorCounts(), ErrorCounts()
        for utterance in split.utterances:
            text = next(found)[0].text
            counts = count_text_errors(utterance.text, text, letters=letters)
            words, characters = words + counts[0], characters + counts[1]
        yield words, characters
