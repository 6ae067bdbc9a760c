"""Choosing layers to drop, beside the plain way to: similarity, search, verification of plans.

    python -m benchmarks.layer_search

Both ways run in one process and take turns; times are medians, and the ratio is that of the plain
way's to ours. Let the machine have nothing else to do: other work slows numpy's threads down far
more than torch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import original_layer_search as plain
from speechprune.layers.optimum import exact
from speechprune.layers.search import BEAM, MOST_SUBSETS, beam, exhaustive, greedy
from speechprune.layers.similarity import MEASURES
from speechprune.layers.similarity.statistics import UtteranceMeans
from speechprune.tables import table

RESULTS = Path(__file__).parent / "results" / "layer_search_cpu.txt"
BATCHES, BATCH_SIZE = 10, 32
#: Most that similarities may differ by.
TOLERANCE = 1e-4
Row = list[str]


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
        models: layers and channels of those whose similarity is measured.
        rows: utterances that it is measured on.
        depths: of further models, to search in.
        patience: seconds that a plain search may take.
        encoder: what differs from wav2vec 2.0 base.
        seconds: of each of few utterances, and of each of many.
    """

    models: tuple[tuple[int, int], ...] = ((12, 768), (24, 1024))
    rows: int = 9600
    depths: tuple[int, ...] = (100, 1000)
    patience: float = 60.0
    encoder: Mapping[str, Any] = field(default_factory=dict)
    seconds: tuple[float, float] = (10.0, 1.0)


SMALL_ENCODER = {
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 4,
    "conv_feature_layers": "[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16, 2, 2)] * 2",
    "conv_pos": 16,
    "conv_pos_groups": 4,
}
QUICK = Scale(((12, 32), (16, 48)), 640, (40,), 0.5, SMALL_ENCODER, (0.5, 0.1))


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


def in_words(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def compare_svcca(
    states: Sequence[NDArray], means: torch.Tensor, pairs: int
) -> tuple[Row, NDArray]:
    """A row of the table, and the matrix."""
    measure, statistic = MEASURES.build("svcca"), UtteranceMeans(list(means))
    every = plain.svcca_pairs(len(states))
    pairs = min(pairs, len(every))
    chosen = [every[int((n + 0.5) * len(every) / pairs)] for n in range(pairs)]
    # Ours before and after the pairs: both ways see the same of what else the machine does.
    ours = [alternately({"": lambda: measure.matrix(statistic)}, turns=1)[""]]
    seconds, difference = [], 0.0
    for i, j in chosen:
        columns = [np.ascontiguousarray(states[n].T) for n in (i, j)]
        start = perf_counter()
        value = plain.svcca(*columns)
        seconds.append(perf_counter() - start)
        difference = max(difference, abs(value - ours[0][1][i, j]))
    ours += [alternately({"": lambda: measure.matrix(statistic)}, turns=1)[""]]
    taken = mean(seconds) * len(every), mean(each for each, _ in ours)
    note = f"{pairs} of {len(every)} pairs timed"
    return compared("svcca", states, len(means), taken, difference, note), ours[0][1]


def compare_dc(states: Sequence[NDArray], means: torch.Tensor) -> Row:
    rows = BATCHES * BATCH_SIZE
    measure = MEASURES.build("dc", batch_size=BATCH_SIZE)
    statistic = UtteranceMeans(list(means[:rows]))
    batched = [torch.from_numpy(state[:rows]) for state in states]
    found = alternately(
        {
            "plain": lambda: plain.distance_correlations(batched, BATCH_SIZE),
            "ours": lambda: measure.matrix(statistic),
        }
    )
    difference = float(np.abs(found["plain"][1] - found["ours"][1]).max())
    taken = found["plain"][0], found["ours"][0]
    return compared("dc", states, rows, taken, difference, "whole")


def compared(
    name: str,
    states: Sequence[NDArray],
    rows: int,
    taken: tuple[float, float],
    difference: float,
    note: str,
) -> Row:
    if difference > TOLERANCE:
        raise click.ClickException(f"{name}: similarities differ by {difference:.2g}")
    size = [str(len(states) - 1), str(states[0].shape[1]), str(rows)]
    times = [*map(in_words, taken), f"{taken[0] / taken[1]:.1f}"]
    return [name, *size, *times, f"{difference:.1g}", note]


def compare_similarity(scale: Scale, pairs: int) -> tuple[str, list[NDArray]]:
    """The table, and the SVCCA matrices."""
    heads = ["layers", "channels", "utterances", "plain", "ours", "ratio", "difference", "plain:"]
    rows, matrices = [["similarity", *heads]], []
    for layers, channels in scale.models:
        states = plain.representations(layers, channels, scale.rows)
        means = torch.from_numpy(np.stack(states, axis=1)).double()
        compare_svcca([state[:64] for state in states[:3]], means[:64, :3], 1)  # to warm up
        svcca, matrix = compare_svcca(states, means, pairs)
        rows += [svcca, compare_dc(states, means)]
        matrices.append(matrix)
    return table(rows), matrices


def compare_search(matrices: Sequence[NDArray], patience: float) -> str:
    heads = ["layers", "dropped", "plain", "ours", "ratio", "score, plain", "score, ours"]
    rows = [["search", *heads]]
    methods = {"greedy": greedy, "beam": beam, "exhaustive": exhaustive, "exact": exact}
    for matrix in matrices:
        layers = len(matrix) - 1
        for name, method in methods.items():
            if name != "exhaustive" or math.comb(layers, layers // 2) <= MOST_SUBSETS:
                rows.append([name, str(layers), *_search_row(matrix, name, method, patience)])
    return table(rows)


def _search_row(matrix: NDArray, name: str, method: Callable[..., Any], patience: float) -> Row:
    drop = (len(matrix) - 1) // 2
    ways = {"ours": lambda: method(matrix, drop)[0].dropped}
    if _plain_seconds(matrix, name, drop) <= patience:
        ways["plain"] = lambda: getattr(plain, name)(matrix, drop)[0]
    found = alternately(ways)
    seconds = {way: taken for way, (taken, _) in found.items()}
    scores = {way: f"{plain.score(matrix, best):.6f}" for way, (_, best) in found.items()}
    both = ["-", in_words(seconds["ours"]), "-"]
    if "plain" in found:
        both[0] = in_words(seconds["plain"])
        both[2] = f"{seconds['plain'] / seconds['ours']:.1f}"
    return [str(drop), *both, scores.get("plain", "-"), scores["ours"]]


def _plain_seconds(matrix: NDArray, name: str, drop: int) -> float:
    """About how long a plain search takes, from the time of one set of medium size."""
    layers = len(matrix) - 1
    if name == "exact":
        return math.inf
    size, sets = drop, math.comb(layers, drop)
    if name != "exhaustive":
        size = (drop + 1) // 2
        sets = (BEAM if name == "beam" else 1) * sum(layers - k for k in range(drop))
    medium = tuple(range(0, 2 * size, 2))
    way = {"": lambda: [plain.score(matrix, tuple(sorted(medium))) for _ in range(100)]}
    return alternately(way)[""][0] / 100 * sets
