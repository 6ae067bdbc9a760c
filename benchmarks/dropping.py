"""Ways to choose layers against each other: a deep nano model on real digits.

    python -m benchmarks.dropping --archive fsdd-5speakers.tar --out DIR
    python -m benchmarks.dropping --archive fsdd-5speakers.tar --out DIR --full --model deep_nano.pt

The first trains a little, in two minutes; the second takes hours. It finetunes the model (`make
deep-nano` makes the deep one), measures similarity, searches by every method, finetunes every plan
that was found, and writes tables and a figure, with --full to `benchmarks/results/`. What is
measured is printed at once. Interrupted, the same command goes on.

Plans are chosen on training and validation data; the tables are of the test split. The learning
rate is the better one of 0.001 and 0.002 for the whole model, on the validation split.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import click

from benchmarks.dropping_report import Choice, plan_key, write_report
from benchmarks.harness import (
    RESULTS,
    device_option,
    in_words,
    on_device,
    precision_option,
    training_overrides,
)
from speechprune.checkpoint import read
from speechprune.checkpoint.settings import seed_of
from speechprune.decoding.inference import evaluate
from speechprune.dropping.finetuning import SmallerModel
from speechprune.dropping.pipeline import pipeline
from speechprune.dropping.search import VerificationSettings, eliminate_layers, verify_plans
from speechprune.dropping.similarity import draw, similarity
from speechprune.files import make_folder, write_atomically
from speechprune.intervals import training_in_words
from speechprune.layers.file_search import search
from speechprune.layers.matrix import SimilarityMatrix
from speechprune.layers.plan import LayerPlan, LayerPlans
from speechprune.layers.similarity import MEASURES as REGISTERED
from speechprune.manifests.digits import DigitStrings, make_digits
from speechprune.manifests.manifest import read_split
from speechprune.models.loading import load_recogniser
from speechprune.recipes.nano import ASSET
from speechprune.recipes.setting import path_value
from speechprune.rewriting.averaging import average
from speechprune.rewriting.encoder import export_encoder
from speechprune.training.finetuning import Finetuning
from speechprune.training.rounds import finish_all
from speechprune.training.run import TrainingRun

#: By the name of its files; the means of 320 utterances are too few for svcca and cka, as their
#: floors tell, but what the paper measures.
MEASURES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "svcca": ("svcca", {"mode": "T"}),
    "svcca-means": ("svcca", {"mode": "U"}),
    "dc": ("dc", {}),
    "dc-unbiased": ("dc-unbiased", {}),
    "cka": ("cka", {"mode": "T"}),
    "cka-means": ("cka", {"mode": "U"}),
}


@dataclass(frozen=True)
class Scale:
    """How much is measured and trained."""

    measures: tuple[str, ...] = tuple(MEASURES)
    shares: tuple[float, ...] = (0.25, 0.5, 0.75)
    utterances: int = 320
    random: int = 10
    whole_updates: int = 400
    updates: int = 100


SMALL = Scale(("svcca", "dc-unbiased"), (0.5,), 40, 2, 40, 10)
OVERRIDES = ("optimization.lr=[0.001]",)
QUIET = ("checkpoint.save_interval_updates=0", "dataset.validate_interval_updates=0")


@dataclass(frozen=True)
class Comparison:
    """Runs below the folder ``out``; tables and figures go to ``results``."""

    scale: Scale
    out: Path
    results: Path
    jobs: int
    overrides: tuple[str, ...]

    def run(self, whole: Path) -> None:
        """Every way to choose, at every share."""
        seconds = self._measure(whole)
        layers = _depth(whole)
        choices = {
            share: self._choose(whole, round(share * layers), seconds)
            for share in self.scale.shares
        }
        plans = {plan for found in choices.values() for each in found for plan in each.plans}
        ordered = sorted(plans, key=lambda plan: (len(plan.dropped), plan.dropped))
        before = self._before(whole, ordered)
        after = self._after(whole, ordered)
        head = self._head(whole, layers)
        # No override names a seed: smaller models are finetuned with that of the whole one.
        seed = seed_of(read(whole, mmap=True))
        training = training_in_words([self.scale.updates], [seed])
        write_report(head, choices, before, after, self.results, training)

    def auto(self, name: str, whole: Path, drop: int) -> None:
        """All of it by one command, and its report."""
        folder = self.out / f"auto-{name}"
        pipeline(
            whole,
            folder,
            drop=drop,
            data=self.data,
            train="train",
            valid="valid",
            test="test",
            measures=("svcca", "dc-unbiased"),
            utterances=self.scale.utterances,
            config="demo/nano",
            updates=self.scale.updates,
            num=5,
            overrides=self.overrides,
        ).run(click.echo)
        text = (folder / "report.md").read_text(encoding="utf-8")
        for figure in ("report", "svcca", "dc-unbiased"):
            kept = f"layers_auto_{name}_{figure}.png"
            write_atomically(self.results / kept, (folder / f"{figure}.png").read_bytes())
            text = text.replace(f"({figure}.png)", f"({kept})")
        write_atomically(self.results / f"layers_auto_{name}.md", text.encode())

    @property
    def data(self) -> Path:
        return self.out / "data"

    def prepare(self, archive: Path) -> None:
        """Make the data."""
        if not self.data.exists():
            make_digits(self.data, archive, DigitStrings())

    def finetuned(self, model: Path, folder: Path) -> Path:
        """The whole model, finetuned."""
        overrides = (
            f"task.data={path_value(self.data)}",
            f"model.w2v_path={path_value(model)}",
            "model._name=wav2vec_ctc",
            *self.overrides,
            *QUIET,
        )
        updates = self.scale.whole_updates
        run = TrainingRun("whole model", folder, "demo/nano", overrides, updates)
        finish_all([[run]], tell=click.echo)
        return run.checkpoint

    def _measure(self, whole: Path) -> Mapping[str, float]:
        """Write a matrix by each measure, each in a pass of its own; gives the time of each."""

        def seconds(name: str) -> float:
            start = perf_counter()
            measure, settings = MEASURES[name]
            measures = {name: REGISTERED.build(measure, **settings)}
            utterances = self.scale.utterances
            found = similarity(whole, self.data, "train", measures, utterances=utterances)[name]
            taken = perf_counter() - start
            found.save(self._matrix(name))
            draw(found, self.results / f"similarity_{name}.png")
            click.echo(f"similarity by {name}: {in_words(taken)}")
            return taken

        names = self.scale.measures
        return _kept(self.out / "similarity.json", lambda: {name: seconds(name) for name in names})

    def _matrix(self, name: str) -> Path:
        return self.out / f"{name}.safetensors"

    def _choose(
        self, whole: Path, drop: int, similarity_seconds: Mapping[str, float]
    ) -> list[Choice]:
        found = _kept(
            self.out / f"choices-{drop}.json",
            lambda: [_describe(c) for c in self._ways(whole, drop, similarity_seconds)],
        )
        layers = found[0]["layers"]
        return [
            Choice(c["way"], tuple(LayerPlan(layers, tuple(p)) for p in c["plans"]), c["seconds"])
            for c in found
        ]

    def _ways(
        self, whole: Path, drop: int, similarity_seconds: Mapping[str, float]
    ) -> Iterator[Choice]:
        """Every way to choose ``drop`` layers."""
        matrices = {name: self._matrix(name) for name in self.scale.measures}
        chance = search(matrices["svcca"], drop, "random", self.scale.random).plans
        yield Choice("random", tuple(chance), 0.0)
        pool: dict[tuple[int, ...], LayerPlan] = {}
        for name, path in matrices.items():
            for method in ("greedy", "beam", "exact"):
                start = perf_counter()
                plans = search(path, drop, method).plans
                seconds = similarity_seconds[name] + perf_counter() - start
                yield Choice(f"{method}, {name}", plans[:1], seconds)
            pool.update({plan.dropped: plan for plan in plans})
        settings = VerificationSettings(self.data, "valid")
        report = verify_plans(
            whole, lambda layers: LayerPlans(tuple(pool.values()), layers), settings
        )
        seconds = sum(similarity_seconds.values()) + report.seconds
        best = report.measured[0].plan
        yield Choice(f"best of {len(pool)} exact, verified", (best,), seconds)
        report = eliminate_layers(whole, drop, settings)
        yield Choice("GLP", report.plans.plans, report.seconds)

    def _before(self, whole: Path, plans: Sequence[LayerPlan]) -> Mapping[str, Mapping[str, float]]:
        """Test error rates by plan, without finetuning."""

        def rates() -> dict[str, dict[str, float]]:
            settings = VerificationSettings(self.data, "test", allow_test=True)
            report = verify_plans(whole, lambda layers: LayerPlans(tuple(plans), layers), settings)
            return {
                plan_key(m.plan): {"wer": m.rate("wer"), "cer": m.rate("cer")}
                for m in report.measured
            }

        return _kept(self.out / "before.json", rates)

    def _after(self, whole: Path, plans: Sequence[LayerPlan]) -> Mapping[str, Mapping[str, float]]:
        """Test error rates by plan, finetuned and averaged."""
        models = [
            SmallerModel(self.out / "plans" / plan_key(plan), whole, plan, self._finetuning)
            for plan in plans
        ]
        for model in models:
            model.prepare()
        finish_all([[model.run] for model in models], jobs=self.jobs, tell=click.echo)
        return {
            plan_key(model.plan): self._rates(model.finish(), model.folder / "test.json")
            for model in models
        }

    def _head(self, whole: Path, layers: int) -> list[str]:
        """What the tables are of, and what they compare with."""
        updates, utterances = self.scale.updates, self.scale.utterances
        rates = {
            f"{layers} layers": self._rates(whole, self.out / "whole-test.json"),
            f"after {updates} more updates, averaged as the others": self._rates(
                self._control(whole, self.out / "control"), self.out / "control-test.json"
            ),
        }
        floors = {
            name: SimilarityMatrix.load(self._matrix(name)).floor for name in self.scale.measures
        }
        return [
            "Strings of spoken digits (Free Spoken Digit Dataset), test",
            *(
                f"{name}: WER {100 * each['wer']:.1f} %, CER {100 * each['cer']:.1f} %"
                for name, each in rates.items()
            ),
            f"similarity on {utterances} utterances (svcca, cka: all their frames, or means); "
            "floors: " + ", ".join(f"{name} {floor:.2f}" for name, floor in floors.items()),
            f"{updates} updates of finetuning, 5 best averaged",
        ]

    def _control(self, whole: Path, folder: Path) -> Path:
        """The whole model, finetuned as the smaller ones are."""
        encoder, averaged = folder / "encoder.pt", folder / "averaged.pt"
        if not averaged.exists():
            export_encoder(whole, make_folder(folder) / encoder.name)
            overrides = (
                *self._finetuning.settings,
                f"model.w2v_path={path_value(encoder)}",
                f"checkpoint.finetune_from_model={path_value(whole)}",
                "model._name=wav2vec_ctc_pruned",
                *self.overrides,
            )
            name, updates = "whole model, further", self.scale.updates
            run = TrainingRun(name, folder / "run", "demo/nano", overrides, updates)
            finish_all([[run]], tell=click.echo)
            average(run.folder, averaged, num=5)
        return averaged

    @property
    def _finetuning(self) -> Finetuning:
        updates = self.scale.updates
        return Finetuning(
            self.data, "train", "valid", "demo/nano", updates, self.overrides, average=5
        )

    def _rates(self, checkpoint: Path, kept: Path) -> Mapping[str, float]:
        def rates() -> dict[str, float]:
            found = evaluate(load_recogniser(checkpoint), read_split(self.data, "test"))
            rates = {"wer": found.words.rate, "cer": found.characters.rate}
            told = ", ".join(f"{name.upper()} {100 * rate:.1f} %" for name, rate in rates.items())
            click.echo(f"{kept.relative_to(self.out)}: {told}")
            return rates

        return _kept(kept, rates)


def _depth(checkpoint: Path) -> int:
    model: Any = load_recogniser(checkpoint).model
    return len(model.w2v_encoder.w2v_model.encoder.layers)


def _describe(choice: Choice) -> dict[str, Any]:
    plans = [plan.dropped for plan in choice.plans]
    dropped = " or ".join(" ".join(map(str, plan)) for plan in plans)
    click.echo(f"{choice.way} drops {dropped}")
    return {**vars(choice), "plans": plans, "layers": choice.plans[0].layers}


def _kept(path: Path, make: Callable[[], Any]) -> Any:
    """What ``make`` gave, now or in an earlier run."""
    if not path.exists():
        write_atomically(path, json.dumps(make()).encode())
    return json.loads(path.read_text())


@click.command(help=__doc__)
@click.option("--archive", type=click.Path(path_type=Path, exists=True), required=True)
@click.option(
    "--model",
    type=click.Path(path_type=Path, exists=True),
    default=ASSET,
    help="Pretrained; the nano model that is shipped.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True)
@click.option("--full", is_flag=True, help="All of it; what is printed is kept in results/.")
@device_option
@precision_option
def main(
    archive: Path, model: Path, out: Path, jobs: int, full: bool, device: str, precision: str
) -> None:
    scale, results = (Scale(), RESULTS) if full else (SMALL, out)
    overrides = (*OVERRIDES, *training_overrides(device, precision))
    comparison = Comparison(scale, out, results, jobs, overrides)
    with on_device(device):
        comparison.prepare(archive)
        whole = comparison.finetuned(model, out / "whole")
        comparison.run(whole)
        if full:
            comparison.auto("deep", whole, _depth(whole) // 2)
            comparison.auto("nano", comparison.finetuned(ASSET, out / "nano"), 2)


if __name__ == "__main__":
    main()
