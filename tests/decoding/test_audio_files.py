"""Training, by fairseq's own reader, and evaluation hear the same of every file of a manifest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from corpora import corpus_of, cut, noise, without_length

from speechprune.decoding.inference import read_audio
from speechprune.errors import UserError
from speechprune.manifests.check import check_split
from speechprune.manifests.manifest import read_split
from speechprune.manifests.preparation import prepare


def fairseq_hears(folder: Path, split: str) -> list[np.ndarray]:
    """What fairseq trains on, (T,) each."""
    from fairseq.data.audio.raw_audio_dataset import FileAudioDataset

    dataset = FileAudioDataset(str(folder / f"{split}.tsv"), sample_rate=16000)
    return [dataset[index]["source"].numpy() for index in range(len(dataset))]


def write_odd_files(folder: Path) -> None:
    """Every kind that `prepare` takes, one file each."""
    samples = np.random.default_rng(0).normal(0, 0.1, 64000)
    stereo = np.stack([samples, 0.5 * samples], 1)
    folder.mkdir()
    for subtype in ("PCM_16", "PCM_24", "PCM_U8", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM", "GSM610"):
        soundfile.write(folder / f"{subtype}.wav", samples, 16000, subtype)
    for form in ("FLAC", "OGG", "MP3", "RF64", "W64", "AIFF", "NIST", "WAVEX"):
        soundfile.write(folder / f"is_{form}.wav", samples, 16000, format=form)
    soundfile.write(folder / "stereo.wav", stereo, 16000)
    soundfile.write(folder / "slow.wav", samples, 8000)
    soundfile.write(folder / "loud.wav", samples * 32768, 16000, "FLOAT")
    noise(folder / "a b é.WAV", 1.0)
    noise(folder / "a:b.WAV", 1.0)
    without_length(noise(folder / "streamed.wav", 1.0))
    for name in ("cut_wav.wav", "cut_flac.flac"):
        cut(noise(folder / name, 4.0), 0.97)


def test_both_hear_what_the_manifest_says(tmp_path: Path) -> None:
    write_odd_files(tmp_path / "in")
    names = sorted(path.name for path in (tmp_path / "in").iterdir())
    prepared = prepare(corpus_of(tmp_path / "in", train=names), tmp_path / "out", max_bad=0.0)
    split = read_split(tmp_path / "out", "train")
    check_split(tmp_path / "out", "train")
    heard = fairseq_hears(tmp_path / "out", "train")
    assert len(split.utterances) == len(heard) == len(names)
    for utterance, samples in zip(split.utterances, heard):
        assert len(samples) == utterance.frames, utterance.path
        assert np.array_equal(read_audio(split.root / utterance.path, 16000), samples)
    kinds = [(clip, kind) for _, clip, kind, _ in prepared.remarks]
    assert kinds == [("cut_flac", "cut short"), ("cut_wav", "cut short"), ("loud", "integer scale")]


def test_files_in_place_are_heard_alike_or_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    noise(tmp_path / "a.flac", 1.0)
    content = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "all.zip").write_bytes(b"before" + content + b"after")
    cut(noise(tmp_path / "b.wav", 1.0), 0.97)
    soundfile.write(tmp_path / "c.wav", np.random.default_rng(0).normal(0, 0.1, (16000, 2)), 16000)
    rows = ["a.flac", f"all.zip:6:{len(content)}", "b.wav", "c.wav"]
    (tmp_path / "out/train.tsv").write_text("\n".join([str(tmp_path), *(f"{r}\t1" for r in rows)]))
    for row, samples in zip(rows, fairseq_hears(tmp_path / "out", "train")):
        assert np.array_equal(read_audio(tmp_path / row, 16000), samples)
    for name in ("cut.flac", "half.wav"):  # fairseq fails at the first, and should at the second
        cut(noise(tmp_path / name, 4.0), 0.97 if name == "cut.flac" else 0.5)
        with pytest.raises(UserError, match=f"{name} is truncated"):
            read_audio(tmp_path / name, 16000)
