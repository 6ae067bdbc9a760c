"""Choosing layers to drop, beside the plain way to: similarity, search, verification of plans.

    python -m benchmarks.layer_search

Both ways run in one process and take turns; times are medians, and a ratio is that of the plain
way's time to ours. Let the machine have nothing else to do: other work slows numpy's threads down
far more than torch's.
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
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import original_layer_search as plain
from speechprune.checkpoint import LoadedModel, load_finetuned
from speechprune.dropping.elimination import eliminate
from speechprune.dropping.similarity import similarity
from speechprune.dropping.verification import Verifier
from speechprune.files import write_atomically
from speechprune.layers.optimum import exact
from speechprune.layers.plan import LayerPlan
from speechprune.layers.race import FIRST_LOOK, Race
from speechprune.layers.search import BEAM, MOST_SUBSETS, beam, exhaustive, greedy
from speechprune.layers.similarity import MEASURES
from speechprune.layers.similarity.statistics import UtteranceMeans
from speechprune.manifests.manifest import Split, read_split
from speechprune.tables import table

RESULTS = Path(__file__).parent / "results" / "layer_search_cpu.txt"
BATCHES, BATCH_SIZE = 10, 32
#: Most that similarities may differ by.
TOLERANCE = 1e-4
METHODS = {"greedy": greedy, "beam": beam, "exhaustive": exhaustive, "exact": exact}
Row = list[str]
Timed = tuple[float, Any]


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    models: tuple[tuple[int, int], ...] = ((12, 768), (24, 1024))  # layers, channels
    utterances: int = 9600
    depths: tuple[int, ...] = (100, 1000)  # of more models to search in
    visits: int = 200_000_000  # of layers by a plain search: a minute or less
    encoder: Mapping[str, Any] = field(default_factory=dict)  # what differs from wav2vec 2.0 base
    corpora: tuple[tuple[int, float], ...] = ((8, 10.0), (64, 1.0))  # utterances, seconds of each


SMALL = ((2, 0.5), (20, 0.1))
QUICK = Scale(((12, 32), (16, 48)), 640, (40,), 200_000, plain.SMALL_ENCODER, SMALL)


def timed(way: Callable[[], Any]) -> Timed:
    start = perf_counter()
    result = way()
    return perf_counter() - start, result


def alternately(
    ways: Mapping[str, Callable[[], Any]], turns: int = 5, enough: float = 2.0
) -> dict[str, Timed]:
    """Median seconds and last result of each way; no more turns once ``enough`` seconds passed."""
    found: dict[str, list[Timed]] = {name: [] for name in ways}
    begun = perf_counter()
    for _ in range(turns):
        for name, way in ways.items():
            found[name].append(timed(way))
        if perf_counter() - begun > enough:
            break
    return {name: (median(s for s, _ in each), each[-1][1]) for name, each in found.items()}


def in_words(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def compare_similarity(scale: Scale, pairs: int) -> tuple[str, list[NDArray]]:
    """The table, and the SVCCA matrices."""
    heads = ["layers", "channels", "utterances", "plain", "ours", "ratio", "difference", "plain:"]
    rows, matrices = [["similarity", *heads]], []
    for layers, channels in scale.models:
        states = plain.representations(layers, channels, scale.utterances)
        means = torch.from_numpy(np.stack(states, axis=1)).double()
        _svcca([state[:64] for state in states[:3]], means[:64, :3], 1)  # warms up
        svcca, matrix = _svcca(states, means, pairs)
        rows += [svcca, _dc(states, means)]
        matrices.append(matrix)
    return table(rows), matrices


def _svcca(states: Sequence[NDArray], means: torch.Tensor, pairs: int) -> tuple[Row, NDArray]:
    measure, statistic = MEASURES.build("svcca"), UtteranceMeans(list(means))
    every = plain.svcca_pairs(len(states))
    pairs = min(pairs, len(every))
    chosen = [every[int((n + 0.5) * len(every) / pairs)] for n in range(pairs)]
    # Ours before and after the pairs: both ways get the same of what else the machine does.
    ours = [timed(lambda: measure.matrix(statistic))]
    seconds, difference = [], 0.0
    for i, j in chosen:
        columns = [np.ascontiguousarray(states[n].T) for n in (i, j)]
        start = perf_counter()
        value = plain.svcca(*columns)
        seconds.append(perf_counter() - start)
        difference = max(difference, abs(value - ours[0][1][i, j]))
    ours.append(timed(lambda: measure.matrix(statistic)))
    taken = mean(seconds) * len(every), mean(each for each, _ in ours)
    note = f"{pairs} of {len(every)} pairs timed"
    return _similarity_row("svcca", states, len(means), taken, difference, note), ours[0][1]


def _dc(states: Sequence[NDArray], means: torch.Tensor) -> Row:
    count = BATCHES * BATCH_SIZE
    measure, statistic = MEASURES.build("dc", batch_size=BATCH_SIZE), UtteranceMeans(list(means))
    statistic = UtteranceMeans(list(means[:count]))
    batched = [torch.from_numpy(state[:count]) for state in states]
    ways = {
        "plain": lambda: plain.distance_correlations(batched, BATCH_SIZE),
        "ours": lambda: measure.matrix(statistic),
    }
    (slow, theirs), (fast, values) = alternately(ways).values()
    return _similarity_row("dc", states, count, (slow, fast), np.abs(theirs - values).max(), "all")


def _similarity_row(
    name: str,
    states: Sequence[NDArray],
    utterances: int,
    taken: tuple[float, float],
    difference: float,
    note: str,
) -> Row:
    if difference > TOLERANCE:
        raise click.ClickException(f"{name}: similarities differ by {difference:.2g}")
    size = map(str, (len(states) - 1, states[0].shape[1], utterances))
    times = [*map(in_words, taken), f"{taken[0] / taken[1]:.1f}"]
    return [name, *size, *times, f"{difference:.1g}", note]


def compare_search(matrices: Sequence[NDArray], visits: int) -> str:
    heads = ["layers", "dropped", "plain", "ours", "ratio", "score, plain", "score, ours"]
    rows = [["search", *heads]]
    for matrix in matrices:
        for name in METHODS:
            layers = len(matrix) - 1
            if name != "exhaustive" or math.comb(layers, layers // 2) <= MOST_SUBSETS:
                rows.append([name, str(layers), *_search(matrix, name, visits)])
    return table(rows)


def _search(matrix: NDArray, name: str, visits: int) -> Row:
    drop = (len(matrix) - 1) // 2
    ways = {"ours": lambda: METHODS[name](matrix, drop)[0].dropped}
    if _plain_visits(name, len(matrix) - 1, drop) <= visits:
        ways["plain"] = lambda: getattr(plain, name)(matrix, drop)[0]
    found = alternately(ways)
    ours, best = found["ours"]
    cells = [str(drop), "-", in_words(ours), "-", "-", f"{plain.score(matrix, best):.6f}"]
    if "plain" in found:
        seconds, best = found["plain"]
        cells[1], cells[3] = in_words(seconds), f"{seconds / ours:.1f}"
        cells[4] = f"{plain.score(matrix, best):.6f}"
    return cells


def _plain_visits(name: str, layers: int, drop: int) -> float:
    """How many layers of sets are looked at: sets by their size."""
    beams = {"greedy": 1, "beam": BEAM}
    if name in beams:
        return beams[name] * sum((layers - size) * (size + 1) for size in range(drop))
    return math.comb(layers, drop) * drop if name == "exhaustive" else math.inf


class Outcome(NamedTuple):
    """The best plan or that of each step; transcripts by plan; and how many plans were stopped."""

    best: list[plain.Layers]
    texts: dict[plain.Layers, dict[int, str]]
    stopped: int = 0


@dataclass(frozen=True)
class Case:
    """A model, utterances, and plans for it that drop equally many layers."""

    title: str
    loaded: LoadedModel
    split: Split
    plans: Sequence[LayerPlan]

    def compare(self, turns: int) -> str:
        """The table: plan by plan, sharing work, and racing if there are utterances enough."""
        plan, races = self.plans[0], [Race()] if len(self.split.utterances) > FIRST_LOOK else []
        measured = sum(plan.layers - step for step in range(len(plan.dropped)))
        heads = ["time", "ratio", "front end", "layers", "stopped", "best plan", "transcripts"]
        rows = [["", *heads]]
        for name, way, repeats in (
            (f"{len(self.plans)} plans", self.verify, turns),
            (f"GLP, {measured} plans", self.eliminate, 1),
        ):
            ways = {f"{name}, plan by plan": lambda way=way: way(plainly=True)}
            ways[f"{name}, sharing"] = way
            for race in races:
                ways[f"{name}, racing"] = lambda way=way, race=race: way(race)
            rows += self._rows(ways, repeats)
        return f"{self.title}\n{table(rows)}"

    def verify(self, race: Race | None = None, plainly: bool = False) -> Outcome:
        """Measure all plans."""
        verifier = Verifier(self.loaded, self.split, batch_size=1)
        if plainly:
            way = plain.PlanByPlan(self.loaded, self.split, verifier.metric)
            return Outcome([way.best([plan.dropped for plan in self.plans])], way.texts)
        measured = verifier.measure(self.plans, verifier.metric, race)
        best = min(measured, key=lambda each: each.rank(verifier.metric))
        return Outcome(
            [best.plan.dropped],
            {each.plan.dropped: each.texts for each in measured if not each.stopped},
            sum(each.stopped for each in measured),
        )

    def eliminate(self, race: Race | None = None, plainly: bool = False) -> Outcome:
        """Greedy layer pruning."""
        verifier = Verifier(self.loaded, self.split, batch_size=1, remember=True)
        layers, drop = self.plans[0].layers, len(self.plans[0].dropped)
        if plainly:
            way = plain.PlanByPlan(self.loaded, self.split, verifier.metric)
            return Outcome(way.eliminate(layers, drop), way.texts)
        found = eliminate(verifier, drop, verifier.metric, race)
        texts = {step.plan.dropped: step.texts for step in found.steps}
        return Outcome(list(texts), texts, found.stopped)

    def _rows(self, ways: Mapping[str, Callable[[], Outcome]], turns: int) -> list[Row]:
        """A row for each way, compared with the first one."""
        counter = plain.PassCounter(self.loaded)
        counted = {name: lambda way=way: counter.counted(way) for name, way in ways.items()}
        found = alternately(counted, turns, enough=math.inf)
        base, (expected, *_) = next(iter(found.values()))
        rows = []
        for name, (seconds, (outcome, front_end, layers)) in found.items():
            same = sum(expected.texts.get(plan) == texts for plan, texts in outcome.texts.items())
            rows.append(
                [
                    name,
                    in_words(seconds),
                    f"{base / seconds:.2f}",
                    *map(str, (front_end, layers, outcome.stopped)),
                    "same" if outcome.best == expected.best else "another",
                    f"{same} of {len(outcome.texts)} same",
                ]
            )
        return rows


def random_case(scale: Scale, matrix: NDArray, count: int, seconds: float, folder: Path) -> Case:
    loaded = plain.recogniser(**scale.encoder)
    split = plain.noises(folder, loaded, count, seconds)
    title = f"wav2vec 2.0 base of random weights, {count} utterances of {seconds:g} s of noise"
    return Case(title, loaded, split, beam(matrix, (len(matrix) - 1) // 2))


def given_case(model: Path, data: Path, subset: str) -> Case:
    loaded = load_finetuned(model, data)
    split = read_split(data, subset, loaded.cfg.task.labels)
    found = similarity(model, data, subset, {"": MEASURES.build("svcca", mode="T")})[""]
    size = f"{found.layers} layers, {len(split.utterances)} utterances of {split.seconds:.0f} s"
    plans = beam(found.values, found.layers // 2)
    return Case(f"finetuned model of {size} in all", loaded, split, plans)


@click.command(help=__doc__)
@click.option("--pairs", default=4, show_default=True, help="That a plain SVCCA is timed on.")
@click.option("--utterances", type=click.IntRange(1), help="Of 10 s of noise; 8 by default.")
@click.option("--turns", default=3, show_default=True, help="That plans are verified.")
@click.option("--model", type=click.Path(path_type=Path), help="Finetuned, to verify plans on too.")
@click.option("--data", type=click.Path(path_type=Path), help="Manifest folder for MODEL.")
@click.option("--subset", default="valid", show_default=True, help="Of DATA.")
@click.option("--quick", is_flag=True, help="All parts on small models; nothing is written.")
def main(
    pairs: int,
    utterances: int | None,
    turns: int,
    model: Path | None,
    data: Path | None,
    subset: str,
    quick: bool,
) -> None:
    scale = QUICK if quick else Scale()
    cases = [given_case(model, data, subset)] if model and data else []
    versions = f"torch {torch.__version__}, numpy {np.__version__}"
    lines = [f"{os.cpu_count()} cores, {versions}; load at the start {os.getloadavg()[0]:.1f}"]

    def tell(part: str) -> None:
        click.echo(f"\n{part}")
        lines.append(part)

    similarities, matrices = compare_similarity(scale, pairs)
    tell(similarities)
    deeper = [plain.similarities(layers) for layers in scale.depths]
    tell(compare_search([*matrices, *deeper], scale.visits))
    few, many = scale.corpora
    for count, seconds in ((utterances or few[0], few[1]), many):
        with tempfile.TemporaryDirectory() as folder:
            case = random_case(scale, matrices[0], count, seconds, Path(folder))
            tell(case.compare(turns))
    for case in cases:
        tell(case.compare(turns))
    if not quick:
        write_atomically(RESULTS, ("\n\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    main()
