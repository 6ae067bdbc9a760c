"""Subtitles that can be read: of two lines, for a second at least, and never two at once."""

from __future__ import annotations

import re

import pytest

from speechprune.decoding.formats import srt
from speechprune.decoding.timing import TimedWord

CLOCK = r"(\d\d):(\d\d):(\d\d),(\d{3})"


def subtitles(text: str) -> list[tuple[float, float, list[str]]]:
    """What a file in SubRip's form shows: from when to when, and its lines."""
    found = []
    for number, block in enumerate(text.split("\n\n"), start=1):
        first, times, *lines = block.splitlines()
        assert int(first) == number
        match = re.fullmatch(f"{CLOCK} --> {CLOCK}", times)
        assert match is not None
        fields = [int(field) for field in match.groups()]
        begin, end = (3600 * h + 60 * m + s + ms / 1000 for h, m, s, ms in (fields[:4], fields[4:]))
        found.append((begin, end, lines))
    return found


@pytest.mark.parametrize("gap", [0.1, 0.9])
def test_all_words_are_shown_in_two_lines_one_subtitle_after_the_other(gap: float) -> None:
    words = [
        TimedWord(f"word-{'x' * (index % 9)}", index * gap, index * gap + 0.02)
        for index in range(200)
    ]
    shown = subtitles(srt(words))
    assert " ".join(" ".join(lines) for _, _, lines in shown).split() == [w.text for w in words]
    assert all(len(lines) <= 2 and max(map(len, lines)) <= 42 for _, _, lines in shown)
    for (begin, end, _), (following, _, _) in zip(shown, shown[1:]):
        assert end <= following and end - begin >= min(1.0, following - begin)
    begin, end, _ = shown[-1]
    assert end - begin >= 0.999


def test_a_word_that_is_longer_than_a_line_stays_whole() -> None:
    ((_, _, lines),) = subtitles(srt([TimedWord("x" * 50, 0.0, 0.5)]))
    assert lines == ["x" * 50]
    assert srt([]) == ""
