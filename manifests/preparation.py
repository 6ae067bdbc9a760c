"""A corpus becomes a manifest folder: audio checked or converted in parallel, labels made.

The folder appears whole or not at all. Until then its audio is in a hidden folder beside it, so
that an interrupted preparation can be continued.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

from speechprune.errors import UserError
from speechprune.manifests.conversion import Conversion, Outcome
from speechprune.manifests.corpus import Corpus, refuse_unfit
from speechprune.manifests.dictionary import ranked
from speechprune.manifests.folders import continuing
from speechprune.manifests.forms import AnySplit, Form, form_of
from speechprune.manifests.manifest import AUDIO, Split, Utterance
from speechprune.manifests.processes import chunked, spread
from speechprune.manifests.progress import Progress, unwatched
from speechprune.manifests.provenance import SHARED_SPEAKERS, finished

#: Clips that a worker handles at a time.
_CHUNK = 32
_REMARK = ("split", "clip", "kind", "remark")


@dataclass(frozen=True)
class Preparation:
    """What was prepared.

    Attributes:
        splits: of the manifest folder.
        excluded: (split, clip, reason) of what was left out, in order.
        converted: number of new audio files.
        dropped: how often each character of the transcripts has no place in the labels.
        tags: how often each tag, such as `[noise]`, was dropped from the transcripts.
        remarks: (split, clip, kind, what is odd) of clips that are used all the same, in order.
    """

    splits: tuple[AnySplit, ...]
    excluded: tuple[tuple[str, str, str], ...]
    converted: int
    dropped: Mapping[str, int]
    tags: Mapping[str, int]
    remarks: tuple[tuple[str, str, str, str], ...]


def prepare(
    corpus: Corpus,
    folder: Path,
    *,
    workers: int | None = None,
    max_bad: float = 0.01,
    dictionary: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = unwatched,
) -> Preparation:
    """Write the manifest folder `folder` of `corpus`.

    Audio that is 16 kHz mono WAV or FLAC is used in place; the rest is converted to `folder/audio`.
    The result is the same for any number of `workers` (all cores by default).

    Args:
        max_bad: largest share of clips that may be left out.
        dictionary: a file whose symbols, in their order, the labels are to have; by default one is
            made of the symbols of the labels.
        resume: leave a finished folder of the same settings as it is, instead of refusing.
        overwrite: replace a finished folder, and start an interrupted one again.
        progress: wraps the stream of finished clips.

    Raises:
        UserError: too many clips are unusable, no clip of a split is left, the disk is full,
            `dictionary` lacks a symbol or class, no clip of a class is left, or as
            `folders.continuing`.
    """
    folder, root = Path(os.path.realpath(folder)), Path(os.path.abspath(corpus.root))
    for path in (folder, root):
        refuse_unfit(str(path), "folder")
    if resume and overwrite:
        raise UserError("--resume keeps what is there and --overwrite replaces it; choose one")
    _keep_sources(corpus, root, folder)
    described = _described(corpus)
    form = form_of(corpus.labels)
    spelt_by = {"dictionary": form.digest(dictionary)}
    if resume and (there := finished(folder, {**described, **spelt_by})) is not None:
        return _as_prepared(folder, there, form)
    # The audio does not depend on the dictionary: with another one, it continues.
    with continuing(folder, {**described, "root": str(root)}, overwrite) as partial:
        job = Conversion(root, partial / AUDIO, corpus.labels)
        splits, result = _prepare(corpus, job, folder, workers, max_bad, progress)
        provenance = {**described, **spelt_by, **_described_result(result)}
        if corpus.shared_speakers:
            speakers = {u.speaker for split in splits for u in split.utterances}
            provenance[SHARED_SPEAKERS] = sorted(speakers - {""})
        return replace(result, splits=form.write(partial, splits, provenance, dictionary))


def _described(corpus: Corpus) -> dict[str, Any]:
    """What the provenance says about where a folder came from."""
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
    job: Conversion,
    folder: Path,
    workers: int | None,
    max_bad: float,
    progress: Progress,
) -> tuple[list[Split], Preparation]:
    """Convert the audio and make the labels of what will be in `folder`.

    Returns its splits, and what was prepared, still without them: they are not written yet.
    """
    total = sum(map(len, corpus.splits.values()))
    dropped: Counter[str] = Counter()
    found = iter(progress(_outcomes(job, corpus, workers, dropped), total))
    splits, result = _collect(corpus, found, job.root, folder / AUDIO, dropped)
    _refuse_too_many(result, splits, total, max_bad)
    return splits, replace(result, excluded=(*result.excluded, *corpus.unread))


def _described_result(result: Preparation) -> dict[str, Any]:
    """What the provenance says about what was prepared; see `_as_prepared`."""
    return {
        "converted": result.converted,
        "excluded": [dict(zip(("split", "clip", "reason"), row)) for row in result.excluded],
        "dropped_characters": dict(result.dropped),
        "dropped_tags": dict(result.tags),
        "remarks": [dict(zip(_REMARK, row)) for row in result.remarks],
    }


def _keep_sources(corpus: Corpus, root: Path, folder: Path) -> None:
    """Refuse to replace a folder in which the corpus, or some of its audio, lies."""
    below = os.path.relpath(folder, root) + "/"
    inside = root == folder or folder in root.parents
    sources = (clip.source for clips in corpus.splits.values() for clip in clips)
    if folder.exists() and (inside or any(source.startswith(below) for source in sources)):
        raise UserError(f"audio of the corpus lies in {folder}; choose another folder for --out")


def _as_prepared(folder: Path, provenance: Mapping[str, Any], form: Form) -> Preparation:
    """What was prepared in a finished folder."""
    return Preparation(
        tuple(form.read(folder, name) for name in provenance["splits"]),
        tuple((row["split"], row["clip"], row["reason"]) for row in provenance["excluded"]),
        provenance["converted"],
        dict(ranked(provenance["dropped_characters"])),
        dict(ranked(provenance.get("dropped_tags", {}))),
        tuple(tuple(row[key] for key in _REMARK) for row in provenance.get("remarks", [])),
    )


def _outcomes(
    job: Conversion, corpus: Corpus, workers: int | None, dropped: Counter[str]
) -> Iterator[Outcome]:
    """What became of each clip, in the corpus's order; adds to `dropped`."""
    clips = (clip for split in corpus.splits.values() for clip in split)
    try:
        for outcomes, missing in spread(job.run, chunked(clips, _CHUNK), workers):
            dropped += missing
            yield from outcomes
    except BrokenProcessPool as error:
        raise UserError(
            "a process that converts audio was killed, perhaps for want of memory; try fewer "
            "--workers"
        ) from error
    except OSError as error:
        message = f"audio cannot be written to {job.audio.parent}: {error.strerror}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message += "; make room"
        raise UserError(message) from error


def _collect(
    corpus: Corpus, outcomes: Iterator[Outcome], root: Path, audio: Path, dropped: Counter[str]
) -> tuple[list[Split], Preparation]:
    """What `_prepare` returns, of the outcomes of all clips."""
    splits, excluded, remarks, converted = [], [], [], 0
    for name, clips in corpus.splits.items():
        utterances, new = [], bytearray()  # compact: there may be millions
        for clip in clips:
            outcome = next(outcomes)
            if outcome.problem:
                excluded.append((name, clip.name, outcome.problem))
                continue
            remarks += [(name, clip.name, *remark) for remark in outcome.remarks]
            path = f"{clip.name}.flac" if outcome.converted else clip.source
            utterances.append(Utterance(path, outcome.frames, outcome.text, clip.speaker))
            new.append(outcome.converted)
        converted += sum(new)
        splits.append(_split(name, utterances, new, root, audio))
    next(outcomes, None)  # lets a progress bar end
    ordered = ranked(dropped)
    characters, tags = (
        {what: count for what, count in ordered if (len(what) > 1) == is_tag}
        for is_tag in (False, True)
    )
    return splits, Preparation((), tuple(excluded), converted, characters, tags, tuple(remarks))


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


def _refuse_too_many(
    result: Preparation, splits: Sequence[Split], total: int, max_bad: float
) -> None:
    if len(result.excluded) > max_bad * total:
        split, clip, reason = result.excluded[0]
        raise UserError(
            f"{len(result.excluded)} of {total} clips cannot be used, more than --max-bad "
            f"{max_bad:g}; the first is {clip} in {split}, which {reason}"
        )
    for split in splits:
        if not split.utterances:
            raise UserError(f"no clip of split {split.name} can be used")
