"""Choosing layers to drop, beside the plain way to: similarity, search, verification of plans.

    python -m benchmarks.layer_search          # a minute, on small models
    python -m benchmarks.layer_search --full   # half an hour; writes benchmarks/results/

Both ways run in one process and take turns; times are medians, and ratios those of the plain way's
time to ours. Let the machine have nothing else to do. A plain SVCCA has the threads that suit it.

Under random weights, references are what the whole model hears, so that plans differ in errors. How
soon a race stops them depends on how they differ: --model measures it on a finetuned model.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks import original_layer_search as plain
from benchmarks.harness import RESULTS, Report, device_option, in_words, machine, on_device
from benchmarks.recognisers import SMALL_ENCODER
from speechprune.dropping.elimination import eliminate
from speechprune.dropping.similarity import similarity
from speechprune.dropping.transcripts import TranscriptVerifier
from speechprune.layers.optimum import exact
from speechprune.layers.plan import LayerPlan
from speechprune.layers.race import Race
from speechprune.layers.search import MOST_SUBSETS, beam, exhaustive, greedy
from speechprune.layers.similarity import MEASURES
from speechprune.layers.similarity.statistics import UtteranceMeans
from speechprune.manifests.manifest import Split, read_split
from speechprune.models.loading import LoadedRecogniser, load_recogniser

BATCHES, BATCH_SIZE = 10, 32
#: Most that similarities may differ by.
TOLERANCE = 1e-4
#: Depths up to which a plain search takes a minute or less.
PLAIN_DEPTHS = {"greedy": 1000, "beam": 100, "exhaustive": 24, "exact": 0}
METHODS = {"greedy": greedy, "beam": beam, "exhaustive": exhaustive, "exact": exact}
Row = list[str]
Timed = tuple[float, Any]


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    models: tuple[tuple[int, int], ...] = ((12, 768), (24, 1024))  # layers, channels
    utterances: int = 9600
    depths: tuple[int, ...] = (100, 1000)  # of more models to search in
    encoder: Mapping[str, Any] = field(default_factory=dict)  # what differs from wav2vec 2.0 base
    corpora: tuple[tuple[int, float], ...] = ((8, 10.0), (32, 1.0))  # utterances, seconds of each
    enough: float = 120.0  # seconds after which no more turns of verification are taken


SMALL = Scale(((6, 32), (16, 48)), 640, (40,), SMALL_ENCODER, ((2, 0.5), (20, 0.1)), 0.0)


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


def compare_similarity(report: Report, scale: Scale, pairs: int) -> list[NDArray]:
    """Tell the table; gives the SVCCA matrices."""
    heads = "similarity,layers,channels,utterances,plain,ours,ratio,difference,plain timed on"
    rows, matrices = report.table(heads.split(","), (10, 0, 0, 0, 8, 8)), []
    for layers, channels in scale.models:
        states = plain.representations(layers, channels, scale.utterances)
        means = torch.from_numpy(np.stack(states, axis=1)).double()
        _svcca([state[:64] for state in states[:3]], means[:64, :3], 1)  # warms up
        svcca, matrix = _svcca(states, means, pairs)
        for name, cells in (("svcca", svcca), ("dc", _dc(states, means))):
            rows.add(name, str(layers), str(channels), *cells)
            if not float(cells[-2]) < TOLERANCE:
                raise click.ClickException(f"{name}: similarities differ by {cells[-2]}")
        matrices.append(matrix)
    report.tell()
    return matrices


def _svcca(states: Sequence[NDArray], means: torch.Tensor, pairs: int) -> tuple[Row, NDArray]:
    measure, statistic = MEASURES.build("svcca"), UtteranceMeans(list(means))
    every = plain.svcca_pairs(len(states))
    chosen = np.unique(np.linspace(0, len(every) - 1, pairs + 2)[1:-1].astype(int))
    # Ours before and after the pairs: both ways get the same of what else the machine does.
    ours = [timed(lambda: measure.matrix(statistic))]
    seconds, difference = [], 0.0
    for i, j in (every[n] for n in chosen):
        columns = [np.ascontiguousarray(states[n].T) for n in (i, j)]
        # Beside other work a second thread makes OpenBLAS slower, up to hundreds of times.
        with threadpool_limits(1):
            alone, value = timed(partial(plain.svcca, *columns))
        seconds.append(min(alone, timed(partial(plain.svcca, *columns))[0]))
        difference = max(difference, abs(value - ours[0][1][i, j]))
    ours.append(timed(lambda: measure.matrix(statistic)))
    times = both(mean(seconds) * len(every), mean(each for each, _ in ours))
    note = f"{len(chosen)} of {len(every)} pairs"
    return [str(len(means)), *times, f"{difference:.1g}", note], ours[0][1]


def _dc(states: Sequence[NDArray], means: torch.Tensor) -> Row:
    count = BATCHES * BATCH_SIZE
    measure = MEASURES.build("dc", batch_size=BATCH_SIZE)
    statistic = UtteranceMeans(list(means[:count]))
    batched = [torch.from_numpy(state[:count]) for state in states]
    plainly = partial(plain.distance_correlations, batched, BATCH_SIZE)
    found = alternately({"plain": plainly, "ours": partial(measure.matrix, statistic)})
    (slow, theirs), (fast, values) = found.values()
    difference = float(np.abs(theirs - values).max())
    return [str(count), *both(slow, fast), f"{difference:.1g}", "all"]


def both(slow: float, fast: float) -> Row:
    """Two times, and the ratio."""
    return [in_words(slow), in_words(fast), f"{slow / fast:.1f}"]


def compare_search(report: Report, matrices: Sequence[NDArray]) -> None:
    heads = "search,layers,dropped,plain,ours,ratio,plain score,our score".split(",")
    rows = report.table(heads, (10, 0, 0, 8, 8))
    for matrix in matrices:
        layers = len(matrix) - 1
        drop = layers // 2
        for name in METHODS:
            if name != "exhaustive" or math.comb(layers, drop) <= MOST_SUBSETS:
                rows.add(name, str(layers), str(drop), *_search(matrix, name, drop))
    report.tell()


def _search(matrix: NDArray, name: str, drop: int) -> Row:
    ways = {"ours": lambda: METHODS[name](matrix, drop)[0].dropped}
    if len(matrix) - 1 <= PLAIN_DEPTHS[name]:
        ways["plain"] = lambda: getattr(plain, name)(matrix, drop)[0]
    found = alternately(ways)
    ours, best = found["ours"]
    score = f"{plain.score(matrix, best):.6f}"
    if "plain" not in found:
        return ["-", in_words(ours), "-", "-", score]
    seconds, best = found["plain"]
    return [*both(seconds, ours), f"{plain.score(matrix, best):.6f}", score]


class Outcome(NamedTuple):
    """The best plan or that of each step; transcripts by plan; and how many plans were stopped."""

    best: list[plain.Layers]
    texts: dict[plain.Layers, dict[int, str]]
    stopped: int = 0


@dataclass(frozen=True)
class Case:
    """A model, utterances, and plans for it that drop equally many layers."""

    title: str
    loaded: LoadedRecogniser
    split: Split
    plans: Sequence[LayerPlan]

    def compare(self, report: Report, enough: float) -> None:
        """Tell the table: plan by plan, sharing work, and racing if there are utterances enough."""
        plan, counter = self.plans[0], plain.PassCounter(self.loaded)
        measured = sum(plan.layers - step for step in range(len(plan.dropped)))
        tasks = {f"{len(self.plans)} plans": self.verify, f"GLP, {measured} plans": self.eliminate}
        report.tell(self.title)
        heads = ",time,ratio,front end,layers,stopped,best plan,transcripts".split(",")
        rows = report.table(heads, (26, 8, 0, 0, 6, 0, 0, 16))
        for name, way in tasks.items():
            ways: dict[str, Any] = {"plan by plan": partial(way, plainly=True), "sharing": way}
            if Race().looks(len(self.split.utterances)):  # else there are too few
                ways["racing"] = partial(way, Race())
            counted = {key: partial(counter.counted, each) for key, each in ways.items()}
            found = alternately(counted, turns=3, enough=enough)
            for key, cells in _cells(found).items():
                rows.add(f"{name}, {key}", *cells)
        report.tell()

    def verify(self, race: Race | None = None, plainly: bool = False) -> Outcome:
        """Measure all plans."""
        verifier = TranscriptVerifier(self.loaded, self.split, batch_size=1)
        if plainly:
            way = plain.PlanByPlan(self.loaded, self.split, verifier.metric)
            return Outcome([way.best([plan.dropped for plan in self.plans])], way.texts)
        measured = verifier.measure(self.plans, verifier.metric, race)
        best = min(measured, key=lambda each: each.rank(verifier.metric))
        heard = {each.plan.dropped: each.texts for each in measured if not each.stopped}
        return Outcome([best.plan.dropped], heard, len(measured) - len(heard))

    def eliminate(self, race: Race | None = None, plainly: bool = False) -> Outcome:
        """Greedy layer pruning."""
        verifier = TranscriptVerifier(self.loaded, self.split, batch_size=1, remember=True)
        layers, drop = self.plans[0].layers, len(self.plans[0].dropped)
        if plainly:
            way = plain.PlanByPlan(self.loaded, self.split, verifier.metric)
            return Outcome(way.eliminate(layers, drop), way.texts)
        found = eliminate(verifier, drop, verifier.metric, race)
        texts = {step.plan.dropped: step.texts for step in found.steps}
        return Outcome(list(texts), texts, found.stopped)


def _cells(found: Mapping[str, Timed]) -> dict[str, Row]:
    """What to tell of each way, compared with the first one."""
    (base, (expected, *_)), *_ = found.values()
    rows = {}
    for name, (seconds, (outcome, *passes)) in found.items():
        cells = [in_words(seconds), f"{base / seconds:.1f}", *map(str, passes)]
        best = "same" if outcome.best == expected.best else "another"
        same = sum(expected.texts.get(plan) == texts for plan, texts in outcome.texts.items())
        compared = [str(outcome.stopped), best, f"{same} of {len(outcome.texts)} the same"]
        rows[name] = cells + (["", "", ""] if outcome is expected else compared)
    return rows


def given_case(model: Path, data: Path, subset: str) -> Case:
    """A finetuned model, with the plans that its own similarities lead to."""
    loaded = load_recogniser(model, data)
    split = read_split(data, subset, loaded.cfg.task.labels)
    found = similarity(model, data, subset, {"": MEASURES.build("svcca", mode="T")})[""]
    size = f"{found.layers} layers, {len(split.utterances)} utterances of {split.seconds:.0f} s"
    plans = beam(found.values, found.layers // 2)
    return Case(f"finetuned model of {size} in all", loaded, split, plans)


def noise_cases(scale: Scale, utterances: int | None) -> Iterator[Case]:
    """A base model with random weights, and few or many utterances of noise."""
    layers, channels = scale.models[0]
    states = plain.representations(layers, channels, scale.utterances)
    means = torch.from_numpy(np.stack(states, axis=1)).double()
    matrix = MEASURES.build("svcca").matrix(UtteranceMeans(list(means)))
    loaded, plans = plain.recogniser(**scale.encoder), beam(matrix, layers // 2)
    few, many = scale.corpora
    for count, seconds in ((utterances or few[0], few[1]), many):
        with tempfile.TemporaryDirectory() as folder:
            split = plain.noises(Path(folder), loaded, count, seconds)
            title = f"base model, random weights; {count} utterances of {seconds:g} s of noise"
            yield Case(title, loaded, split, plans)


@click.command(help=__doc__)
@device_option
@click.option("--pairs", default=4, show_default=True, help="That a plain SVCCA is timed on.")
@click.option("--utterances", type=click.IntRange(1), help="Utterances of noise, 10 s each; 8.")
@click.option("--model", type=click.Path(path_type=Path), help="Finetuned, to verify plans on too.")
@click.option("--data", type=click.Path(path_type=Path), help="Manifest folder for MODEL.")
@click.option("--subset", default="valid", show_default=True, help="Subset of DATA.")
@click.option("--full", is_flag=True, help="Real sizes; the tables are kept in results/.")
def main(
    device: str,
    pairs: int,
    utterances: int | None,
    model: Path | None,
    data: Path | None,
    subset: str,
    full: bool,
) -> None:
    if (model is None) != (data is None):
        raise click.UsageError("--model and --data go together")
    scale = Scale() if full else SMALL
    if not full:
        torch.set_num_threads(1)  # so little work only waits for its threads
    report = Report()
    report.tell(f"{machine(device)}\n")
    with on_device(device):
        given = given_case(model, data, subset) if model and data else None
        matrices = compare_similarity(report, scale, pairs)
        deeper = [plain.similarities(layers) for layers in scale.depths]
        compare_search(report, [*matrices, *deeper])
        for case in noise_cases(scale, utterances):
            case.compare(report, scale.enough)
        if given:
            given.compare(report, scale.enough)
    if full:
        report.save(RESULTS / f"layer_search_{device}.txt")


if __name__ == "__main__":
    main()
