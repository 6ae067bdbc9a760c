"""Choosing layers to drop beside the plain way to: similarity, search, verification of plans.

    python -m benchmarks.layer_search

Both ways run in one process and take turns; times are medians. The plain ways are those of
`benchmarks.original_layer_search`. The machine should have nothing else to do: numpy's threads and
torch's suffer unequally from other work.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Any

import click
import numpy as np
import soundfile
import torch
from fairseq import tasks
from fairseq.data.dictionary import Dictionary
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config
from numpy.typing import NDArray
from omegaconf import OmegaConf

from benchmarks import original_layer_search as original
from speechprune.checkpoint import LoadedModel, load_finetuned
from speechprune.dropping.similarity import similarity
from speechprune.dropping.verification import Measured, Verifier, eliminate
from speechprune.files import write_atomically
from speechprune.inference import read_audio, transcribe
from speechprune.layers.optimum import exact
from speechprune.layers.plan import LayerPlan
from speechprune.layers.race import FIRST_LOOK, Race
from speechprune.layers.search import BEAM, MOST_SUBSETS, beam, exhaustive, greedy
from speechprune.layers.similarity import MEASURES
from speechprune.layers.similarity.statistics import UtteranceMeans
from speechprune.manifests.audio import SAMPLE_RATE
from speechprune.manifests.manifest import Split, Utterance, read_split
from speechprune.tables import table

RESULTS = Path(__file__).parent / "results" / "layer_search_cpu.txt"
LETTERS = "|'ABCDEFGHIJKLMNOPQRSTUVWXYZ"
BATCH_SIZE, BATCHES = 32, 10
NONE = "-"


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
        models: layers and channels of those whose similarity is measured.
        rows: utterances that it is measured on.
        depths: of further models, to search in.
        patience: seconds that a plain search may take.
        encoder: what differs from wav2vec 2.0 base.
        corpora: number and seconds of the utterances that plans are verified on.
    """

    models: tuple[tuple[int, int], ...] = ((12, 768), (24, 1024))
    rows: int = 9600
    depths: tuple[int, ...] = (100, 1000)
    patience: float = 60.0
    encoder: Mapping[str, Any] = field(default_factory=dict)
    corpora: tuple[tuple[int, float], ...] = ((8, 10.0), (64, 1.0))


_SMALL_ENCODER = {
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 4,
    "conv_feature_layers": "[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16, 2, 2)] * 2",
    "conv_pos": 16,
    "conv_pos_groups": 4,
}
QUICK = Scale(((12, 32), (16, 48)), 640, (40,), 1.0, _SMALL_ENCODER, ((2, 0.5), (20, 0.2)))


def alternately(
    ways: Mapping[str, Callable[[], Any]], turns: int = 5, enough: float = 2.0
) -> dict[str, tuple[float, Any]]:
    """Median seconds and last result of each way; no more turns once ``enough`` seconds passed."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results = {}
    begun = perf_counter()
    for _ in range(turns):
        for name, way in ways.items():
            start = perf_counter()
            results[name] = way()
            seconds[name].append(perf_counter() - start)
        if perf_counter() - begun > enough:
            break
    return {name: (median(seconds[name]), results[name]) for name in ways}


def representations(layers: int, channels: int, rows: int) -> list[NDArray]:
    """Made-up states of a network, float32 (N, C): each the one before, mixed a little, and noise.

    Layers add noise unequally, all of it with the spectrum that the first state has.
    """
    generator = np.random.default_rng(layers)
    spectrum = np.arange(1, channels + 1, dtype=np.float32) ** -0.5
    mixing = np.eye(channels) + 0.1 * generator.standard_normal((channels, channels)) / np.sqrt(
        channels
    )

    def noise() -> NDArray:
        return generator.standard_normal((rows, channels), dtype=np.float32) * spectrum

    states = [noise()]
    for amount in generator.uniform(0.2, 0.6, layers).astype(np.float32):
        states.append((states[-1] + amount * noise()) @ mixing.astype(np.float32))
    return states


def _similarity(states: Sequence[NDArray], pairs: int) -> tuple[list[list[str]], NDArray]:
    """Rows of the table; and the SVCCA matrix."""
    means = torch.from_numpy(np.stack(states, axis=1)).double()
    svcca, matrix = _svcca(states, UtteranceMeans(list(means)), pairs)
    batched = [torch.from_numpy(state[: BATCH_SIZE * BATCHES]) for state in states]
    measure = MEASURES.build("dc", batch_size=BATCH_SIZE)
    statistic = UtteranceMeans(list(means[: BATCH_SIZE * BATCHES]))
    found = alternately(
        {
            "plain": lambda: original.distance_correlations(batched, BATCH_SIZE),
            "ours": lambda: measure.matrix(statistic),
        }
    )
    (plain, values), (ours, ours_values) = found["plain"], found["ours"]
    difference = np.abs(values - ours_values).max()
    dc = _similarity_row("dc", states, BATCHES * BATCH_SIZE, plain, ours, difference, "all")
    return [svcca, dc], matrix


def _svcca(
    states: Sequence[NDArray], statistic: UtteranceMeans, pairs: int
) -> tuple[list[str], NDArray]:
    measure = MEASURES.build("svcca")
    all_pairs = original.svcca_pairs(len(states))
    pairs = min(pairs, len(all_pairs))
    chosen = [all_pairs[int((n + 0.5) * len(all_pairs) / pairs)] for n in range(pairs)]
    seconds, differences = [], []
    before = alternately({"ours": lambda: measure.matrix(statistic)}, turns=1)["ours"][0]
    for i, j in chosen:
        columns = [np.ascontiguousarray(states[n].T) for n in (i, j)]
        found = alternately({"plain": lambda: original.svcca(*columns)}, turns=1)["plain"]  # noqa: B023
        seconds.append(found[0])
        differences.append((i, j, found[1]))
    after, matrix = alternately({"ours": lambda: measure.matrix(statistic)}, turns=1)["ours"]
    difference = max(abs(value - matrix[i, j]) for i, j, value in differences)
    plain = mean(seconds) * len(all_pairs)
    timed = f"{pairs} of {len(all_pairs)} pairs"
    ours = mean([before, after])
    rows = statistic.count
    return _similarity_row("svcca", states, rows, plain, ours, difference, timed), matrix
