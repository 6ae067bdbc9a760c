"""The trainings of `benchmarks.equal_cost`: methods within budgets of updates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from speechprune.recipes import RECIPES, Setting
from speechprune.recipes.base import Plan
from speechprune.recipes.methods import one_shot
from speechprune.training.run import TrainingRun

DENSE = "dense"
METHODS = {"PARP": "parp", "PARP-P": "parp-p", "OMP": "omp", "IMP": "imp"}
#: The methods whose published course of training gives a budget: one training, two, and rounds.
BUDGETS = ("PARP", "OMP", "IMP")


@dataclass(frozen=True)
class Cell:
    """A method within a budget.

    Attributes:
        method: a name in `METHODS`, or `DENSE`.
        like: whose published course the budget is that of; "" for the dense control.
        sparsity: share that is removed.
        updates: the budget.
    """

    method: str
    like: str
    sparsity: float
    updates: int


def trainings(plan: Plan) -> list[TrainingRun]:
    """Those of a plan, in order."""
    return [step for step in plan.steps if isinstance(step, TrainingRun)]


def cost(plan: Plan) -> int:
    """Updates of all trainings of a plan."""
    return sum(run.updates for run in trainings(plan))


def distinct_updates(plans: Iterable[Plan]) -> int:
    """Updates of all trainings of several plans, those that are shared counted once."""
    runs = {run.folder: run.updates for plan in plans for run in trainings(plan)}
    return sum(runs.values())


@dataclass(frozen=True)
class Planner:
    """Plans of methods at any cost.

    Attributes:
        published: the setting under which methods cost what they do as they are published.
        sparsities: shares that are removed.
    """

    published: Setting
    sparsities: tuple[float, ...]

    def cells(self) -> Iterator[Cell]:
        """Dense controls of each number of updates, then methods by sparsity and budget."""
        budgets = [
            (sparsity, like, self.budget(like, sparsity))
            for sparsity in self.sparsities
            for like in BUDGETS
        ]
        for updates in sorted({updates for *_, updates in budgets}):
            yield Cell(DENSE, "", 0.0, updates)
        for sparsity, like, updates in budgets:
            yield from (Cell(method, like, sparsity, updates) for method in METHODS)

    def budget(self, method: str, sparsity: float) -> int:
        """What a method costs as it is published."""
        return cost(RECIPES[METHODS[method]].plan(replace(self.published, sparsity=sparsity)))

    def plan(self, cell: Cell, seed: int) -> Plan:
        """The trainings of a cell, which cost as much as it may.

        Trainings of equal courses have one folder, whichever plans they are in; of what a method
        costs as it is published, that is the folder of `benchmarks.pruning`.
        """
        setting = replace(self.published, sparsity=cell.sparsity, seed=seed)
        recipe = RECIPES[METHODS.get(cell.method, DENSE)]
        published = recipe.plan(setting)
        if cell.updates == cost(published):
            return published
        if cell.method == "OMP":
            return self._omp(setting, cell.updates)
        if cell.method == "IMP":
            return self._imp(setting, cell.updates)
        return recipe.plan(_with_updates(setting, cell.updates))

    def _omp(self, setting: Setting, updates: int) -> Plan:
        """Two trainings, of halves; of an odd number the second one has an update more."""
        first = updates // 2
        second = updates - first
        folder = setting.out / f"omp-{first}-{second}"
        before = _with_updates(setting, first).dense()
        return one_shot(replace(setting, out=folder, updates=second), before)

    def _imp(self, setting: Setting, updates: int) -> Plan:
        """Rounds as long in proportion as they are published; the last training has the rest."""
        published = RECIPES["imp"].plan(setting)
        rounds = len(trainings(published)) - 1
        each = max(1, round(setting.updates_per_round * updates / cost(published)))
        last = updates - rounds * each
        if last < 1:
            raise ValueError(f"{updates} updates are too few for {rounds} rounds and a training")
        folder = setting.out / f"imp-{each}-{last}"
        return RECIPES["imp"].plan(
            replace(setting, out=folder, updates=last, round_updates=each),
        )


def _with_updates(setting: Setting, updates: int) -> Setting:
    """The setting of single trainings of a length, in a folder of these."""
    return replace(setting, out=setting.out / f"updates-{updates}", updates=updates)
