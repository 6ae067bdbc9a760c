"""`speechprune transcribe`: any rate, channels and format; nothing half printed."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch
from bars import watch
from click.testing import CliRunner
from corpora import cut
from nano import write_corpus, write_finetuned, write_wav2vec2

from speechprune.decoding import files as audio_files
from speechprune.decoding.files import transcribe_files
from speechprune.decoding.greedy import decode
from speechprune.decoding.inference import read_audio, transcribe
from speechprune.errors import UserError
from speechprune.models.loading import load_finetuned
from speechprune.tools.transcribe import command


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("data"), train=2, valid=1)


@pytest.fixture(scope="module")
def checkpoint(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    source = write_wav2vec2(folder / "pretrained.pt", extractor_mode="layer_norm", normalize=True)
    return write_finetuned(folder / "finetuned.pt", source, data)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(command, [str(a) for a in arguments])


def test_prints_each_file_and_its_text(checkpoint: Path, data: Path) -> None:
    files = [data / "audio" / "train-1.wav", data / "audio" / "train-0.wav"]
    loaded = load_finetuned(checkpoint)
    texts = [transcribe(loaded, [read_audio(file, 16000)])[0] for file in files]
    assert all(texts)
    ran = run(checkpoint, *files)
    assert ran.exit_code == 0
    assert ran.stdout == "".join(f"{f}\t{t}\n" for f, t in zip(files, texts))
    rows = json.loads(run(checkpoint, "--json", *files).stdout)
    assert rows == [{"file": str(f), "text": t} for f, t in zip(files, texts)]


def test_transcribing_is_seen_to_go_on(
    checkpoint: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, files = load_finetuned(checkpoint), sorted((data / "audio").glob("train-*.wav"))
    silent = transcribe_files(loaded, files)
    bars = watch(audio_files, monkeypatch)
    assert transcribe_files(loaded, files) == silent
    assert [(bar.desc, bar.n, bar.total) for bar in bars] == [("transcribing", 2, 2)]


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_other_rates_channels_and_formats_are_brought_to_the_models(
    tmp_path: Path, data: Path, name: str
) -> None:
    mono = read_audio(data / "audio" / "train-0.wav", 16000)
    higher = soxr.resample(mono, 16000, 44100)
    noise = np.random.default_rng(0).normal(0, 0.05, len(higher)).astype(np.float32)
    stereo = np.stack([higher + noise, higher - noise], axis=1)
    soundfile.write(tmp_path / name, stereo, 44100)
    samples = read_audio(tmp_path / name, 16000)
    assert samples.dtype == np.float32
    assert abs(len(samples) - len(mono)) <= 2
    inner = slice(200, min(len(mono), len(samples)) - 200)
    lossy = name.endswith("ogg")
    assert np.corrcoef(samples[inner], mono[inner])[0, 1] > (0.9 if lossy else 0.9999)


def test_loudness_does_not_matter_to_a_normalising_model(checkpoint: Path, data: Path) -> None:
    loaded = load_finetuned(checkpoint)
    samples = read_audio(data / "audio" / "train-0.wav", 16000)
    assert transcribe(loaded, [samples]) == transcribe(loaded, [0.1 * samples])


def test_greedy_decoding_collapses_then_drops_blanks(checkpoint: Path) -> None:
    loaded = load_finetuned(checkpoint)
    symbols = ["<s>", "A", "A", "<s>", "A", "|", "|", "B", "<pad>", "</s>", "C", "|", "<s>"]
    numbers = torch.tensor([loaded.dictionary.index(symbol) for symbol in symbols])
    emissions = torch.nn.functional.one_hot(numbers, len(loaded.dictionary)).unsqueeze(1)
    assert list(decode(loaded.dictionary, emissions)) == ["AA BC"]


def test_an_unreadable_file_stops_everything_with_one_line(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    good = data / "audio" / "train-0.wav"
    (tmp_path / "text.wav").write_text("no audio")
    shutil.copy(good, tmp_path / "x.raw")
    soundfile.write(tmp_path / "nan.wav", np.full(8000, np.nan), 16000, "FLOAT")
    for name in ("text.wav", "missing.wav", ".", "x.raw", "nan.wav", "x" * 300, "all.zip:0:9"):
        bad = tmp_path / name
        ran = run(checkpoint, good, bad)
        assert ran.exit_code != 0
        assert ran.stdout == ""
        assert isinstance(ran.exception, UserError)
        assert str(bad) in str(ran.exception)
        assert "\n" not in str(ran.exception)


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_a_truncated_file_is_transcribed_and_told(
    checkpoint: Path, data: Path, tmp_path: Path, name: str
) -> None:
    good = data / "audio" / "train-0.wav"
    samples = np.tile(read_audio(good, 16000), 4)
    soundfile.write(tmp_path / name, samples, 16000)
    whole = len(samples) / 16000
    bad = cut(tmp_path / name, 0.6)
    ran = run(checkpoint, bad, good)
    assert ran.exit_code == 1
    told = re.fullmatch(
        rf"speechprune: error: {bad} is truncated: (\d+\.\d+) of {whole:.2f} s are there\n",
        ran.stderr,
    )
    assert told is not None
    there = samples[: round(float(told[1]) * 16000)]
    assert 0.4 * len(samples) < len(there) < 0.61 * len(samples)
    (text,) = transcribe(load_finetuned(checkpoint), [there])
    assert text and ran.stdout.startswith(f"{bad}\t{text[:-3]}")
    assert ran.stdout.count("\n") == 2
    as_json = run(checkpoint, "--json", bad, good)
    assert as_json.exit_code == 1 and len(json.loads(as_json.stdout)) == 2


def test_files_that_sound_wrong_are_told(
    checkpoint: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    samples = read_audio(data / "audio" / "train-0.wav", 16000)
    soundfile.write(tmp_path / "mute.wav", np.stack([samples, -samples], 1), 16000)
    soundfile.write(tmp_path / "loud.wav", samples * 32768, 16000, "FLOAT")
    transcribe_files(load_finetuned(checkpoint), [tmp_path / "mute.wav", tmp_path / "loud.wav"])
    mute, loud = (record.getMessage() for record in caplog.records)
    assert "mute.wav has channels that cancel" in mute and "loud.wav has float samples" in loud


def test_a_name_need_not_be_text(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    good, loaded = data / "audio" / "train-0.wav", load_finetuned(checkpoint)
    name = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    shutil.copy(good, name)
    (strange, plain) = transcribe_files(loaded, [Path(os.fsdecode(name)), good])
    assert strange == plain


def test_real_speech_of_another_rate_and_format(checkpoint: Path, shared_data: Path) -> None:
    (file,) = (shared_data / "commonvoice").glob("*.mp3")
    ran = run(checkpoint, file)
    assert ran.exit_code == 0
    assert ran.stdout.startswith(f"{file}\t")
