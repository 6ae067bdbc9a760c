"""Words with their times as files that other programs read: CTM and SRT."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path
from textwrap import wrap

from speechprune.decoding.timing import TimedWord
from speechprune.errors import UserError

#: What a subtitle shows at most, as broadcasters recommend: two lines of so many characters, for so
#: many seconds; and for how long it has to be there to be read.
_LINES, _CHARACTERS, _SECONDS, _LEAST = 2, 42, 6.0, 1.0
#: Seconds of silence after which a new subtitle begins.
_PAUSE = 0.8


def ctm(words: Sequence[Sequence[TimedWord]], paths: Sequence[Path]) -> str:
    """NIST's CTM: a line of recording, channel, start, duration and word for each word.

    Args:
        words: of each recording.
        paths: of the recordings; their names without an ending are what they are called.

    Raises:
        UserError: two recordings would be called alike.
    """
    names = ["_".join(path.stem.split()) for path in paths]
    ((name, count),) = Counter(names).most_common(1)
    if count > 1:
        raise UserError(
            f"{count} files would be called {name} in CTM, which has no room for folders; "
            "transcribe them one by one, or rename them"
        )
    lines = [
        f"{name} 1 {word.start:.3f} {word.end - word.start:.3f} {word.text}"
        for name, of_one in zip(names, words)
        for word in of_one
    ]
    return "\n".join(lines)


def srt(words: Sequence[TimedWord]) -> str:
    """Subtitles in SubRip's form: numbered, each with its times and the words of some seconds."""
    blocks = []
    subtitles = list(_subtitles(words))
    begins = [shown[0].start for shown in subtitles]
    for number, (shown, following) in enumerate(zip(subtitles, [*begins[1:], inf]), start=1):
        end = max(shown[-1].end, min(shown[0].start + _LEAST, following))
        text = "\n".join(_lines(shown))
        blocks.append(f"{number}\n{_clock(shown[0].start)} --> {_clock(end)}\n{text}\n")
    return "\n".join(blocks).rstrip("\n")


def _lines(words: Sequence[TimedWord]) -> list[str]:
    text = " ".join(word.text for word in words)
    return wrap(text, _CHARACTERS, break_long_words=False, break_on_hyphens=False)


def _subtitles(words: Sequence[TimedWord]) -> Iterator[list[TimedWord]]:
    shown: list[TimedWord] = []
    for word in words:
        if shown and (
            len(_lines((*shown, word))) > _LINES
            or word.end - shown[0].start > _SECONDS
            or word.start - shown[-1].end > _PAUSE
        ):
            yield shown
            shown = []
        shown.append(word)
    if shown:
        yield shown


def _clock(seconds: float) -> str:
    """Hours, minutes, seconds and milliseconds."""
    minutes, milliseconds = divmod(round(seconds * 1000), 60000)
    return (
        f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02},{milliseconds % 1000:03}"
    )
