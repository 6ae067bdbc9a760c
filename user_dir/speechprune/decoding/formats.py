"""Words with their times as files that other programs read: CTM and SRT."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from speechprune.decoding.timing import TimedWord
from speechprune.errors import UserError

#: What a subtitle shows at most, as broadcasters recommend: two lines, and as long as one can read.
_CHARACTERS, _SECONDS = 84, 6.0
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
    for number, shown in enumerate(_subtitles(words), start=1):
        text = " ".join(word.text for word in shown)
        times = f"{_clock(shown[0].start)} --> {_clock(shown[-1].end)}"
        blocks.append(f"{number}\n{times}\n{text}\n")
    return "\n".join(blocks).rstrip("\n")


def _subtitles(words: Sequence[TimedWord]) -> Iterator[list[TimedWord]]:
    shown: list[TimedWord] = []
    for word in words:
        text = " ".join(each.text for each in (*shown, word))
        if shown and (
            len(text) > _CHARACTERS
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
