"""Do recordings say of themselves what their manifest says?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import soundfile
from tqdm import tqdm

from speechprune.manifests.oddities import CUT_SHORT, is_doubtful
from speechprune.manifests.recording import (
    ENOUGH,
    BadAudio,
    MissingAudio,
    decode_recording,
    ends_well,
    open_recording,
    promised_frames,
    truncation,
)

# Opening headers waits for the disk, not for the processor.
_THREADS = 16
# Recordings per task: a future for each of a million would fill the memory.
_CHUNK = 256
_DAMAGED = "damaged recording"


class Problem(NamedTuple):
    """What is wrong with a recording, in a line; with a `warning` it can be used all the same."""

    kind: str
    message: str
    warning: bool = False


def header_problems(
    root: Path,
    rows: Sequence[tuple[str, int]],
    sample_rate: int,
    title: str,
    *,
    samples: bool = False,
) -> Iterator[Problem]:
    """Read the headers in parallel; yields what is wrong, in the order of the rows.

    Args:
        root: the folder of the audio.
        rows: (path below it, samples) of each recording.
        sample_rate: what every recording must have, in Hz.
        title: of the progress bar.
        samples: look beyond the headers: is each recording all there, with samples that can be
            used?
    """
    chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
    pool = ThreadPoolExecutor(_THREADS)

    def problems(chunk: Sequence[tuple[str, int]]) -> list[Problem]:
        return [
            problem
            for path, frames in chunk
            for problem in _problems(root / path, frames, sample_rate, samples)
        ]

    try:
        with tqdm(desc=title, total=len(rows), leave=False, disable=None) as bar:
            for chunk, found in zip(chunks, pool.map(problems, chunks)):
                bar.update(len(chunk))
                yield from found
    finally:
        # An interruption need not wait for a million headers.
        pool.shutdown(cancel_futures=True)


def _problems(path: Path, frames: int, sample_rate: int, samples: bool) -> Iterator[Problem]:
    try:
        with open_recording(path) as file:
            yield from _header(path, file, sample_rate)
            if file.frames != frames:
                message = f"{path} has {file.frames} samples, but its manifest says {frames}"
                yield Problem("length", message)
            elif samples:
                yield from _samples(path, file)
    except MissingAudio:
        message = f"{path} is missing; correct the manifest, or bring the recording back"
        yield Problem("missing recording", message)
    except BadAudio as problem:
        yield Problem("unreadable recording", f"{path} {problem}")


def _header(path: Path, file: soundfile.SoundFile, sample_rate: int) -> Iterator[Problem]:
    if file.samplerate != sample_rate:
        rate = f"{path} has a sample rate of {file.samplerate} Hz"
        yield Problem("sample rate", f"{rate}; resample it to {sample_rate} Hz")
    if file.channels != 1:
        yield Problem("channels", f"{path} has {file.channels} channels, not one")
    if not file.seekable():
        message = f"{path} is {file.subtype} audio, which fairseq cannot read; convert it to FLAC"
        yield Problem("unreadable recording", message)
    promised = promised_frames(file)
    if file.frames < promised:
        enough = file.frames >= ENOUGH * promised
        message = f"{path} {truncation(file.frames, promised, file.samplerate)}"
        yield Problem(CUT_SHORT if enough else _DAMAGED, message, warning=enough)


def _samples(path: Path, file: soundfile.SoundFile) -> Iterator[Problem]:
    if ends_well(file) and not is_doubtful(file):
        return
    try:
        decoded = decode_recording(path)
    except BadAudio as problem:
        yield Problem(_DAMAGED, f"{path} {problem}")
        return
    if decoded.damaged:
        yield Problem(_DAMAGED, f"{path} {decoded.missing}")
    for kind, message in decoded.oddities:
        yield Problem(kind, f"{path} {message}", warning=True)
