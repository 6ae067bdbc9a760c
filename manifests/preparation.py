"""A corpus becomes a manifest folder: audio checked or converted in parallel, labels made.

The folder appears whole or not at all. Until then its audio is in a hidden folder beside it, so
that an interrupted preparation goes on where it was.
"""

from __future__ import annotations

import errno
import os
from collections import Counter, deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping, NamedTuple, Sequence

from speechprune.errors import UserError
from speechprune.manifests.audio import (
    BadAudio,
    frames_if_ready,
    is_made_from,
    mark_made_from,
    read_resampled,
    write_flac,
)
from speechprune.manifests.corpus import Clip, Corpus, Labels, refuse_unfit
from speechprune.manifests.folders import continuing
from speechprune.manifests.manifest import (
    AUDIO,
    PROVENANCE,
    Split,
    Utterance,
    read_split,
    write_manifest,
)
from speechprune.manifests.progress import Progress, unwatched
from speechprune.manifests.verbatim import told_of
from speechprune.workers import follow_parent

#: Clips that a worker handles at a time.
_CHUNK = 32
#: Chunks given out ahead of the results, per worker: keeps memory flat.
_AHEAD = 4


class Outcome(NamedTuple):
    """What became of a clip.

    Attributes:
        frames: samples at 16 kHz; 0 if it is left out.
        text: its label.
        converted: whether its audio is a new file.
        problem: why it is left out, or "".
    """

    frames: int
    text: str
    converted: bool
    problem: str


@dataclass(frozen=True)
class Preparation:
    """What was prepared.

    Attributes:
        splits: of the manifest folder.
        excluded: (split, clip, reason) of what was left out, in order.
        converted: number of new audio files.
        dropped: how often each character of the transcripts has no place in the labels.
    """

    splits: tuple[Split, ...]
    excluded: tuple[tuple[str, str, str], ...]
    converted: int
    dropped: Mapping[str, int]


def prepare(
    corpus: Corpus,
    folder: Path,
    *,
    workers: int | None = None,
    max_bad: float = 0.01,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = unwatched,
) -> Preparation:
    """Write the manifest folder `folder` of `corpus`.

    Audio that is 16 kHz mono WAV or FLAC is used in place; the rest is converted to `folder/audio`.
    The result is the same for any number of `workers` (all cores by default).

    Args:
        max_bad: largest share of clips that may be left out.
        resume: leave a finished folder of the same settings as it is, instead of refusing.
        overwrite: replace a finished folder, and start an interrupted one again.
        progress: wraps the stream of finished clips.

    Raises:
        UserError: too many clips are unusable, no clip of a split is left, the disk is full, or as
            `folders.continuing`.
    """
    folder, root = Path(os.path.realpath(folder)), Path(os.path.abspath(corpus.root))
    for path in (folder, root):
        refuse_unfit(str(path), "folder")
    if resume and overwrite:
        raise UserError("--resume keeps what is there and --overwrite replaces it; choose one")
    _keep_sources(corpus, root, folder)
    if resume and (folder / PROVENANCE).exists():
        return _finished(folder, _described(corpus))
    settings = {**_described(corpus), "root": str(root)}
    with continuing(folder, settings, overwrite) as partial:
        job = _Job(root, partial / AUDIO, corpus.labels)
        return _prepare(
            corpus, job, folder, partial, workers or os.cpu_count() or 1, max_bad, progress
        )


def _described(corpus: Corpus) -> dict[str, Any]:
    """What the provenance tells of where a folder came from."""
    return {
        "corpus": corpus.name,
        "version": corpus.version,
        "language": corpus.language,
        "labels": repr(corpus.labels),
        "options": dict(corpus.options),
        "clips_sha256": corpus.digest(),
    }


def _prepare(
    corpus: Corpus,
    job: _Job,
    folder: Path,
    partial: Path,
    workers: int,
    max_bad: float,
    progress: Progress,
) -> Preparation:
    """Fill the folder `partial`, which will become `folder`."""
    total = sum(map(len, corpus.splits.values()))
    dropped: Counter[str] = Counter()
    found = iter(progress(_outcomes(job, corpus, workers, dropped), total))
    result = _collect(corpus, found, job.root, folder / AUDIO, dropped)
    _refuse_too_many(result, total, max_bad)
    provenance = {
        **_described(corpus),
        "converted": result.converted,
        "excluded": [dict(zip(("split", "clip", "reason"), row)) for row in result.excluded],
        "dropped_characters": dict(result.dropped),
    }
    write_manifest(partial, result.splits, provenance, units=corpus.labels.units)
    return result


def _keep_sources(corpus: Corpus, root: Path, folder: Path) -> None:
    """Refuse to replace a folder in which the corpus, or some of its audio, lies."""
    below = os.path.relpath(folder, root) + "/"
    inside = root == folder or folder in root.parents
    sources = (clip.source for clips in corpus.splits.values() for clip in clips)
    if folder.exists() and (inside or any(source.startswith(below) for source in sources)):
        raise UserError(f"audio of the corpus lies in {folder}; choose another folder for --out")


def _finished(folder: Path, described: Mapping[str, Any]) -> Preparation:
    """What was prepared in `folder`, if it was prepared with the same settings."""
    found = told_of(folder, described)
    return Preparation(
        tuple(read_split(folder, name) for name in found["splits"]),
        tuple((row["split"], row["clip"], row["reason"]) for row in found["excluded"]),
        found["converted"],
        _ranked(found["dropped_characters"]),
    )


@dataclass(frozen=True)
class _Job:
    """What every worker has to know."""

    root: Path
    audio: Path
    labels: Labels

    def run(self, clips: Sequence[Clip]) -> tuple[list[Outcome], Counter[str]]:
        """Handle some clips, in a worker."""
        texts, dropped = self.labels.label([clip.transcript for clip in clips])
        return [self._handle(clip, text) for clip, text in zip(clips, texts)], dropped

    def _handle(self, clip: Clip, text: str) -> Outcome:
        if not text:
            told = f"has nothing left of its transcript {clip.transcript!r}"
            return Outcome(0, "", False, told)
        try:
            ready = None if clip.segment else frames_if_ready(self.root / clip.source)
            if ready is not None:
                return Outcome(ready, text, False, "")
            return Outcome(self._convert(clip), text, True, "")
        except BadAudio as problem:
            return Outcome(0, "", False, str(problem))

    def _convert(self, clip: Clip) -> int:
        source, target = self.root / clip.source, self.audio / f"{clip.name}.flac"
        if is_made_from(target, source):  # by a preparation that was interrupted
            done = frames_if_ready(target)
            assert done is not None
            return done
        span = (clip.segment.start, clip.segment.end) if clip.segment else ()
        frames = write_flac(target, read_resampled(source, *span))
        mark_made_from(target, source)
        return frames


def _outcomes(job: _Job, corpus: Corpus, workers: int, dropped: Counter[str]) -> Iterator[Outcome]:
    """What became of each clip, in the corpus's order; adds to `dropped`."""
    clips = (clip for split in corpus.splits.values() for clip in split)
    chunks = iter(lambda: list(islice(clips, _CHUNK)), [])
    try:
        for outcomes, missing in _spread(job, chunks, workers):
            dropped += missing
            yield from outcomes
    except BrokenProcessPool as error:
        raise UserError(
            "a process that converts audio was killed, perhaps for want of memory; run the same "
            "command again with fewer --workers, which goes on from here"
        ) from error
    except OSError as error:
        told = f"audio cannot be written to {job.audio.parent}: {error.strerror}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            told += "; make room and run the same command again, which goes on from here"
        raise UserError(told) from error


def _spread(
    job: _Job, chunks: Iterable[list[Clip]], workers: int
) -> Iterator[tuple[list[Outcome], Counter[str]]]:
    """Run the job over chunks, in order, in this process or in several."""
    if workers == 1:
        yield from map(job.run, chunks)
        return
    with ProcessPoolExecutor(workers, initializer=follow_parent) as pool:
        waiting: deque[Future[tuple[list[Outcome], Counter[str]]]] = deque()
        try:
            for chunk in chunks:
                waiting.append(pool.submit(job.run, chunk))
                if len(waiting) > _AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _collect(
    corpus: Corpus, outcomes: Iterator[Outcome], root: Path, audio: Path, dropped: Counter[str]
) -> Preparation:
    splits, excluded, converted = [], [], 0
    for name, clips in corpus.splits.items():
        utterances, new = [], bytearray()  # compact: there may be millions
        for clip in clips:
            outcome = next(outcomes)
            if outcome.problem:
                excluded.append((name, clip.name, outcome.problem))
                continue
            path = f"{clip.name}.flac" if outcome.converted else clip.source
            utterances.append(Utterance(path, outcome.frames, outcome.text, clip.speaker))
            new.append(outcome.converted)
        converted += sum(new)
        splits.append(_split(name, utterances, new, root, audio))
    next(outcomes, None)  # lets a progress bar end
    return Preparation(tuple(splits), tuple(excluded), converted, _ranked(dropped))


def _ranked(counts: Mapping[str, int]) -> dict[str, int]:
    """Most frequent first."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _split(
    name: str, utterances: list[Utterance], new: Sequence[int], corpus: Path, audio: Path
) -> Split:
    """The utterances, below the corpus, the new audio, or the folder that holds both."""
    if all(new) or not any(new):
        return Split(name, audio if any(new) else corpus, tuple(utterances))
    root = Path(os.path.commonpath([corpus, audio]))
    starts = [folder.relative_to(root).as_posix() for folder in (corpus, audio)]
    for index, is_new in enumerate(new):
        path = os.path.normpath(f"{starts[is_new]}/{utterances[index].path}")
        utterances[index] = utterances[index]._replace(path=path)
    return Split(name, root, tuple(utterances))


def _refuse_too_many(result: Preparation, total: int, max_bad: float) -> None:
    if len(result.excluded) > max_bad * total:
        split, clip, reason = result.excluded[0]
        raise UserError(
            f"{len(result.excluded)} of {total} clips cannot be used, more than --max-bad "
            f"{max_bad:g}; the first is {clip} in {split}, which {reason}"
        )
    for split in result.splits:
        if not split.utterances:
            raise UserError(f"no clip of split {split.name} can be used")
