"""Long recordings: no frame is lost or there twice, and the text is that of their parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from arpa import write_arpa
from emissions import SYMBOLS

from speechprune.decoding.beam import BeamSearch
from speechprune.decoding.hypothesis import GreedySearch
from speechprune.decoding.long_recordings import segments, transcribe_long
from speechprune.decoding.symbols import OutputSymbols
from speechprune.decoding.timing import FrameTimes, timed_words
from speechprune.decoding.windows import Cutting, windows
from speechprune.manifests.recording import BadAudio, decode_recording
from speechprune.manifests.recording_stream import RecordingStream

RATE, STRIDE, RECEPTIVE = 1000, 20, 25
AT = FrameTimes(RATE, STRIDE, RECEPTIVE)
SHORT = Cutting(shortest=2.0, longest=4.0, context=0.5)


class Loudness:
    """A model that hears one symbol in each frame: by how loud its samples are; nothing else.

    Level 0 is silence. It notes the longest audio that it was given.
    """

    path = Path("loudness.pt")
    symbols: OutputSymbols = SYMBOLS
    rate = RATE
    longest = 0

    def frame_count(self, samples: int) -> int:
        return 0 if samples < RECEPTIVE else (samples - RECEPTIVE) // STRIDE + 1

    def emissions(self, audio: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.longest = max(self.longest, *map(len, audio))
        return [self._of(samples) for samples in audio]

    def _of(self, samples: np.ndarray) -> np.ndarray:
        count = self.frame_count(len(samples))
        frames = [samples[t * STRIDE : t * STRIDE + RECEPTIVE] for t in range(count)]
        levels = [round(float(np.median(np.abs(frame)))) for frame in frames]
        numbers = np.array([(0, 4, 5, 6)[level] for level in levels], dtype=int)
        shares = np.full((count, len(SYMBOLS.names)), 0.01) + 0.9 * np.eye(7)[numbers]
        return np.log(shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)


def speech(words: Sequence[str]) -> np.ndarray:
    """Samples of words: each letter and each separator is 0.1 s of its level, then silence."""
    levels = {"|": 1, "A": 2, "B": 3}
    pieces = [np.zeros(300)]
    for word in words:
        for letter in f"{word}|":
            pieces += [np.full(100, levels[letter]), np.zeros(40)]
        pieces.append(np.zeros(400))
    return np.concatenate(pieces).astype(np.float32)


def some_words(count: int, seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    return [
        "".join(generator.choice(["A", "B"], size=generator.integers(1, 4))) for _ in range(count)
    ]


def blocks_of(samples: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for begin in range(0, len(samples), size):
        yield samples[begin : begin + size]


@pytest.mark.parametrize("size", [1, 333, 10_000, 10**6])
@pytest.mark.parametrize("count", [0, 1, 24, 25, 44, 45, 4499, 4500, 4520, 20_001, 61_237])
def test_frames_of_windows_are_those_of_the_whole(count: int, size: int) -> None:
    if size == 1 and count > 5000:
        pytest.skip("it takes long, and shows no more")
    samples = np.random.default_rng(count).integers(0, 4, size=count).astype(np.float32)
    model, found = Loudness(), []
    for window in windows(blocks_of(samples, size), AT, SHORT):
        (heard,) = model.emissions([window.samples])
        end = None if window.frames is None else window.before + window.frames
        found.append(heard[window.before : end])
        assert end is None or len(found[-1]) == window.frames
    (whole,) = model.emissions([samples])
    assert np.array_equal(np.concatenate(found), whole)


def test_windows_are_bounded_and_cut_where_it_is_silent() -> None:
    samples = speech(some_words(60, 0))
    cuts, place = [], 0
    found = list(windows(blocks_of(samples, 777), AT, SHORT))
    assert len(found) > 10
    for window in found[:-1]:
        assert len(window.samples) <= 1000 * (4.0 + 2 * 0.5)
        assert window.frames is not None and 100 <= window.frames <= 200
        place += window.frames * STRIDE
        cuts.append(place)
    for cut in cuts:
        assert not samples[cut - 60 : cut + 60].any()


@pytest.mark.parametrize("seed", range(3))
def test_the_text_of_a_long_recording_is_that_of_its_parts(seed: int, tmp_path: Path) -> None:
    words = some_words(150, seed)
    samples = speech(words)
    model = Loudness()
    greedy = transcribe_long(model, blocks_of(samples, 5000), GreedySearch(SYMBOLS), cutting=SHORT)
    assert greedy.text == " ".join(words)
    assert model.longest <= 5000 < len(samples)
    lm = write_arpa(tmp_path / "lm.arpa", [" ".join(words)])
    search = BeamSearch(model.path, SYMBOLS, lm, with_spans=True, lm_weight=0.1)
    searched = transcribe_long(model, blocks_of(samples, 5000), search, cutting=SHORT, workers=1)
    assert searched.words == tuple(words)
    times = [timed_words(found, SYMBOLS, AT) for found in (greedy, searched)]
    assert [word.text for word in times[1]] == words
    place = 0.3
    for word, one, other in zip(words, *times):
        assert one.start == pytest.approx(place, abs=0.05)
        assert (one.start, one.end) == pytest.approx((other.start, other.end), abs=0.05)
        assert one.end == pytest.approx(place + 0.14 * len(word) - 0.04, abs=0.05)
        place += 0.14 * (len(word) + 1) + 0.4


def test_segments_end_between_words() -> None:
    (emissions,) = Loudness().emissions([speech(some_words(40, 3))])
    parts = np.array_split(emissions, 17)
    found = list(segments(parts, SYMBOLS, 50, 150))
    assert np.array_equal(np.concatenate(found), emissions) and len(found) > 5
    assert all(50 <= len(segment) <= 150 for segment in found[:-1])
    texts = [GreedySearch(SYMBOLS)(segment)[0].text for segment in found]
    assert " ".join(texts).split() == some_words(40, 3)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
@pytest.mark.parametrize("rate", [16000, 22050])
def test_a_stream_is_what_is_decoded_at_once(tmp_path: Path, name: str, rate: int) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, (rate * 25, 2))
    soundfile.write(tmp_path / name, samples, rate)
    decoded = decode_recording(tmp_path / name)
    stream = RecordingStream(tmp_path / name, 16000)
    streamed = np.concatenate(list(stream))
    expected = decoded.samples
    if rate != 16000:
        expected = soxr.resample(expected, rate, 16000)
    assert streamed.dtype == np.float32 and len(streamed) == len(expected)
    assert np.abs(streamed - expected).max() < 1e-6
    assert stream.missing == decoded.missing and stream.oddities == decoded.oddities


def test_a_stream_tells_what_is_wrong(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 16000 * 25)
    soundfile.write(tmp_path / "loud.wav", np.stack([samples, -samples], 1) * 32768, 16000, "FLOAT")
    stream = RecordingStream(tmp_path / "loud.wav", 16000)
    assert list(stream)
    assert stream.oddities == decode_recording(tmp_path / "loud.wav").oddities
    assert len(stream.oddities) == 2
    soundfile.write(tmp_path / "cut.flac", samples, 16000)
    content = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(content[: len(content) // 2])
    stream, decoded = (
        RecordingStream(tmp_path / "cut.flac", 16000),
        decode_recording(tmp_path / "cut.flac"),
    )
    assert np.array_equal(np.concatenate(list(stream)), decoded.samples)
    assert stream.missing == decoded.missing != ""
    samples[16000 * 20] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 16000, "FLOAT")
    with pytest.raises(BadAudio, match=r"at 20.000 s \(sample 320000\)"):
        list(RecordingStream(tmp_path / "nan.wav", 16000))
