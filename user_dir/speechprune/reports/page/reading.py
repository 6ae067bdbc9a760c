"""Everything that sources say, read once, in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tqdm import tqdm

from speechprune.bank.bank import Bank
from speechprune.bank.header import FORMAT as BANK_FORMAT
from speechprune.benchmarking.report import conditions_in_words
from speechprune.checksums import read_json
from speechprune.decoding.scoring import rate_names
from speechprune.errors import UserError
from speechprune.intervals import training_in_words
from speechprune.layers.matrix import FORMAT as MATRIX_FORMAT
from speechprune.layers.matrix import SimilarityMatrix
from speechprune.layers.plan import LayerPlan, LayerPlans
from speechprune.masking.mask_set import MaskSet
from speechprune.reports.comparison import Comparison
from speechprune.reports.page.contents import (
    Benchmark,
    Contents,
    LayerUnits,
    Measurement,
    Model,
    Plans,
    Run,
    Timing,
)
from speechprune.reports.page.models import read_model
from speechprune.reports.page.sources import Kind, Source
from speechprune.reports.run_files import DATA_DIGEST, RATE_NAMES, RATES, are_rate_names
from speechprune.reports.runs import (
    FinishedRun,
    Result,
    RunEvaluation,
    checkpoint_path,
    evaluate_run,
    kept_evaluations,
    known_split,
    measure_model,
    read_run,
    subset_digest,
)
from speechprune.reports.unfinished import UnfinishedRun
from speechprune.training.log import read_log

_TIMES = [each.name for each in fields(Timing) if each.name != "name"]


@dataclass(frozen=True)
class Wanted:
    """What is asked of a page.

    Attributes:
        which: "last" or "best", the checkpoint of a run that counts.
        subset: to evaluate on, and to take examples from; None for what was evaluated before.
        data: its folder; by default that of each run's own training.
        examples: utterances of the subset to transcribe.
    """

    which: str = "last"
    subset: str | None = None
    data: Path | None = None
    examples: int = 10


class Reader:
    """Reads sources into contents.

    Attributes:
        contents: what was read so far.
        finished: what is known of the runs that are finished, by their names.
        checkpoints: the files that were given by themselves, by their names.
    """

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.contents = Contents()
        self.finished: dict[str, FinishedRun] = {}
        self.checkpoints: dict[str, Path] = {}
        self._results: list[tuple[str, Result]] = []
        self._notes: list[str] = []

    def read(self, sources: Sequence[Source]) -> Contents:
        """Read all; raises UserError if something is damaged."""
        readers: Mapping[Kind, Callable[[Source], None]] = {
            Kind.RUN: self._run,
            Kind.CHECKPOINT: self._checkpoint,
            Kind.SAFETENSORS: self._safetensors,
            Kind.MATRIX: self._matrix,
            Kind.PLANS: self._plans,
            Kind.EVALUATION: self._evaluation,
            Kind.BENCHMARK: self._benchmark,
            Kind.LAYERS: self._layers,
            Kind.SLIMMING: self._slimming,
        }
        for source in tqdm(sources, unit="source", desc="reading", disable=None):
            readers[source.kind](source)
        self._compare()
        return self.contents

    # --- runs and checkpoints -----------------------------------------------------------------

    def _run(self, source: Source) -> None:
        log, problem, facts = read_log(source.path), "", {}
        try:
            run = read_run(source.path, self.wanted.which, self.wanted.data)
        except UnfinishedRun as reason:
            problem = str(reason)
        else:
            self.finished[source.name] = run
            facts = _facts(run)
            self._evaluate(source.name, run)
        self.contents.runs.append(Run(source.name, source.path, facts, problem, log))
        path = checkpoint_path(source.path, self.wanted.which)
        if path.is_file():
            self.contents.models.append(read_model(path, source.name))

    def _evaluate(self, name: str, run: FinishedRun) -> None:
        """Evaluate a run, or take what was kept of earlier evaluations."""
        found: dict[str, tuple[RunEvaluation, str] | None] = {}
        if self.wanted.subset is not None:
            manifest = subset_digest(run, self.wanted.subset)
            evaluation, warning = evaluate_run(run, self.wanted.subset, manifest)
            self._notes += [warning] if warning else []
            found[self.wanted.subset] = (evaluation, manifest)
        else:
            found = dict(kept_evaluations(run.folder, run.which))
        if not found:
            self.contents.note("errors", f"{name} has no evaluation: --subset SPLIT makes one")
        for subset, kept in found.items():
            if kept is None:
                self.contents.note(
                    "errors",
                    f"the evaluation of {name} on {subset} is of another checkpoint or program, or "
                    "damaged, and is left out: --subset makes it anew",
                )
                continue
            evaluation, manifest = kept
            self._results.append((subset, Result(run, evaluation, manifest)))
            self.contents.measurements.append(_of_run(name, subset, run, evaluation, manifest))

    def _checkpoint(self, source: Source) -> None:
        self.contents.models.append(read_model(source.path, source.name))
        self.checkpoints[source.name] = source.path
        subset, data = self.wanted.subset, self.wanted.data
        if subset is None or data is None:
            self.contents.note(
                "errors",
                f"{source.name} is not evaluated: that takes --data DIR and --subset SPLIT",
            )
            return
        from speechprune.models.loading import load_finetuned

        loaded = load_finetuned(source.path, data)
        # Before the evaluation: meanwhile, the data may be made anew.
        measured_on = known_split(data, subset, loaded.labels)
        found = measure_model(loaded, data, subset)
        self.contents.measurements.append(
            Measurement(
                source.name,
                subset,
                measured_on,
                f"{subset} of {data}",
                found.errors,
                parameters=found.parameters - found.removed,
                size=source.path.stat().st_size,
            )
        )

    def _compare(self) -> None:
        """Runs of one subset and kind of error rate side by side, as `speechprune compare` does."""
        groups: dict[tuple[str, tuple[str, ...]], list[Result]] = {}
        for subset, result in self._results:
            names = tuple(result.evaluation.rate_names.values())
            groups.setdefault((subset, names), []).append(result)
        for (subset, _), results in groups.items():
            compared = Comparison(subset, self.wanted.which, tuple(results), tuple(self._notes))
            self.contents.comparisons.append(compared)

    # --- masks and layers ---------------------------------------------------------------------

    def _safetensors(self, source: Source) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(source.path), framework="numpy") as file:
                told = file.metadata() or {}
        except (SafetensorError, OSError):
            told = {}
        if MATRIX_FORMAT in told:
            self._matrix(source)
        elif BANK_FORMAT in told:
            bank = Bank(source.path)
            for name in bank.names:
                self.contents.models.append(Model(f"{source.name}: {name}", bank.masks(name)))
        else:
            self.contents.models.append(Model(source.name, MaskSet.load(source.path)))

    def _matrix(self, source: Source) -> None:
        self.contents.matrices[source.name] = SimilarityMatrix.load(source.path)

    def _plans(self, source: Source) -> None:
        layers = read_json(source.path, "restore it").get("layers")
        if type(layers) is not int:
            raise UserError(f"{source.path} does not tell of how many layers its plans are")
        plans = LayerPlans.load(source.path, layers).plans
        facts = tuple(
            {} if plan.score is None else {"score": f"{plan.score:.4f}"} for plan in plans
        )
        self.contents.plans.append(Plans(source.name, plans, facts))

    # --- reports ------------------------------------------------------------------------------

    def _evaluation(self, source: Source) -> None:
        found = read_json(source.path, "restore it")
        with _Damage(source.path):
            data, subset = Path(found["data"]), str(found["subset"])
            # Of what earlier versions printed, nobody knows what these files were at the time.
            measured_on = str(found.get(DATA_DIGEST) or f"{data} {subset}")
            self.contents.measurements.append(
                Measurement(
                    source.name,
                    subset,
                    measured_on,
                    f"{subset} of {data}",
                    _errors(found),
                    **_costs(found),
                )
            )

    def _benchmark(self, source: Source) -> None:
        found = read_json(source.path, "restore it")
        with _Damage(source.path):
            rows = found["models"]
            if not rows:
                raise ValueError("it has no models")
            names = [Path(row["path"]).name for row in rows]
            if len(set(names)) < len(names):
                names = [row["path"] for row in rows]
            timings = tuple(
                Timing(name, **{key: _finite(row[key]) for key in _TIMES})
                for name, row in zip(names, rows)
            )
            if "data" not in found:
                _finite(found["seconds"])
            conditions = conditions_in_words(found)
            self.contents.benchmarks.append(Benchmark(source.name, conditions, timings))

    def _layers(self, source: Source) -> None:
        found = read_json(source.path, "restore it")
        with _Damage(source.path):
            layers, rows = int(found["layers"]), found["verified"]["plans"]
            plans = tuple(LayerPlan(layers, tuple(row["drop"])) for row in rows)
            stages = [each for one in found["evaluations"].values() for each in one.values()]
            names = _rate_names(stages[0] if stages else {})
            facts = tuple(
                {
                    **{f"{name} %": f"{100 * rate:.2f}" for name, rate in _rates(row, names)},
                    "found by": "; ".join(map(str, row["found_by"])),
                }
                for row in rows
            )
            self.contents.plans.append(Plans(source.name, plans, facts))
            self._stages(source, found)

    def _slimming(self, source: Source) -> None:
        found = read_json(source.path, "restore it")
        with _Damage(source.path):
            units = tuple(
                LayerUnits(*(int(row[key]) for key in LayerUnits.__dataclass_fields__))
                for row in found["kept"]["layers"]
            )
            self.contents.models.append(Model(source.name, units=units))
            self._stages(source, found)

    def _stages(self, source: Source, found: Mapping[str, Any]) -> None:
        """The evaluations of the stages that a report tells of."""
        settings = source.path.with_name("settings.json")
        splits = read_json(settings, "restore it").get("splits") if settings.is_file() else None
        costs = found.get("costs", {})
        for split, stages in found["evaluations"].items():
            digest = (splits or {}).get(split)
            for stage, values in stages.items():
                cost = costs.get(stage, {})
                self.contents.measurements.append(
                    Measurement(
                        f"{source.name}: {stage}",
                        split,
                        str(digest or source.path),
                        f"{split} of {source.name}",
                        dict(_rates(values, _rate_names(values))),
                        **{
                            **_costs(values),
                            "size": cost.get("bytes"),
                            "multiply_adds": cost.get("multiply_adds"),
                        },
                    )
                )


class _Damage:
    """What a report should say and does not, in one line with its path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, (KeyError, TypeError, ValueError, AttributeError, UserError)):
            raise UserError(f"{self.path} is damaged ({error!r}); restore it"[:300]) from error


def _facts(run: FinishedRun) -> dict[str, str]:
    frozen = f", encoder frozen for {run.freeze_finetune_updates:,}"
    return {
        "method": run.label,
        "sparsity asked for": "" if run.sparsity is None else f"{100 * run.sparsity:.1f} %",
        "seed": str(run.seed),
        "updates": f"{run.updates:,}" + (frozen if run.freeze_finetune_updates else ""),
        "trained on": run.training_data,
    }


def _of_run(
    name: str, subset: str, run: FinishedRun, found: RunEvaluation, manifest: str
) -> Measurement:
    kept = found.parameters - found.removed
    where = f"{subset} of {run.task['data']}"
    training = training_in_words([run.updates], [run.seed])
    return Measurement(name, subset, manifest, where, found.errors, training, parameters=kept)


def _errors(found: Mapping[str, Any]) -> dict[str, float]:
    """What `evaluate --json` says of errors, as shares; of classes and metrics, what they lack."""
    if "metrics" in found:
        values = {str(name): each["value"] for name, each in found["metrics"].items()}
        return {f"1 - {name}": _lack(value) for name, value in values.items() if value is not None}
    if "accuracy" in found:
        return {"1 - accuracy": _lack(found["accuracy"])}
    names = rate_names(letters=not found.get("units"))
    return {name: _share(found[rate]) for rate, name in names.items()}


def _rates(values: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    """The error rates that a mapping has, by what tables call them."""
    for rate, name in names.items():
        if rate in values:
            yield name, _share(values[rate])


def _rate_names(values: Mapping[str, Any]) -> Mapping[str, str]:
    """What tables call the rates of a report's stage; earlier versions did not say it."""
    names: Mapping[str, str] = values.get(RATE_NAMES, RATES)
    if not are_rate_names(names):
        raise ValueError(f"{names!r} are no names of error rates")
    return names


def _lack(value: Any) -> float:
    share = float(value)
    if not -1 <= share <= 1:
        raise ValueError(f"{value!r} is neither a share nor a correlation")
    return 1 - share


def _costs(values: Mapping[str, Any]) -> dict[str, Any]:
    """Size and speed in what was measured; the size of a masked model is not told."""
    speed, whole = values.get("seconds_of_audio_per_second"), values["density"] == 1.0
    return {
        "parameters": int(values["parameters"]) if whole else None,
        "speed": None if speed is None else float(speed),
        "device": str(values.get("device", "")),
    }


def _finite(value: Any) -> float:
    number = float(value)
    if not 0 < number < float("inf"):
        raise ValueError(f"{value!r} was not measured")
    return number


def _share(value: Any) -> float:
    share = float(value)
    if not 0 <= share < float("inf"):
        raise ValueError(f"{value!r} is not an error rate")
    return share
