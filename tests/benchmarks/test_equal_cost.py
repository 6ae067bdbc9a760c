"""Methods at equal cost: what is planned costs what the row says, counted from the trainings."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner

import benchmarks.pruning
from benchmarks import equal_cost
from benchmarks.equal_cost import QUICK, Comparison, Scale, planner_of
from benchmarks.equal_cost_plans import DENSE, METHODS, Cell, distinct_updates
from benchmarks.equal_cost_report import Row, load, main, save
from benchmarks.pruning import OVERRIDES
from speechprune.recipes import RECIPES
from speechprune.recipes.base import Plan
from speechprune.recipes.steps import MaskMaking
from speechprune.training.run import TrainingRun

#: Nothing is even here, and each round is a single update.
ODD = Scale((0.3, 0.55), (2,), 19)
SCALES = pytest.mark.parametrize("scale", [Scale(), QUICK, ODD], ids=["full", "quick", "odd"])


@cache
def plans_of(scale: Scale) -> dict[Cell, list[Plan]]:
    planner = planner_of(Path("out"), scale, ())
    return Comparison(planner, scale.seeds, 1).plans


def given(plan: Plan) -> list[int]:
    """What the trainings of a plan are told: where each ends."""
    key = "optimization.max_update="
    return [
        int(override.removeprefix(key))
        for step in plan.steps
        if isinstance(step, TrainingRun)
        for override in step.all_overrides
        if override.startswith(key)
    ]


@SCALES
def test_equal_cost_is_equal(scale: Scale) -> None:
    costs: dict[tuple[str, float], dict[str, set[int]]] = {}
    for cell, plans in plans_of(scale).items():
        found = {sum(given(plan)) for plan in plans}
        assert found == {cell.updates} and len(plans) == len(scale.seeds)
        costs.setdefault((cell.like, cell.sparsity), {})[cell.method] = found
    dense = {
        cell.updates for cell in plans_of(scale) if (cell.method, cell.sparsity) == (DENSE, 0.0)
    }
    del costs["", 0.0]
    assert {sparsity for _, sparsity in costs} == set(scale.sparsities)
    for methods in costs.values():
        assert set(methods) == set(METHODS)
        # One number for all methods, and a dense control that trains as long.
        (updates,) = set.union(*methods.values())
        assert updates in dense


def test_methods_have_their_own_cost_as_they_are_published() -> None:
    """What `benchmarks.pruning` spends: one training, two, and a round for each 10 % and one."""
    courses = {
        (cell.method, cell.sparsity): given(plans[0])
        for cell, plans in plans_of(Scale()).items()
        if cell.method == cell.like
    }
    for sparsity, rounds in ((0.5, 5), (0.7, 7), (0.9, 9)):
        assert courses["PARP", sparsity] == [250]
        assert courses["OMP", sparsity] == [250, 250]
        assert courses["IMP", sparsity] == [83] * rounds + [250]


@SCALES
def test_rounds_of_imp_are_shorter_in_proportion_and_as_many(scale: Scale) -> None:
    plans = plans_of(scale)
    for cell, (plan, *_) in plans.items():
        if cell.method != "IMP":
            continue
        (own,) = [
            c for c in plans if (c.method, c.like, c.sparsity) == ("IMP", "IMP", cell.sparsity)
        ]
        published, found = given(plans[own][0]), given(plan)
        assert len(found) == len(published)
        factor = cell.updates / own.updates
        assert all(abs(a - factor * b) <= 0.5 or a == 1 for a, b in zip(found[:-1], published[:-1]))
        assert found[-1] >= 1


@SCALES
def test_a_folder_is_one_training_whichever_plans_it_is_in(scale: Scale) -> None:
    runs: dict[Path, TrainingRun] = {}
    masks: dict[Path, MaskMaking] = {}
    for plans in plans_of(scale).values():
        for step in (step for plan in plans for step in plan.steps):
            if isinstance(step, TrainingRun):
                assert runs.setdefault(step.folder, step) == step
            elif isinstance(step, MaskMaking):
                assert masks.setdefault(step.target, step) == step
    assert runs and masks


def test_trainings_are_shared_and_as_many_as_the_help_says() -> None:
    plans = plans_of(Scale())
    every = [plan for own in plans.values() for plan in own]
    shared = distinct_updates(every)
    assert shared < sum(sum(given(plan)) for plan in every)
    assert f"about {round(shared, -3):,} updates" in (equal_cost.__doc__ or "")
    omp = plans[Cell("OMP", "OMP", 0.5, 500)][0]
    assert omp.steps[0] == plans[Cell(DENSE, "", 0.0, 250)][0].steps[0]
    # Within the recipe's own budget it is the recipe.
    setting = planner_of(Path("out"), Scale(), ()).published
    course = [
        step.updates for step in RECIPES["omp"].plan(setting).steps if hasattr(step, "updates")
    ]
    assert given(omp) == course


def test_what_the_benchmark_of_pruning_trains_is_trained_once_for_both() -> None:
    out, seeds = Path("out"), Scale().seeds
    pruning = benchmarks.pruning.Comparison(benchmarks.pruning.Scale(), out, out, 1, OVERRIDES)
    known = {
        step.folder: step
        for method, setting in pruning.methods("digits", seeds)
        for step in RECIPES[method].plan(setting).steps
        if isinstance(step, TrainingRun)
    }
    planner = planner_of(out, Scale(), OVERRIDES)
    plans = [plan for each in Comparison(planner, seeds, 1).plans.values() for plan in each]
    shared = {
        step.folder: step
        for plan in plans
        for step in plan.steps
        if isinstance(step, TrainingRun) and step.folder in known
    }
    assert all(known[folder] == step for folder, step in shared.items())
    assert sum(step.updates for step in shared.values()) / distinct_updates(plans) > 0.19


def test_too_few_updates_for_the_rounds_are_refused() -> None:
    planner = planner_of(Path("out"), Scale(), ())
    with pytest.raises(ValueError, match="9 updates are too few for 9 rounds"):
        planner.plan(Cell("IMP", "PARP", 0.9, 9), 1)


def test_table_and_figure_are_made_of_the_rates_alone(tmp_path: Path) -> None:
    seeds = (1, 2, 3)
    wers = {"PARP": (0.99, 0.1, 0.25), "OMP": (0.1, 0.2, 0.3), DENSE: (0.05, 0.05, 0.06)}
    rows = [
        Row(
            Cell(method, "" if method == DENSE else "OMP", 0.0 if method == DENSE else 0.5, 500),
            {seed: {"wer": wer, "cer": wer / 2} for seed, wer in zip(seeds, found)},
        )
        for method, found in wers.items()
    ]
    save(rows, tmp_path / "rates.json")
    assert load(tmp_path / "rates.json") == rows
    ran = CliRunner().invoke(main, [str(tmp_path / "rates.json")])
    assert ran.exit_code == 0, ran.output
    lines = ran.output.splitlines()
    told = "median, least and most of seeds 1, 2, 3; 500 updates in all"
    assert lines[0].endswith(told) and (tmp_path / "rates.txt").read_text() == ran.output
    (parp,) = [line for line in lines if " PARP " in line]
    assert parp.split("  ")[0] == "OMP" and "25.0 (10.0 to 99.0)" in parp and " 500 " in parp
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")
