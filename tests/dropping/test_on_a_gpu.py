"""On a GPU, layers are as alike and plans as good as on the processor, up to rounding."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from conftest import without_gpu
from nano import write_corpus, write_finetuned, write_hubert, write_wav2vec2

from speechprune.decoding.inference import best_device
from speechprune.dropping.similarity import similarity
from speechprune.dropping.transcripts import TranscriptVerifier
from speechprune.layers.plan import LayerPlan
from speechprune.layers.similarity import MEASURES
from speechprune.manifests.manifest import read_split
from speechprune.models.loading import load_finetuned

LAYERS = 5
Found = TypeVar("Found")

pytestmark = pytest.mark.cuda


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("data"), train=1, valid=40)


@pytest.fixture(scope="module", params=[write_wav2vec2, write_hubert])
def checkpoint(
    request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp(request.param.__name__)
    pretrained = request.param(folder / "pretrained.pt", layers=LAYERS)
    return write_finetuned(folder / "finetuned.pt", pretrained, data)


def on_both(work: Callable[[], Found]) -> tuple[Found, Found]:
    """What is found on the processor, and on the GPU, which is used."""
    with without_gpu():
        there = work()
    assert best_device().type == "cuda"
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.max_memory_allocated()
    here = work()
    assert torch.cuda.max_memory_allocated() > before
    return there, here


def test_similarity(checkpoint: Path, data: Path) -> None:
    measures = {name: MEASURES.build(name) for name in ("svcca", "cka", "dc-unbiased")}
    there, here = on_both(partial(similarity, checkpoint, data, "valid", measures))
    for name in measures:
        np.testing.assert_allclose(here[name].values, there[name].values, atol=0.01)


def test_verification(checkpoint: Path, data: Path) -> None:
    """A few frames are so undecided that rounding decides."""
    split = read_split(data, "valid")
    plans = [LayerPlan(LAYERS, dropped) for dropped in ((0, 1), (3, 4), (2,))]

    def rates() -> list[float]:
        verifier = TranscriptVerifier(load_finetuned(checkpoint), split)
        return [measured.rate("cer") for measured in verifier.measure(plans, "cer")]

    there, here = on_both(rates)
    assert here == pytest.approx(there, abs=0.03)
