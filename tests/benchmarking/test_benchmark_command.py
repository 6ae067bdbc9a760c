"""`speechprune benchmark` measures models side by side, each in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result
from exported_models import Pair, Workshop
from nano import write_corpus

from speechprune.benchmarking.hearing import Source, _FromCheckpoint, _FromOnnx
from speechprune.benchmarking.measuring import Audio
from speechprune.decoding.inference import count_parameters
from speechprune.models.loading import load_recogniser
from speechprune.tools.main import commands


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    yield Workshop(tmp_path_factory.mktemp("measured"))


@pytest.fixture(scope="module")
def pair(shop: Workshop) -> Pair:
    return shop.pair("masked")


def run(*words: object) -> Result:
    return CliRunner().invoke(commands, ["benchmark", *map(str, words)])


def test_a_checkpoint_and_its_file(shop: Workshop, pair: Pair, tmp_path: Path) -> None:
    line = (pair.checkpoint, pair.path, "--repeats", 1, "--threads", 1, "--batch", 2)
    recordings = ("--data", shop.data, "--subset", "valid")
    figure = tmp_path / "speed.svg"
    result = run(*line, *recordings, "--json", "--figure", figure)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    checkpoint, exported = told.pop("models")
    assert told == {
        "data": str(shop.data),
        "subset": "valid",
        "batch": 2,
        "threads": 1,
        "repeats": 1,
    }
    assert checkpoint["size"] == pair.checkpoint.stat().st_size
    assert exported["size"] == pair.path.stat().st_size
    parameters = count_parameters(load_recogniser(pair.checkpoint).model)
    assert checkpoint["parameters"] == exported["parameters"] == parameters
    assert checkpoint["multiply_adds"] == exported["multiply_adds"] > 1e6
    # Without PyTorch and fairseq in its process.
    assert exported["peak"] < 0.6 * checkpoint["peak"]
    for each in (checkpoint, exported):
        assert each["latency"] > 0 and each["throughput"] > 0
    assert "latency" in figure.read_text() and "masked.pt" in figure.read_text()


def test_noise_is_the_same_each_time() -> None:
    one, other = (Audio.noise(0.5, 3, 16000) for _ in range(2))
    assert len(one.batch) == 3 and (one.one == other.one).all()
    assert one.seconds(one.batch) == 1.5


def test_both_hear_the_same_batch(pair: Pair) -> None:
    """A model is timed on its own work alone: both kinds take recordings of other lengths."""
    audio = Audio.noise(0.5, 2, 16000)
    batch = [audio.batch[0], audio.batch[1][:5000]]
    for kind, path in ((_FromCheckpoint, pair.checkpoint), (_FromOnnx, pair.path)):
        hearer = kind(Source(path, None, 1))
        assert 0 < hearer.seconds(batch) < 60 and hearer.rate == 16000


def test_what_cannot_be_measured(pair: Pair, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(pair.path.read_bytes()[:1000])
    short = write_corpus(tmp_path / "short", train=1, valid=1)
    soundfile.write(short / "audio" / "train-0.wav", np.zeros(300), 16000)
    root, line = (short / "train.tsv").read_text().splitlines()
    name = line.split("\t")[0]
    (short / "train.tsv").write_text(f"{root}\n{name}\t300\n")
    for words, problem in (
        ((tmp_path / "nowhere.pt",), "nowhere.pt is missing"),
        ((damaged,), "damaged.onnx is not an ONNX file"),
        ((pair.path, "--task", "es"), "no model is a bank"),
        ((tmp_path,), "is a folder: name the model in it"),
        (
            (pair.path, "--data", short, "--subset", "train"),
            "no frame of a recording of 300 samples",
        ),
        ((pair.checkpoint, "--data", short, "--subset", "train"), "no frame of a recording of 300"),
        ((pair.path, "--data", tmp_path), "--data and --subset go together"),
        ((pair.path, "--figure", tmp_path / "a.txt"), "cannot be drawn"),
    ):
        result = run(*words, "--repeats", 1, "--seconds", 0.5)
        errors = [line for line in result.stderr.splitlines() if "error: " in line]
        assert result.exit_code and len(errors) == 1 and problem in errors[0], result.output
