"""Ways to choose layers against each other: a deep nano model on real digits.

`python -m benchmarks.dropping --archive fsdd-5speakers.tar --model deep_nano.pt --out DIR`
finetunes the model (`make deep-nano` makes it), measures similarity, searches by every method,
finetunes every plan that was found, and writes tables and a figure to `benchmarks/results/`.
Interrupted, the same command goes on.

Plans are chosen on training and validation data; the tables are of the test split. The learning
rate is the better one of 0.001 and 0.002 for the whole model, on the validation split.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import click

from benchmarks.dropping_report import RESULTS, Choice, plan_key, write_report
from speechprune.decoding.inference import evaluate
from speechprune.dropping.finetuning import Finetuning, SmallerModel
from speechprune.dropping.pipeline import pipeline
from speechprune.dropping.search import VerificationSettings, eliminate_layers, verify_plans
from speechprune.dropping.similarity import draw, similarity
from speechprune.files import make_folder, write_atomically
from speechprune.layers.file_search import search
from speechprune.layers.matrix import SimilarityMatrix
from speechprune.layers.plan import LayerPlan, LayerPlans
from speechprune.layers.similarity import MEASURES as REGISTERED
from speechprune.manifests.digits import DigitStrings, make_digits
from speechprune.manifests.manifest import read_split
from speechprune.models.loading import load_finetuned
from speechprune.recipes.nano import ASSET
from speechprune.recipes.setting import path_value
from speechprune.rewriting.averaging import average
from speechprune.rewriting.encoder import export_encoder
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
SHARES = (0.25, 0.5, 0.75)
UTTERANCES = 320
RANDOM = 10
WHOLE_UPDATES, UPDATES = 400, 100
OVERRIDES = ("optimization.lr=[0.001]",)
QUIET = ("checkpoint.save_interval_updates=0", "dataset.validate_interval_updates=0")


@click.command()
@click.option("--archive", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--model", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True)
def main(archive: Path, model: Path, out: Path, jobs: int) -> None:
    """Compare ways to choose layers; ARCHIVE is that of the Free Spoken Digit Dataset."""
    data = out / "data"
    if not data.exists():
        make_digits(data, archive, DigitStrings())
    whole = _finetuned(model, data, out / "whole")
    seconds = _measure(whole, data, out)
    layers = _depth(whole)
    choices = {share: _choose(whole, data, out, round(share * layers), seconds) for share in SHARES}
    plans = {plan for found in choices.values() for each in found for plan in each.plans}
    ordered = sorted(plans, key=lambda plan: (len(plan.dropped), plan.dropped))
    before = _before(whole, data, out, ordered)
    after = _after(whole, data, out, ordered, jobs)
    write_report(_head(whole, data, out, layers), choices, before, after)
    _auto("deep", whole, data, out, layers // 2)
    _auto("nano", _finetuned(ASSET, data, out / "nano"), data, out, 2)


def _auto(name: str, whole: Path, data: Path, out: Path, drop: int) -> None:
    """All of it by one command, and its report."""
    folder = out / f"auto-{name}"
    pipeline(
        whole,
        folder,
        drop=drop,
        data=data,
        train="train",
        valid="valid",
        test="test",
        measures=("svcca", "dc-unbiased"),
        utterances=UTTERANCES,
        config="demo/nano",
        updates=UPDATES,
        num=5,
        overrides=OVERRIDES,
    ).run(click.echo)
    text = (folder / "report.md").read_text(encoding="utf-8")
    for figure in ("report", "svcca", "dc-unbiased"):
        kept = f"layers_auto_{name}_{figure}.png"
        write_atomically(RESULTS / kept, (folder / f"{figure}.png").read_bytes())
        text = text.replace(f"({figure}.png)", f"({kept})")
    write_atomically(RESULTS / f"layers_auto_{name}.md", text.encode())


def _finetuned(model: Path, data: Path, folder: Path) -> Path:
    """The whole model, finetuned."""
    overrides = (
        f"task.data={path_value(data)}",
        f"model.w2v_path={path_value(model)}",
        "model._name=wav2vec_ctc",
        *OVERRIDES,
        *QUIET,
    )
    run = TrainingRun("whole model", folder, "demo/nano", overrides, WHOLE_UPDATES)
    finish_all([[run]])
    return run.checkpoint


def _depth(checkpoint: Path) -> int:
    model: Any = load_finetuned(checkpoint).model
    return len(model.w2v_encoder.w2v_model.encoder.layers)


def _measure(whole: Path, data: Path, out: Path) -> Mapping[str, float]:
    """Write a matrix by each measure, each in a pass of its own; gives the time of each."""

    def seconds(name: str) -> float:
        start = perf_counter()
        measure, settings = MEASURES[name]
        measures = {name: REGISTERED.build(measure, **settings)}
        found = similarity(whole, data, "train", measures, utterances=UTTERANCES)[name]
        taken = perf_counter() - start
        found.save(out / f"{name}.safetensors")
        draw(found, RESULTS / f"similarity_{name}.png")
        return taken

    return _kept(out / "similarity.json", lambda: {name: seconds(name) for name in MEASURES})


def _choose(
    whole: Path, data: Path, out: Path, drop: int, similarity_seconds: Mapping[str, float]
) -> list[Choice]:
    found = _kept(
        out / f"choices-{drop}.json",
        lambda: [_describe(c) for c in _ways(whole, data, out, drop, similarity_seconds)],
    )
    layers = found[0]["layers"]
    return [
        Choice(c["way"], tuple(LayerPlan(layers, tuple(p)) for p in c["plans"]), c["seconds"])
        for c in found
    ]


def _describe(choice: Choice) -> dict[str, Any]:
    plans = [plan.dropped for plan in choice.plans]
    return {**vars(choice), "plans": plans, "layers": choice.plans[0].layers}


def _ways(
    whole: Path, data: Path, out: Path, drop: int, similarity_seconds: Mapping[str, float]
) -> list[Choice]:
    """Every way to choose ``drop`` layers."""
    matrices = {name: out / f"{name}.safetensors" for name in MEASURES}
    chance = search(matrices["svcca"], drop, "random", RANDOM).plans
    found = [Choice("random", tuple(chance), 0.0)]
    pool: dict[tuple[int, ...], LayerPlan] = {}
    for name, path in matrices.items():
        for method in ("greedy", "beam", "exact"):
            start = perf_counter()
            plans = search(path, drop, method).plans
            seconds = similarity_seconds[name] + perf_counter() - start
            found.append(Choice(f"{method}, {name}", plans[:1], seconds))
        pool.update({plan.dropped: plan for plan in plans})
    settings = VerificationSettings(data, "valid")
    report = verify_plans(whole, lambda layers: LayerPlans(tuple(pool.values()), layers), settings)
    seconds = sum(similarity_seconds.values()) + report.seconds
    best = report.measured[0].plan
    found.append(Choice(f"best of {len(pool)} exact, verified", (best,), seconds))
    report = eliminate_layers(whole, drop, settings)
    found.append(Choice("GLP", report.plans.plans, report.seconds))
    return found


def _before(
    whole: Path, data: Path, out: Path, plans: Sequence[LayerPlan]
) -> Mapping[str, Mapping[str, float]]:
    """Test error rates by plan, without finetuning."""

    def rates() -> dict[str, dict[str, float]]:
        settings = VerificationSettings(data, "test", allow_test=True)
        report = verify_plans(whole, lambda layers: LayerPlans(tuple(plans), layers), settings)
        return {
            plan_key(m.plan): {"wer": m.rate("wer"), "cer": m.rate("cer")} for m in report.measured
        }

    return _kept(out / "before.json", rates)


def _after(
    whole: Path, data: Path, out: Path, plans: Sequence[LayerPlan], jobs: int
) -> Mapping[str, Mapping[str, float]]:
    """Test error rates by plan, finetuned and averaged."""
    finetuning = _finetuning(data)
    models = [
        SmallerModel(out / "plans" / plan_key(plan), whole, plan, finetuning) for plan in plans
    ]
    for model in models:
        model.prepare()
    finish_all([[model.run] for model in models], jobs=jobs, tell=click.echo)
    return {
        plan_key(model.plan): _rates(model.finish(), data, model.folder / "test.json")
        for model in models
    }


def _head(whole: Path, data: Path, out: Path, layers: int) -> list[str]:
    """What the tables are of, and what they compare with."""
    rates = {
        f"{layers} layers": _rates(whole, data, out / "whole-test.json"),
        f"after {UPDATES} more updates, averaged as the others": _rates(
            _control(whole, data, out / "control"), data, out / "control-test.json"
        ),
    }
    floors = {name: SimilarityMatrix.load(out / f"{name}.safetensors").floor for name in MEASURES}
    return [
        "Strings of spoken digits (Free Spoken Digit Dataset), test",
        *(
            f"{name}: WER {100 * each['wer']:.1f} %, CER {100 * each['cer']:.1f} %"
            for name, each in rates.items()
        ),
        f"similarity on {UTTERANCES} utterances (svcca, cka: all their frames, or means); floors: "
        + ", ".join(f"{name} {floor:.2f}" for name, floor in floors.items()),
        f"{UPDATES} updates of finetuning, 5 best averaged",
    ]


def _control(whole: Path, data: Path, folder: Path) -> Path:
    """The whole model, finetuned as the smaller ones are."""
    encoder, averaged = folder / "encoder.pt", folder / "averaged.pt"
    if not averaged.exists():
        export_encoder(whole, make_folder(folder) / encoder.name)
        overrides = (
            *_finetuning(data).settings,
            f"model.w2v_path={path_value(encoder)}",
            f"checkpoint.finetune_from_model={path_value(whole)}",
            "model._name=wav2vec_ctc_pruned",
            *OVERRIDES,
        )
        run = TrainingRun("whole model, further", folder / "run", "demo/nano", overrides, UPDATES)
        finish_all([[run]])
        average(run.folder, averaged, num=5)
    return averaged


def _finetuning(data: Path) -> Finetuning:
    return Finetuning(data, "train", "valid", "demo/nano", UPDATES, OVERRIDES, average=5)


def _rates(checkpoint: Path, data: Path, kept: Path) -> Mapping[str, float]:
    def rates() -> dict[str, float]:
        found = evaluate(load_finetuned(checkpoint), read_split(data, "test"))
        return {"wer": found.words.rate, "cer": found.characters.rate}

    return _kept(kept, rates)


def _kept(path: Path, make: Callable[[], Any]) -> Any:
    """What ``make`` gave, now or in an earlier run."""
    if not path.exists():
        write_atomically(path, json.dumps(make()).encode())
    return json.loads(path.read_text())


if __name__ == "__main__":
    main()
