"""ONNX files hear as the models that they were made of, whatever shares a batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import nano
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from exported_models import Workshop, alone, noise
from nano import write_finetuned, write_wav2vec2

from speechprune.backbones.cost import encoder_cost
from speechprune.decoding.inference import transcribe
from speechprune.exporting.onnx_description import KEY
from speechprune.exporting.onnx_export import export_onnx
from speechprune.exporting.onnx_graph import make_traceable
from speechprune.exporting.onnx_layouts import LAYOUTS
from speechprune.exporting.onnx_model import load_onnx
from speechprune.files import digest
from speechprune.models.loading import load_recogniser
from speechprune.models.sites import encoder_of_model, output_layer_of
from speechprune.tools.main import commands

#: Lengths of recordings of one batch each, odd and even; the shortest give one frame, and two.
BATCHES = [(16000,), (16001,), (24001, 8000), (8000, 12345, 40000), (400,), (719, 720), (400, 9000)]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    yield Workshop(tmp_path_factory.mktemp("exported"))


@pytest.mark.parametrize("name", ["masked", "slim", "dropped", "hubert", "sherpa", "sherpa_base"])
def test_scores_are_those_of_the_model_alone(shop: Workshop, name: str) -> None:
    pair = shop.pair(name)
    source = load_recogniser(pair.checkpoint)
    session = onnxruntime.InferenceSession(pair.path)
    layout = LAYOUTS[load_onnx(pair.path).model.session.description.layout]
    normalize = source.cfg.task.normalize and name == "sherpa"
    for sizes in BATCHES:
        recordings = noise(*sizes)
        expected = [alone(source, samples) for samples in recordings]
        if layout.log_probabilities:
            expected = [scores.log_softmax(-1) for scores in expected]
        if normalize:
            recordings = [(x - x.mean()) / np.sqrt(x.var() + 1e-5) for x in recordings]
        batch = np.zeros((len(sizes), max(sizes)), np.float32)
        for place, samples in zip(batch, recordings):
            place[: len(samples)] = samples
        if layout.lengths is None:
            inputs = [{layout.audio: row[None, :size]} for row, size in zip(batch, sizes)]
            found = [session.run([layout.scores], each)[0][0] for each in inputs]
        else:
            lengths = np.array(sizes, np.int64)
            found = session.run([layout.scores], {layout.audio: batch, layout.lengths: lengths})[0]
        for scores, own in zip(found, expected):
            assert np.abs(scores[: len(own)] - own.numpy()).max() < 1e-5, sizes


@pytest.mark.parametrize("name", ["masked", "hubert"])
def test_a_hum_beside_a_constant_is_heard_as_by_the_model(shop: Workshop, name: str) -> None:
    """What the first filters make of it is a small difference of large terms."""
    seconds = np.arange(16001) / 16000
    hum = (0.5 + 0.3 * np.sin(2 * np.pi * 50 * seconds)).astype(np.float32)
    expected = alone(load_recogniser(shop.pair(name).checkpoint), hum).numpy()
    session = onnxruntime.InferenceSession(shop.pair(name).path)
    inputs = {"audio": hum[None], "lengths": np.array([len(hum)])}
    assert np.abs(session.run(["logits"], inputs)[0][0] - expected).max() < 1e-4


def test_frames_are_told_of_each_recording(shop: Workshop) -> None:
    session = onnxruntime.InferenceSession(shop.pair("hubert").path)
    lengths = np.array([24001, 8000, 300], np.int64)
    audio = np.zeros((3, 24001), np.float32)
    (frames,) = session.run(["frames"], {"audio": audio, "lengths": lengths})
    source = load_recogniser(shop.pair("hubert").checkpoint)
    assert frames.tolist() == [source.frame_count(length) for length in lengths.tolist()]
    assert frames.tolist()[2] == 0


@pytest.mark.parametrize("name", ["masked", "slim", "sherpa"])
def test_texts_are_those_of_the_checkpoint(shop: Workshop, name: str) -> None:
    pair = shop.pair(name)
    recordings = noise(16000, 300, 24001, 8000)
    texts = transcribe(load_recogniser(pair.checkpoint), recordings)
    assert transcribe(load_onnx(pair.path), recordings) == texts
    assert texts[0] and not texts[1]


def test_a_file_says_all_that_it_takes(shop: Workshop, tmp_path: Path) -> None:
    """Away from its source, `evaluate` prints the same numbers of it."""
    pair = shop.pair("masked")
    moved = tmp_path / "moved.onnx"
    moved.write_bytes(pair.path.read_bytes())
    told = {p.key: p.value for p in onnx.load(moved).metadata_props}
    described = json.loads(told[KEY])
    assert described["digest"] == digest(pair.checkpoint)
    assert described["sample_rate"] == 16000 and described["normalize"] is False
    printed = [evaluated(path, shop.data) for path in (pair.checkpoint, moved)]
    for each in printed:
        del each["checkpoint"], each["checkpoint_digest"], each["seconds_of_audio_per_second"]
    assert printed[0] == printed[1]
    assert printed[0]["density"] < 1


def evaluated(path: Path, data: Path) -> dict:
    line = ["evaluate", str(path), "--data", str(data), "--subset", "valid", "--json"]
    result = CliRunner().invoke(commands, line)
    assert result.exit_code == 0, result.output
    found: dict = json.loads(result.stdout)
    return found


def test_transcribe_takes_a_file(shop: Workshop) -> None:
    pair = shop.pair("dropped")
    recording = str(shop.data / "audio" / "valid-0.wav")
    printed = [
        CliRunner().invoke(commands, ["transcribe", str(path), recording]).stdout
        for path in (pair.checkpoint, pair.path)
    ]
    assert printed[0] == printed[1] and printed[0].startswith(recording)


def test_multiply_adds_are_those_that_pytorch_counts(shop: Workshop) -> None:
    """Also at a length that the parabola was not put through."""
    pair = shop.pair("slim")
    costs = load_onnx(pair.path).model.session.description.costs
    model = load_recogniser(pair.checkpoint).model
    make_traceable(model)
    for seconds in (0.7, 5.0):
        counted = encoder_cost(encoder_of_model(model), seconds)
        head = output_layer_of(model).weight.numel() * counted.frames
        assert costs.multiply_adds(round(seconds * 16000)) == counted.multiply_adds + head


def test_what_lies_beside_a_model_for_onnx_asr(shop: Workshop) -> None:
    pair = shop.pair("slim")
    folder = pair.path.parent
    names = ["config.json", "model.int8.onnx", "model.onnx", "vocab.txt"]
    assert sorted(file.name for file in folder.iterdir()) == names
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    symbols = load_recogniser(pair.checkpoint).dictionary.symbols
    assert lines[0] == "<blk> 0" and "\u2581 4" in lines and len(lines) == len(symbols)
    config = json.loads((folder / "config.json").read_text())
    assert config == {"model_type": "wav2vec2-ctc", "subsampling_factor": 320}


def test_onnx_asr_is_told_the_strides_of_the_model(
    shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nano, "CONV_FEATURE_LAYERS", "[(16, 10, 5)] + [(16, 3, 2)] * 5")
    pretrained = write_wav2vec2(tmp_path / "short.pt", layers=1)
    checkpoint = write_finetuned(tmp_path / "short_ctc.pt", pretrained, shop.data)
    export_onnx(checkpoint, tmp_path / "out", layout="onnx-asr")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == {"model_type": "wav2vec2-ctc", "subsampling_factor": 5 * 2**5}


def test_8_bits_take_less_and_choose_the_same_symbols(shop: Workshop) -> None:
    """The sizes of nano models are those of what is not in 8 bits; bytes of weights are counted."""
    full, small = shop.pair("slim").written
    assert small.precision == "int8" and small.agreement >= 0.9
    weights = onnx.load(small.path).graph.initializer
    whole = onnx.load(full.path).graph.initializer
    stored = [each for each in weights if each.data_type == onnx.TensorProto.INT8]
    matrices = [each for each in whole if len(each.dims) == 2 and min(each.dims) > 1]
    assert len(stored) >= len(matrices) > 4


def test_convolutions_are_stored_in_8_bits() -> None:
    from onnx import TensorProto, helper, numpy_helper

    from speechprune.exporting.onnx_int8 import store_convolutions

    generator = np.random.default_rng(0)
    weight = generator.standard_normal((64, 32, 4)).astype(np.float32)
    weight *= np.geomspace(1e-3, 10, 64).astype(np.float32)[:, None, None]
    weight[3] = 0
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 32, 50))]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 64, 47))]
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", inputs, outputs, [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    before = len(model.SerializeToString())
    audio = generator.standard_normal((1, 32, 50)).astype(np.float32)
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": audio})[0]
    store_convolutions(model)
    assert len(model.SerializeToString()) < 0.3 * before
    found = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": audio})[0]
    off = np.abs(found - expected).max(axis=(0, 2)) / np.abs(expected).max(axis=(0, 2)).clip(1e-9)
    assert (off < 0.02).all() and not np.array_equal(found, expected)
    assert not found[0, 3].any()


def test_long_recordings_keep_their_frames(shop: Workshop) -> None:
    """Counting in float32 would lose some from 17 minutes on."""
    from speechprune.exporting.onnx_graph import frame_counts

    model = load_recogniser(shop.pair("masked").checkpoint).model
    encoder = encoder_of_model(model)
    for samples in (399, 400, 719, 2**24 + 1, 2**26 + 321):
        counted = frame_counts(encoder.feature_extractor.conv_layers, torch.tensor([samples]))[-1]
        assert counted.tolist() == [load_recogniser_frames(encoder, samples)]


def load_recogniser_frames(encoder: torch.nn.Module, samples: int) -> int:
    from speechprune.backbones import find_backbone

    return find_backbone(encoder).frame_count(encoder, samples)
