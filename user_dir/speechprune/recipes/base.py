"""What a recipe is, and running it: training runs one after the other, and what came of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from speechprune.checksums import write_json
from speechprune.errors import UserError
from speechprune.manifests.split_files import is_of_texts
from speechprune.recipes.setting import Setting
from speechprune.recipes.steps import Step
from speechprune.training.overrides import key_of, refuse_early_ends, refuse_own
from speechprune.training.rounds import Tell, finish_all
from speechprune.training.run import TrainingRun


@dataclass(frozen=True)
class Plan:
    """The rounds of a recipe, in order, and what comes of them: labels of final runs."""

    steps: tuple[Step, ...]
    results: Mapping[str, TrainingRun]


@dataclass(frozen=True)
class Recipe:
    """A method.

    Attributes:
        plan: its rounds under a setting.
        options: attributes of the setting that it needs besides those that all need.
        of_speech: whether it is for models of speech alone.
    """

    name: str
    plan: Callable[[Setting], Plan]
    options: tuple[str, ...] = field(default=())
    of_speech: bool = False

    @property
    def help(self) -> str:
        """What it does."""
        return self.plan.__doc__ or ""


RECIPES: dict[str, Recipe] = {}

#: What to use in place of an override.
_OPTIONS = {
    "common.seed": "use --seed",
    "hydra.run.dir": "use --out",
    "model._name": "choose another recipe",
    "model.roberta_path": "use --model",
    "model.sparsity": "use --sparsity",
    "model.start_sparsity": "use --start-sparsity",
    "model.w2v_path": "use --model",
    "optimization.max_update": "use --updates",
    "task.data": "use --data",
}


def recipe(
    name: str, *options: str, of_speech: bool = False
) -> Callable[[Callable[[Setting], Plan]], Any]:
    """Decorator: the plan is that of the recipe ``name``, described by its docstring."""

    def add(plan: Callable[[Setting], Plan]) -> Callable[[Setting], Plan]:
        RECIPES[name] = Recipe(name, plan, options, of_speech)
        return plan

    return add


def cook(
    recipes: Sequence[tuple[str, Setting]], *, jobs: int = 1, tell: Tell = lambda line: None
) -> list[Path]:
    """Run recipes to their end, or on from where they were interrupted.

    Each final run's folder gets a ``summary.json``: recipe, label, settings and rounds.

    Args:
        recipes: names in `RECIPES` and settings.
        jobs: recipes at a time.
        tell: is called with a line for each recipe that is not finished, and for each round.

    Returns:
        the summaries' paths, in order.

    Raises:
        UserError: a round failed or is missing, or settings do not fit those it was begun with.
    """
    for name, setting in recipes:
        _refuse_other_kind(name, setting)
        _refuse_own_keys(name, setting)
    plans = [RECIPES[name].plan(setting) for name, setting in recipes]
    for (name, _), plan in zip(recipes, plans):
        if not all(step.is_done for step in plan.steps):
            tell(_overview(name, plan))
    finish_all([plan.steps for plan in plans], jobs=jobs, tell=tell)
    written = []
    for (name, setting), plan in zip(recipes, plans):
        for label, run in plan.results.items():
            summary = _summary(name, setting, plan, label, run)
            path = run.folder / "summary.json"
            write_json(path, summary)
            written.append(path)
    return written


def _overview(name: str, plan: Plan) -> str:
    """The updates of each training, and those of all."""
    updates = [step.updates for step in plan.steps if isinstance(step, TrainingRun)]
    each = "+".join(map(str, updates))
    total = f" = {sum(updates)}" if len(updates) > 1 else ""
    rounds, trainings = _count(len(plan.steps), "round"), _count(len(updates), "training")
    return f"{name}: {rounds}, {trainings} of {each}{total} updates"


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _refuse_other_kind(name: str, setting: Setting) -> None:
    """Raise UserError if the config is not for the recipe, or the model or the data not for it."""
    from speechprune.checkpoint import read
    from speechprune.state_names import is_text

    trained, other = ("text", "speech") if setting.is_of_text else ("speech", "text")
    if setting.is_of_text and RECIPES[name].of_speech:
        raise UserError(
            f"the recipe {name} is for models of speech, but {setting.config} trains models of text"
        )
    if is_text(read(setting.model, mmap=True)["model"]) != setting.is_of_text:
        raise UserError(
            f"{setting.config} trains models of {trained}, but {setting.model} is one of {other}; "
            "name another config or model"
        )
    for folder in (setting.data, setting.source):
        if folder is not None and is_of_texts(folder) != setting.is_of_text:
            raise UserError(
                f"{setting.config} trains models of {trained}, but {folder} holds no {trained}; "
                "name another config or folder"
            )


def _refuse_own_keys(name: str, setting: Setting) -> None:
    """Overrides are for all rounds, and come before what a round sets itself."""
    refuse_early_ends(setting.overrides, f"the recipe {name}")
    bare = RECIPES[name].plan(replace(setting, overrides=()))
    own = {
        key_of(override)
        for step in bare.steps
        if isinstance(step, TrainingRun)
        for override in step.all_overrides
    }
    # Rounds that learn scores may have a learning rate of their own beside that of the others.
    own = (own | {"checkpoint.save_dir", "checkpoint.restore_file"}) - {"optimization.lr"}
    refuse_own(setting.overrides, own, f"the recipe {name}", _OPTIONS)


def _summary(
    name: str, setting: Setting, plan: Plan, label: str, run: TrainingRun
) -> dict[str, Any]:
    from speechprune.checkpoint import read

    model = read(run.checkpoint, mmap=True)["cfg"]["model"]
    others = set(plan.results.values()) - {run}
    steps = [step for step in plan.steps if step not in others]
    trained = [step for step in steps if isinstance(step, TrainingRun)]
    return {
        "recipe": name,
        "label": label,
        "sparsity": setting.sparsity if "sparsity" in RECIPES[name].options else 0.0,
        "seed": setting.seed,
        "freeze_finetune_updates": model["freeze_finetune_updates"],
        "final_updates": run.updates,
        "updates": sum(step.updates for step in trained),
        "data": run.data,
        "model": str(setting.model),
        "config": setting.config,
        "overrides": list(setting.overrides),
        "checkpoint": str(run.checkpoint),
        "rounds": [_describe(step) for step in steps],
    }


def _describe(step: Step) -> dict[str, Any]:
    if isinstance(step, TrainingRun):
        return {
            "train": step.name,
            "folder": str(step.folder),
            "updates": step.updates,
            "seconds": step.seconds,
        }
    return step.describe()
