"""Recordings: what is used in place, what is converted, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from corpora import REAL_MP3, cut, noise, without_length

from speechprune.manifests.audio import as_it_is, read_remarks, read_resampled, write_flac
from speechprune.manifests.oddities import Remark
from speechprune.manifests.recording import BadAudio


@pytest.mark.parametrize(
    ("name", "rate", "channels", "ready"),
    [
        ("a.wav", 16000, 1, True),
        ("a.flac", 16000, 1, True),
        ("a.ogg", 16000, 1, False),
        ("a.mp3", 16000, 1, False),
        ("a.wav", 8000, 1, False),
        ("a.flac", 16000, 2, False),
    ],
)
def test_only_what_fairseq_reads_is_used_in_place(
    tmp_path: Path, name: str, rate: int, channels: int, ready: bool
) -> None:
    path = noise(tmp_path / name, 0.5, rate, channels)
    assert as_it_is(path) == ((8000, ()) if ready else None)


def test_what_fairseq_would_read_otherwise_is_not_used_in_place(tmp_path: Path) -> None:
    assert as_it_is(without_length(noise(tmp_path / "streamed.wav"))) == (8000, ())
    for name in ("a.wav", "a.flac"):
        assert as_it_is(cut(noise(tmp_path / name, 4.0), 0.98)) is None
    # fairseq takes all but a few endings for archive:offset:size.
    plain = noise(tmp_path / "a:b.wav")
    assert as_it_is(plain) == (8000, ())
    for name in ("a:b.WAV", "a.zip:12:34", "a:b"):
        plain.rename(tmp_path / name)
        assert as_it_is(tmp_path / name) is None
        assert len(read_resampled(tmp_path / name)[0]) == 8000
        plain = tmp_path / name
    # Nor does soundfile read all of what it cannot seek in.
    soundfile.write(tmp_path / "gsm.wav", np.zeros(16000), 16000, "GSM610")
    assert as_it_is(tmp_path / "gsm.wav") is None
    assert len(read_resampled(tmp_path / "gsm.wav")[0]) >= 16000


def test_samples_in_place_are_looked_at(tmp_path: Path) -> None:
    path, samples = tmp_path / "a.wav", np.full(16000, 0.5)
    soundfile.write(path, samples * 1000, 16000, "FLOAT")
    ready = as_it_is(path)
    assert ready is not None and ready.frames == 16000
    assert [remark.kind for remark in ready.remarks] == ["integer scale"]
    samples[8000] = np.nan
    soundfile.write(path, samples, 16000, "FLOAT")
    with pytest.raises(BadAudio, match=r"not numbers, the first at 0\.500 s"):
        as_it_is(path)


def test_remarks_are_kept_in_the_file(tmp_path: Path) -> None:
    remarks = (Remark("cut short", "is truncated: 1.90 of 2.00 s"), Remark("antiphase", "is mute"))
    write_flac(tmp_path / "a.flac", np.zeros(1000), remarks)
    write_flac(tmp_path / "b.flac", np.zeros(1000))
    assert read_remarks(tmp_path / "a.flac") == remarks
    assert read_remarks(tmp_path / "b.flac") == ()


def test_a_name_that_no_file_can_have_is_bad_audio(tmp_path: Path) -> None:
    write_flac(tmp_path / f"{'x' * 250}.flac", np.zeros(1000))
    with pytest.raises(BadAudio, match="too long a name"):
        write_flac(tmp_path / f"{'x' * 251}.flac", np.zeros(1000))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_tone_survives_resampling_and_channels_are_averaged(tmp_path: Path) -> None:
    time = np.arange(44100) / 44100
    left, right = np.sin(2 * np.pi * 440 * time), 0.5 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1) * 0.8, 44100)
    samples, _ = read_resampled(tmp_path / "a.wav")
    expected = 0.75 * 0.8 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert samples.dtype == np.float32 and samples.shape == (16000,)
    assert np.abs(samples - expected)[200:-200].max() < 1e-3


@pytest.mark.skipif(not REAL_MP3.exists(), reason=f"needs {REAL_MP3.name}")
def test_the_real_mp3_is_what_soundfile_and_soxr_make_of_it(tmp_path: Path) -> None:
    decoded, rate = soundfile.read(REAL_MP3, dtype="float32")
    frames = write_flac(tmp_path / "a.flac", read_resampled(REAL_MP3)[0])
    assert abs(frames - len(decoded) / rate * 16000) < 2
    written, _ = soundfile.read(tmp_path / "a.flac", dtype="float32")
    assert np.abs(written - soxr.resample(decoded, rate, 16000)).max() <= 2.0**-15


def test_a_part_is_cut_at_its_times(tmp_path: Path) -> None:
    path = noise(tmp_path / "a.wav", 2.0)
    whole, _ = soundfile.read(path, dtype="float32")
    assert np.array_equal(read_resampled(path, 0.5, 1.25)[0], whole[8000:20000])
    with pytest.raises(BadAudio, match="ends after 2.00 s, before 2.5"):
        read_resampled(path, 1.0, 2.5)


def test_loud_samples_are_clipped_and_not_wrapped(tmp_path: Path) -> None:
    write_flac(tmp_path / "a.flac", np.linspace(-2.0, 2.0, 1000, dtype=np.float32))
    written, _ = soundfile.read(tmp_path / "a.flac")
    assert (np.diff(written) >= 0).all() and written[0] == -1.0 and written[-1] == 1 - 2.0**-15


def test_what_cannot_be_used_is_told(tmp_path: Path) -> None:
    for name in ("good.flac", "good.wav", "good.mp3"):
        whole = noise(tmp_path / name, 2.0).read_bytes()
        (tmp_path / name.replace("good", "cut")).write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.wav").write_text("no audio")
    soundfile.write(tmp_path / "nan.wav", np.full(4000, np.nan), 8000, subtype="FLOAT")
    (tmp_path / "empty.mp3").write_bytes(b"")
    noise(tmp_path / "short.wav", 0.02)
    (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
    reasons = {
        "cut.flac": "truncated|damaged",
        "cut.mp3": "truncated|damaged",
        "cut.wav": "truncated",
        "nan.wav": "samples that are not numbers",
        "text.wav": "not readable audio",
        "empty.mp3": "not readable audio",
        "short.wav": "too short: 320 samples",
        "gone.wav": "No such file",
        "loop.wav": "[Ss]ymbolic link",
    }
    for name, reason in reasons.items():
        with pytest.raises(BadAudio, match=reason):
            if as_it_is(tmp_path / name) is None:
                read_resampled(tmp_path / name)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.flac").mkdir()  # cannot be replaced by a file
    with pytest.raises(OSError):
        write_flac(tmp_path / "a.flac", np.zeros(1000, dtype=np.float32))
    assert [path.name for path in tmp_path.iterdir()] == ["a.flac"]
