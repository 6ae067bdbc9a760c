"""What models make of audio files: their texts, or their classes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from speechprune.decoding import MAX_TOKENS
from speechprune.decoding.bank import BankModel
from speechprune.decoding.emissions import EmissionSource, ModelEmissions, frame_times
from speechprune.decoding.hypothesis import GreedySearch, Hypothesis, Search
from speechprune.decoding.inference import best_device, naming, sample_rate
from speechprune.decoding.long_recordings import transcribe_long
from speechprune.decoding.parallel import searched
from speechprune.decoding.texts import texts_of
from speechprune.decoding.timing import TimedWord, timed_words
from speechprune.errors import UserError
from speechprune.manifests.audio import resample
from speechprune.manifests.oddities import Remark
from speechprune.manifests.recording import decode_recording
from speechprune.manifests.recording_stream import RecordingStream, seconds_of
from speechprune.models.loading import LoadedModel, LoadedRecogniser

logger = logging.getLogger(__name__)


class Transcript(NamedTuple):
    """What was heard in a file.

    Attributes:
        text: what was said, or classes parted by tabs.
        missing: what is missing of the file, going on from its name, or "".
        task: of a bank, if it was chosen among several; else "".
        words: of the text with their times, if those were asked for.
        hypotheses: all that was found, the text's own first; () for classes, and where only texts
            were asked for.
    """

    text: str
    missing: str
    task: str = ""
    words: tuple[TimedWord, ...] = ()
    hypotheses: tuple[Hypothesis, ...] = ()


def transcribe_files(loaded: LoadedModel, paths: Sequence[Path]) -> list[Transcript]:
    """The text of each file, or its classes.

    Files may have any sample rate and number of channels. Those that a batch cannot hold are heard
    in windows, if the model writes texts.

    Warns of files whose samples are of a scale, or of channels, that no model can hear.

    Raises:
        UserError: a file is missing or is not readable audio; checked before any is transcribed.
    """
    loaded.model.to(best_device())
    if isinstance(loaded, LoadedRecogniser):
        source = ModelEmissions(loaded)
        long = set(_long_ones(paths, source.rate))
    else:
        source, long = None, set()
        _seconds(paths)
    found = []
    for path in _seen_to_go_on(paths):
        if source is not None and path in long:
            found.append(_of_long(source, GreedySearch(source.symbols), path, None))
        else:
            samples, missing = _recording(path, sample_rate(loaded))
            found.append(Transcript(texts_of(loaded, [samples])[0], missing))
    return found


def search_files(
    source: EmissionSource, search: Search, paths: Sequence[Path], *, workers: int | None = None
) -> list[Transcript]:
    """What a search finds in each file, with the times of the words if the search tells frames.

    Args:
        workers: processes that search, None for one per core.

    Raises:
        UserError: as `transcribe_files`; or as the search; or a file is long, and the search finds
            several transcripts, which those of segments do not make.
    """
    long = _long_ones(paths, source.rate)
    if long and getattr(search, "nbest", 1) > 1:
        raise UserError(
            f"{long[0]} is heard in parts, each of which has its own best transcripts; leave out "
            "--nbest, or cut it"
        )
    short = [index for index, path in enumerate(paths) if path not in set(long)]
    missing: list[str] = []

    def emissions() -> Iterator[np.ndarray]:
        for path in _seen_to_go_on([paths[index] for index in short]):
            samples, lacking = _recording(path, source.rate)
            missing.append(lacking)
            yield from source.emissions([samples])

    at = frame_times(source)
    hypotheses = list(searched(search, emissions(), workers))
    found = {
        index: Transcript(
            each[0].text, lacking, "", timed_words(each[0], source.symbols, at), tuple(each)
        )
        for index, each, lacking in zip(short, hypotheses, missing)
    }
    for index, path in enumerate(paths):
        if index not in found:
            found[index] = _of_long(source, search, path, workers)
    return [found[index] for index in range(len(paths))]


def hear_files(bank: BankModel, paths: Sequence[Path]) -> list[Transcript]:
    """The text of each file by the task of a bank that is surest; else as `transcribe_files`.

    Raises:
        UserError: as that, or the bank has no task that writes texts.
    """
    rate = bank.rate()
    _seconds(paths)
    found = []
    for path in _seen_to_go_on(paths):
        samples, missing = _recording(path, rate)
        (heard,) = bank.hear([samples])
        found.append(Transcript(heard.text, missing, heard.task))
    return found


def _of_long(source: EmissionSource, search: Search, path: Path, workers: int | None) -> Transcript:
    stream = RecordingStream(path, source.rate)
    with naming(path):
        found = transcribe_long(source, _progressing(stream), search, workers=workers)
    _warn(path, stream.oddities)
    words = timed_words(found, source.symbols, frame_times(source))
    return Transcript(found.text, stream.missing, "", words, (found,))


def _progressing(stream: RecordingStream) -> Iterator[np.ndarray]:
    """The blocks of a stream; how many of its seconds were heard is seen."""
    whole = round(seconds_of(stream.path)) if np.isfinite(seconds_of(stream.path)) else None
    name = stream.path.name
    with tqdm(total=whole, unit="s", desc=name, leave=False, disable=None) as bar:
        done = 0
        for block in stream:
            yield block
            done += len(block)
            bar.update(done // stream.rate - bar.n)


def _long_ones(paths: Sequence[Path], rate: int) -> list[Path]:
    """Those that no batch can hold, at a rate in Hz."""
    return [path for path, seconds in _seconds(paths).items() if seconds * rate > MAX_TOKENS]


def _seconds(paths: Sequence[Path]) -> dict[Path, float]:
    """How long each file is; UserError if one cannot be read."""
    found = {}
    for path in paths:
        with naming(path):
            found[path] = seconds_of(path)
    return found


def _seen_to_go_on(paths: Sequence[Path]) -> Iterator[Path]:
    yield from tqdm(paths, unit="file", desc="transcribing", leave=False, disable=None)


def _recording(path: Path, rate: int) -> tuple[np.ndarray, str]:
    """A file's samples at a rate, float32 (samples,), and what is missing of it."""
    with naming(path):
        decoded = decode_recording(path)
    _warn(path, decoded.oddities)
    return resample(decoded.samples, decoded.rate, rate), decoded.missing


def _warn(path: Path, oddities: Sequence[Remark]) -> None:
    for oddity in oddities:
        logger.warning(f"{path} {oddity.message}")
