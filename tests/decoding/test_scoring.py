"""Error counts against jiwer, and against every alignment of short strings."""

from __future__ import annotations

import json
import random
from functools import cache

import jiwer
import pytest

from speechprune.decoding.scoring import (
    ErrorCounts,
    count_character_errors,
    count_errors,
    count_text_errors,
    count_word_errors,
)


def random_text(generator: random.Random, longest: int) -> str:
    return " ".join(generator.choices(["a", "bc", "dab", "c"], k=generator.randint(1, longest)))


def all_alignments(reference: str, hypothesis: str) -> set[tuple[int, int, int]]:
    """(substitutions, deletions, insertions) of every alignment."""

    @cache
    def rest(i: int, j: int) -> frozenset[tuple[int, int, int]]:
        if i == len(reference) and j == len(hypothesis):
            return frozenset([(0, 0, 0)])
        found = set()
        if i < len(reference) and j < len(hypothesis):
            wrong = int(reference[i] != hypothesis[j])
            found |= {(s + wrong, d, n) for s, d, n in rest(i + 1, j + 1)}
        if i < len(reference):
            found |= {(s, d + 1, n) for s, d, n in rest(i + 1, j)}
        if j < len(hypothesis):
            found |= {(s, d, n + 1) for s, d, n in rest(i, j + 1)}
        return frozenset(found)

    return set(rest(0, 0))


@pytest.mark.parametrize("seed", range(5))
def test_corpus_rates_equal_jiwer(seed: int) -> None:
    generator = random.Random(seed)
    references = [random_text(generator, 12) for _ in range(40)]
    hypotheses = [random_text(generator, 12) for _ in range(39)] + [""]
    words = sum((count_word_errors(*p) for p in zip(references, hypotheses)), ErrorCounts())
    theirs = jiwer.process_words(references, hypotheses)
    assert words.rate == pytest.approx(theirs.wer, abs=1e-12)
    assert words.deletions - words.insertions == theirs.deletions - theirs.insertions
    assert words.utterances == 40
    characters = sum(
        (count_character_errors(*p) for p in zip(references, hypotheses)), ErrorCounts()
    )
    assert characters.rate == pytest.approx(jiwer.cer(references, hypotheses), abs=1e-12)


def test_counts_are_those_of_a_minimal_alignment_with_most_substitutions() -> None:
    generator = random.Random(0)
    for _ in range(300):
        reference = "".join(generator.choices("ab", k=generator.randint(0, 5)))
        hypothesis = "".join(generator.choices("abc", k=generator.randint(0, 5)))
        counts = count_errors(reference, hypothesis)
        ours = (counts.substitutions, counts.deletions, counts.insertions)
        alignments = all_alignments(reference, hypothesis)
        fewest = min(sum(a) for a in alignments)
        assert ours in alignments
        assert sum(ours) == fewest
        assert ours[0] == max(a[0] for a in alignments if sum(a) == fewest)


def test_empty_references_and_hypotheses_count() -> None:
    assert count_word_errors("", "one two") == ErrorCounts(0, 0, 2, 0, 1)
    assert count_word_errors("one two", "") == ErrorCounts(0, 2, 0, 2, 1)
    assert count_word_errors("", "") == ErrorCounts(0, 0, 0, 0, 1)
    total = count_word_errors("", "one") + count_word_errors("one two", "one")
    assert (total.rate, total.utterances) == (1.0, 2)


@pytest.mark.parametrize("hypothesis", ["", "one", "one two three"])
def test_without_references_the_rate_is_the_number_of_insertions(hypothesis: str) -> None:
    """JSON has no infinity, and means would be infinite."""
    rate = count_word_errors("", hypothesis).rate
    assert rate == len(hypothesis.split())
    assert json.loads(json.dumps(rate, allow_nan=False)) == rate


def test_units_are_words_and_characters_at_once() -> None:
    words, characters = count_text_errors("t\u0283 a n", "a nn", letters=False)
    assert words == characters == ErrorCounts(1, 1, 0, 3, 1)
    words, characters = count_text_errors("one two", "onetwo", letters=True)
    assert (words, characters) == (ErrorCounts(1, 1, 0, 2, 1), ErrorCounts(0, 1, 0, 7, 1))


def test_white_space_is_no_character_beyond_one() -> None:
    assert count_character_errors(" one  two ", "one two").errors == 0
    assert count_character_errors("one two", "onetwo") == ErrorCounts(0, 1, 0, 7, 1)


def test_tokens_may_be_anything_hashable() -> None:
    assert count_errors([1, ("a", 2), None], [1, None]) == ErrorCounts(0, 1, 0, 3, 1)
