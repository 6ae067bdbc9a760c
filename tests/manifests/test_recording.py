"""What libsndfile makes of recordings that are cut, endless, hostile, or hold no sound."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from corpora import cut, noise, without_length

from speechprune.manifests import recording
from speechprune.manifests.audio import as_it_is, read_resampled, write_flac
from speechprune.manifests.oddities import ANTIPHASE, CUT_SHORT, INTEGER_SCALE
from speechprune.manifests.recording import (
    BOUND,
    BadAudio,
    Bound,
    MissingAudio,
    decode_memory,
    decode_recording,
    open_recording,
)

COUNTED = [
    ("WAV", "PCM_16"),
    ("WAV", "FLOAT"),
    ("WAV", "ULAW"),
    ("WAVEX", "PCM_24"),
    ("RF64", "PCM_16"),
    ("W64", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("AU", "PCM_16"),
    ("NIST", "PCM_16"),
    ("FLAC", "PCM_16"),
]


def sound(seconds: float = 4.0, rate: int = 16000) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, int(seconds * rate)).astype(np.float32)


@pytest.mark.parametrize(("form", "subtype"), COUNTED)
def test_a_cut_recording_has_what_is_there(tmp_path: Path, form: str, subtype: str) -> None:
    path = tmp_path / "a.bin"
    soundfile.write(path, sound(), 16000, subtype, format=form)
    whole, _ = soundfile.read(path, dtype="float32")
    assert decode_recording(path).check() == ()
    cut(path, 0.99)
    decoded = decode_recording(path)
    found = len(decoded.samples)
    # FLAC comes in blocks of 4096.
    assert 0.98 * 64000 - 4096 * (form == "FLAC") < found < 0.995 * 64000
    assert np.array_equal(decoded.samples, whole[:found])
    assert decoded.promised == pytest.approx(64000, abs=10)
    assert decoded.damaged == (form == "FLAC")
    (remark,) = decoded.check()
    assert remark == (CUT_SHORT, f"is truncated: {found / 16000:.2f} of 4.00 s are there")
    cut(path, 0.9)
    with pytest.raises(BadAudio, match=r"is truncated: 3\.[3-6]\d of 4\.00 s are there"):
        decode_recording(path).check()


def test_a_recording_of_which_only_the_header_is_there_is_not_silence(tmp_path: Path) -> None:
    path = noise(tmp_path / "a.wav", 1.0)
    path.write_bytes(path.read_bytes()[:44])
    decoded = decode_recording(path)
    assert not len(decoded.samples) and decoded.missing == "is truncated: 0.00 of 1.00 s are there"


def test_a_part_of_a_cut_recording_counts_by_itself(tmp_path: Path) -> None:
    path = noise(tmp_path / "a.wav", 4.0)
    cut(path, 0.75)
    assert decode_recording(path, 0.5, 2.0).check() == ()
    assert len(decode_recording(path, 1.0, 3.05).check()) == 1
    for start in (2.0, 3.5):
        with pytest.raises(BadAudio, match="is truncated"):
            decode_recording(path, start, 4.0).check()


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 0x7FFFFFFF, 0x80000000])
def test_a_wav_of_unknown_length_is_read_to_its_end(tmp_path: Path, size: int) -> None:
    path = noise(tmp_path / "a.wav", 1.0)
    whole, _ = soundfile.read(path, dtype="float32")
    without_length(path, size)
    decoded = decode_recording(path)
    assert np.array_equal(decoded.samples, whole) and decoded.check() == ()


def test_a_flac_of_unknown_length_is_read_to_its_end(tmp_path: Path) -> None:
    path = noise(tmp_path / "a.flac", 1.0)
    whole, _ = soundfile.read(path, dtype="float32")
    _promise(path, 0)
    decoded = decode_recording(path)
    assert len(decoded.samples) >= 15999 and decoded.check() == ()
    assert np.array_equal(decoded.samples, whole[: len(decoded.samples)])
    assert np.array_equal(decode_recording(path, 0.25, 0.5).samples, whole[4000:8000])


def _promise(path: Path, samples: int) -> None:
    """Let the header of a FLAC promise so many samples; 0 for an unknown number."""
    content = bytearray(path.read_bytes())
    content[21:26] = struct.pack(">Q", int.from_bytes(content[18:26], "big") >> 36 << 36 | samples)[
        3:
    ]
    path.write_bytes(content)


@pytest.mark.parametrize("riff", [0, 36, 0xFFFFFFFF])
def test_a_wav_that_counts_nothing_is_not_silence(tmp_path: Path, riff: int) -> None:
    path = without_length(noise(tmp_path / "a.wav"), 0, riff)
    with pytest.raises(BadAudio, match="counts no samples, though bytes follow"):
        open_recording(path)
    soundfile.write(path, np.zeros(0), 16000)
    assert not len(decode_recording(path).samples)


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_place_of_a_bad_sample_is_named(tmp_path: Path, subtype: str, bad: float) -> None:
    samples = sound(1.0)
    samples[[8000, 12000]] = bad
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype)
    for start in (0.0, 0.4):
        with pytest.raises(BadAudio, match=r"first at 0\.500 s \(sample 8000\)"):
            decode_recording(tmp_path / "a.wav", start)
    assert len(decode_recording(tmp_path / "a.wav", 0.0, 0.5).samples) == 8000
    soundfile.write(tmp_path / "a.wav", np.stack([sound(1.0), samples], 1), 16000, subtype)
    with pytest.raises(BadAudio, match="sample 8000"):
        decode_recording(tmp_path / "a.wav")


def kinds(path: Path, samples: np.ndarray, subtype: str = "PCM_16") -> list[str]:
    soundfile.write(path, samples, 16000, subtype)
    return [remark.kind for remark in decode_recording(path).check()]


def test_samples_that_no_model_can_hear_are_remarked(tmp_path: Path) -> None:
    path, mono, other = tmp_path / "a.wav", sound(1.0), sound(2.0)[16000:]
    assert (
        kinds(path, mono * 32768, "FLOAT") == kinds(path, mono * 128, "DOUBLE") == [INTEGER_SCALE]
    )
    assert kinds(path, mono * 8, "FLOAT") == kinds(path, mono * 32768, "PCM_16") == []
    assert kinds(path, np.stack([mono, -mono], 1)) == [ANTIPHASE]
    assert kinds(path, np.stack([mono, 0.01 * other - mono], 1)) == [ANTIPHASE]
    assert kinds(path, np.stack([mono, -mono], 1) * 1000, "FLOAT") == [INTEGER_SCALE, ANTIPHASE]
    for second in (mono, other, 0 * mono, -0.8 * mono):
        assert kinds(path, np.stack([mono, second], 1)) == []
    assert kinds(path, np.zeros((16000, 2))) == []


def test_a_slice_lies_within_its_archive(tmp_path: Path) -> None:
    content = noise(tmp_path / "a.wav").read_bytes()
    (tmp_path / "all.zip").write_bytes(b"before" + content + b"after")
    within = tmp_path / f"all.zip:6:{len(content)}"
    whole, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    assert np.array_equal(decode_recording(within).samples, whole)
    for beyond in (f"6:{len(content) + 6}", "0:1000000000000", "1000000000000:1", "0:" + "9" * 18):
        with pytest.raises(BadAudio, match="beyond the end of its archive"):
            decode_recording(tmp_path / f"all.zip:{beyond}")
    with pytest.raises(BadAudio, match="not readable audio"):
        decode_recording(tmp_path / "all.zip:0:0")
    for missing in ("no.zip:0:10", "all.zip:0:" + "9" * 5000):
        with pytest.raises(BadAudio):
            decode_recording(tmp_path / missing)
    within.write_bytes(content)  # a file may be called so
    (tmp_path / "all.zip").unlink()
    assert np.array_equal(decode_recording(within).samples, whole)


def test_no_more_is_decoded_than_the_bound(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, np.zeros((1 << 16, 2)), 16000)
    assert path.stat().st_size < 9000
    monkeypatch.setattr(recording, "BOUND", Bound(1 << 17, 10.0))
    assert len(decode_recording(path).samples) == 1 << 16
    monkeypatch.setattr(recording, "BOUND", Bound((1 << 17) - 9, 10.0))
    for promised in (1 << 16, (1 << 36) - 1, 0):
        _promise(path, promised)
        with pytest.raises(BadAudio, match="too long for one recording"):
            decode_recording(path)
    assert len(decode_recording(path, 1.0, 2.0).samples) == 16000
    soundfile.write(tmp_path / "slow.wav", np.zeros(11), 1)
    with pytest.raises(BadAudio, match="too long for one recording"):  # 160,000 at 16 kHz
        decode_recording(tmp_path / "slow.wav")


def test_what_is_no_recording_is_told(tmp_path: Path) -> None:
    noise(tmp_path / "a.wav").rename(tmp_path / "a.raw")
    os.mkfifo(tmp_path / "pipe.wav")
    for name, reason in {
        "a.raw": "it has no header",
        "pipe.wav": "not a file",
        ".": "not a file",
        "x" * 300: "name too long",
    }.items():
        with pytest.raises(BadAudio, match=f"(?i){reason}"):
            open_recording(tmp_path / name)
    for name in ("gone.wav", "a.raw/b.wav", "a\0b.wav", "gone.zip:0:10"):
        with pytest.raises(MissingAudio):
            open_recording(tmp_path / name)


def test_a_name_need_not_be_text(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    os.rename(noise(tmp_path / "a.wav"), name)
    assert len(decode_recording(Path(os.fsdecode(name))).samples) == 8000


def test_libsndfile_never_calls_back_into_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interruption in there would be lost, and seeking in a damaged file prints tracebacks."""

    def refuse(*_: Any) -> None:
        raise AssertionError("memory is read or written through callbacks")

    monkeypatch.setattr(soundfile.SoundFile, "_init_virtual_io", refuse)
    content = noise(tmp_path / "a.flac").read_bytes()
    (tmp_path / "all.zip").write_bytes(content)
    assert len(decode_recording(tmp_path / f"all.zip:0:{len(content)}").samples) == 8000
    assert len(decode_memory(content, BOUND).samples) == 8000
    assert write_flac(tmp_path / "b.flac", np.zeros(16000)) == 16000


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    content = noise(tmp_path / "a.wav").read_bytes()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        decode_memory(content, BOUND)
        write_flac(tmp_path / "b.flac", np.zeros(1000))
        for bad in (b"no audio" * 100, content[:50], b"", without_samples(content)):
            with pytest.raises(BadAudio):
                decode_memory(bad, BOUND).check()
    assert len(os.listdir("/proc/self/fd")) == before


def without_samples(content: bytes) -> bytes:
    """A WAV whose header counts no samples."""
    return content[:40] + bytes(4) + content[44:]


@pytest.mark.parametrize("seed", range(3))
def test_damage_is_bad_audio_whatever_it_is(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    path = tmp_path / "damaged"
    for form, subtype in [*COUNTED, ("OGG", "VORBIS"), ("CAF", "PCM_16"), ("WAV", "IMA_ADPCM")]:
        soundfile.write(path, sound(0.5), 16000, subtype, format=form)
        whole = path.read_bytes()
        for _ in range(20):
            damaged = np.frombuffer(whole, np.uint8).copy()
            places = random.integers(0, min(len(damaged), 10 ** random.integers(2, 6)), 4)
            damaged[places] = random.choice([0, 1, 127, 128, 255, 77], 4)
            path.write_bytes(damaged[: random.integers(1, 2 * len(damaged))].tobytes())
            for work in (
                lambda: decode_recording(path).check(),
                lambda: decode_memory(path.read_bytes(), Bound(1 << 19, 60.0)).check(),
                lambda: as_it_is(path) or read_resampled(path, 0.1, 0.3),
            ):
                with suppress(BadAudio):
                    work()
