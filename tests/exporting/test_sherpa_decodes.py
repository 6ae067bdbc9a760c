"""sherpa-onnx and onnxruntime write of real recordings what the checkpoint writes."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from exported_models import Pair, Workshop

from speechprune.decoding.inference import transcribe
from speechprune.exporting.onnx_model import load_onnx
from speechprune.manifests.audio import resample
from speechprune.models.loading import load_recogniser

#: Of the archive, one after another.
DIGITS = 12


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Workshop(tmp_path_factory.mktemp("sherpa")).pair("sherpa")


@pytest.fixture(scope="module")
def digits(shared_data: Path) -> list[np.ndarray]:
    """Spoken by several, float32 (samples,) at 16 kHz."""
    found = []
    with tarfile.open(shared_data / "fsdd" / "fsdd-5speakers.tar") as archive:
        names = sorted(name for name in archive.getnames() if name.endswith((".wav", ".flac")))
        for name in names[:: max(1, len(names) // DIGITS)][:DIGITS]:
            file = archive.extractfile(name)
            assert file is not None
            samples, rate = soundfile.read(io.BytesIO(file.read()), dtype="float32")
            found.append(resample(samples, rate, 16000))
    return found


def test_onnxruntime_writes_the_same_text(pair: Pair, digits: list[np.ndarray]) -> None:
    expected = transcribe(load_recogniser(pair.checkpoint), digits)
    assert transcribe(load_onnx(pair.path), digits) == expected
    assert len(set(expected)) > DIGITS // 2


def test_sherpa_onnx_writes_the_same_text(pair: Pair, digits: list[np.ndarray]) -> None:
    sherpa_onnx = pytest.importorskip("sherpa_onnx")
    recognizer = sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(
        model=str(pair.path), tokens=str(pair.path.parent / "tokens.txt"), num_threads=1
    )
    found = []
    for samples in digits:
        stream = recognizer.create_stream()
        stream.accept_waveform(16000, samples)
        recognizer.decode_stream(stream)
        found.append(stream.result.text.split())
    expected = transcribe(load_recogniser(pair.checkpoint), digits)
    assert found == [text.split() for text in expected]
