"""Alignments spell out both sequences, and have the edits that are counted."""

from __future__ import annotations

import random

import pytest

from speechprune.decoding.edits import Aligned, align
from speechprune.decoding.scoring import count_errors


@pytest.mark.parametrize("seed", range(200))
def test_edits_are_those_that_are_counted(seed: int) -> None:
    draw = random.Random(seed)
    said, heard = ([draw.choice("abc") for _ in range(draw.randint(0, 8))] for _ in range(2))
    found = align(said, heard)
    assert [each.reference for each in found if each.reference is not None] == said
    assert [each.hypothesis for each in found if each.hypothesis is not None] == heard
    missed = sum(each.hypothesis is None for each in found)
    added = sum(each.reference is None for each in found)
    swapped = sum(not each.is_right for each in found) - missed - added
    counts = count_errors(said, heard)
    assert (swapped, missed, added) == (counts.substitutions, counts.deletions, counts.insertions)


def test_an_alignment_by_hand() -> None:
    assert align("the cat sat down".split(), "a cat sat right down".split()) == [
        Aligned("the", "a"),
        Aligned("cat", "cat"),
        Aligned("sat", "sat"),
        Aligned(None, "right"),
        Aligned("down", "down"),
    ]
