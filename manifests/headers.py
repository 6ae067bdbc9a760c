"""Do recordings say of themselves what their manifest says?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import soundfile
from tqdm import tqdm

from speechprune.manifests.audio import BadAudio, frames_if_ready, source_of

# Opening headers waits for the disk, not for the processor.
_THREADS = 16
# Recordings per task: a future for each of a million would fill the memory.
_CHUNK = 256

#: Kind and a line about it.
Problem = tuple[str, str]


def header_problems(
    root: Path,
    rows: Sequence[tuple[str, int]],
    sample_rate: int,
    title: str,
    *,
    ends: bool = False,
) -> Iterator[Problem]:
    """Read the headers in parallel; yields what is wrong, in the order of the rows.

    Args:
        root: the folder of the audio.
        rows: (path below it, samples) of each recording.
        sample_rate: what every recording must have, in Hz.
        title: of the progress bar.
        ends: read the end of each recording too: is it all there?
    """
    chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
    pool = ThreadPoolExecutor(_THREADS)

    def problems(chunk: Sequence[tuple[str, int]]) -> list[Problem]:
        return [
            problem
            for path, frames in chunk
            for problem in _problems(root / path, frames, sample_rate, ends)
        ]

    try:
        with tqdm(desc=title, total=len(rows), leave=False, disable=None) as bar:
            for chunk, found in zip(chunks, pool.map(problems, chunks)):
                bar.update(len(chunk))
                yield from found
    finally:
        # An interruption need not wait for a million headers.
        pool.shutdown(cancel_futures=True)


def _problems(path: Path, frames: int, sample_rate: int, ends: bool) -> Iterator[Problem]:
    try:
        info = soundfile.info(source_of(path))
    except FileNotFoundError:
        yield (
            "missing recording",
            f"{path} is missing; correct the manifest, or bring the recording back",
        )
        return
    # A TypeError is what an ending such as .raw leads to.
    except (OSError, soundfile.LibsndfileError, TypeError) as error:
        reason = getattr(error, "error_string", None) or str(error)
        reason = " ".join(reason.split()).rstrip(".")
        yield "unreadable recording", f"{path} is not readable audio: {reason}"
        return
    if info.samplerate != sample_rate:
        rate = info.samplerate
        yield (
            "sample rate",
            f"{path} has a sample rate of {rate} Hz; resample it to {sample_rate} Hz",
        )
    if info.channels != 1:
        yield "channels", f"{path} has {info.channels} channels, not one"
    if info.frames != frames:
        yield "length", f"{path} has {info.frames} samples, but its manifest says {frames}"
    elif ends:
        try:
            frames_if_ready(path)
        except BadAudio as problem:
            yield "damaged recording", f"{path} {problem}"
