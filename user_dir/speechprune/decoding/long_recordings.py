"""Transcripts of recordings of any length: one search over the emissions of all windows.

The best symbols of all frames are collapsed once, as if the model had heard all at once. A beam
search goes by segments that end in the pauses between words; each begins a new sentence for the
language model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from speechprune.decoding.emissions import EmissionSource, frame_times
from speechprune.decoding.hypothesis import GreedySearch, Hypothesis, Search
from speechprune.decoding.parallel import searched
from speechprune.decoding.symbols import OutputSymbols
from speechprune.decoding.windows import CUTTING, Cutting, emissions_of, windows

#: Seconds of a segment, at least and at most.
SEGMENT = (10.0, 30.0)


def transcribe_long(
    source: EmissionSource,
    blocks: Iterable[np.ndarray],
    search: Search,
    *,
    cutting: Cutting = CUTTING,
    workers: int | None = None,
) -> Hypothesis:
    """What was said in a recording of any length, heard in windows.

    Args:
        blocks: its samples, float32 (n,) each, at the rate of the model.
        search: of each segment, or greedy over all frames.
        workers: processes that search, None for one per core.
    """
    at = frame_times(source)
    parts = emissions_of(source, windows(blocks, at, cutting))
    if isinstance(search, GreedySearch):
        return _greedy(search, parts)
    least, most = (round(seconds * at.rate / at.stride) for seconds in SEGMENT)
    lengths: list[int] = []

    def cut() -> Iterator[np.ndarray]:
        for segment in segments(parts, source.symbols, least, most):
            lengths.append(len(segment))
            yield segment

    found = [hypotheses[0] for hypotheses in searched(search, cut(), workers)]
    return joined(found, lengths, source.symbols)


def _greedy(search: GreedySearch, parts: Iterable[np.ndarray]) -> Hypothesis:
    paths, score = [np.empty(0, dtype=np.int64)], 0.0
    for emissions in parts:
        paths.append(emissions.argmax(axis=1))
        score += float(emissions.max(axis=1).sum(dtype=np.float64))
    return search.of_path(np.concatenate(paths), score)


def segments(
    parts: Iterable[np.ndarray], symbols: OutputSymbols, least: int, most: int
) -> Iterator[np.ndarray]:
    """Emissions, float32 (T, V) each, cut anew: in pauses between words, where there are any.

    Args:
        least: frames of a segment, but for the last one.
        most: frames of a segment.
    """
    held: list[np.ndarray] = []
    for part in parts:
        held.append(part)
        while sum(map(len, held)) > most:
            whole = np.concatenate(held)
            cut = least + _pause(whole[least:most].argmax(axis=1), symbols)
            yield whole[:cut]
            held = [whole[cut:]]
    if held and sum(map(len, held)):
        yield np.concatenate(held)


def _pause(path: np.ndarray, symbols: OutputSymbols) -> int:
    """The middle of the longest pause between words on a path, int (T,); its end, if none is there.

    A pause has a separator, if the model writes any: there are silent frames within words too.
    """
    parting = [] if symbols.separator is None else [symbols.separator]
    silent = np.isin(path, [*symbols.silent, *parting])
    edges = np.flatnonzero(np.diff(silent.astype(np.int8), prepend=0, append=0))
    pauses = [(int(begin), int(end)) for begin, end in zip(edges[::2], edges[1::2])]
    if symbols.separator is not None:
        between = [(b, e) for b, e in pauses if (path[b:e] == symbols.separator).any()]
        pauses = between or pauses
    if not pauses:
        return len(path)
    begin, end = max(pauses, key=lambda pause: pause[1] - pause[0])
    return (begin + end) // 2


def joined(
    found: Sequence[Hypothesis], lengths: Sequence[int], symbols: OutputSymbols
) -> Hypothesis:
    """Hypotheses of segments as one.

    Args:
        lengths: frames of each segment.
    """
    whole, first = Hypothesis((), (), 0.0, 0.0, 0.0), 0
    for each, length in zip(found, lengths):
        moved = tuple((begin + first, end + first) for begin, end in each.spans)
        tokens, spans = each.tokens, moved
        if symbols.separator is not None and whole.tokens and tokens:
            tokens = (symbols.separator, *tokens)
            spans = ((first, first), *moved) if moved else ()
        whole = replace(
            whole,
            words=whole.words + each.words,
            tokens=whole.tokens + tokens,
            score=whole.score + each.score,
            emission_score=whole.emission_score + each.emission_score,
            language_score=whole.language_score + each.language_score,
            spans=whole.spans + spans,
        )
        first += length
    return whole
