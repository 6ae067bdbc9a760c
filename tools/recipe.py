"""`speechprune recipe`: pruning methods and their baselines, as training runs one after another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from speechprune.recipes import RECIPES, Recipe, Setting, cook
from speechprune.recipes.setting import DEFAULT_SEED, ROUND_UPDATES
from speechprune.tools._options import AT_A_TIME, SEED, Number, whole_number

_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)

#: Options of single recipes, by the attribute of the setting that they give.
_OPTIONS: dict[str, Callable[[Any], Any]] = {
    "sparsity": click.option(
        "--sparsity", type=Number(), required=True, help="Share of the weights to remove."
    ),
    "start_sparsity": click.option(
        "--start-sparsity",
        type=Number(),
        help="Sparsity to start from; by default half of the target.",
    ),
    "step": click.option(
        "--step",
        type=Number(),
        default=0.1,
        show_default=True,
        help="Share of the weights that each round removes.",
    ),
    "round_updates": click.option(
        "--round-updates",
        type=whole_number(1),
        help="Number of updates of each training but the last; by default "
        f"{ROUND_UPDATES}, or --updates if that is fewer.",
    ),
    "score_learning_rate": click.option(
        "--score-learning-rate",
        type=Number(),
        help="Learning rate of the round that learns masks; by default as in the config.",
    ),
    "keep_parameters": click.option(
        "--keep-parameters",
        type=Number(0.0, 1.0),
        default=0.5,
        show_default=True,
        help="Share of the encoder's parameters that is kept.",
    ),
    "source": click.option(
        "--source",
        type=_FOLDER,
        required=True,
        help="Folder of manifests of the language, or of texts of the task, that the mask is made "
        "for.",
    ),
    "languages": click.option(
        "--language",
        "languages",
        type=_FOLDER,
        multiple=True,
        required=True,
        help="Folder of manifests of a language; give two or more.",
    ),
}


@click.group("recipe")
def command() -> None:
    """Train by a method, in all its rounds. If interrupted, the same command continues."""


def _command(recipe: Recipe) -> click.Command:
    def call(**options: Any) -> None:
        _cook(recipe.name, **options)

    call.__doc__ = f"{recipe.help}\n\n    OVERRIDES are those of hydra, for every round."
    for name in reversed(recipe.options):
        call = _OPTIONS[name](call)
    pools = "languages" in recipe.options
    for option in (
        click.argument("overrides", nargs=-1),
        click.option("--json", "as_json", is_flag=True, help="Print the summaries as JSON."),
        click.option(
            "--seed",
            type=SEED,
            default=DEFAULT_SEED,
            show_default=True,
            help="Seed of training; the runs of others get folders such as dense-seed2 in --out.",
        ),
        click.option(
            "--updates",
            type=whole_number(1),
            help="Number of updates of each full training; by default as in the config.",
        ),
        click.option(
            "--config-name",
            "config",
            default="finetuning/base_1h",
            show_default=True,
            help="Config of every training.",
        ),
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            required=True,
            help="Folder that all runs are written to.",
        ),
        click.option(
            "--model",
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            required=True,
            help="Pretrained checkpoint.",
        ),
        click.option(
            "--data",
            type=_FOLDER,
            required=not pools,
            help="Folder of manifests, or of texts, as `prepare glue` makes it.",
        ),
    ):
        call = option(call)
    return click.command(recipe.name)(call)


def _cook(
    name: str,
    config: str,
    updates: int | None,
    as_json: bool,
    overrides: tuple[str, ...],
    **rest: Any,
) -> None:
    from omegaconf import OmegaConf

    from speechprune.training.configs import find_config

    yaml: Any = OmegaConf.load(find_config(config))
    setting = Setting(
        config=config,
        updates=updates or yaml.optimization.max_update,
        overrides=overrides,
        **{"sparsity": 0.0, **rest},
    )
    written = cook([(name, setting)], tell=lambda line: click.echo(line, err=True))
    if as_json:
        click.echo(json.dumps([json.loads(path.read_text()) for path in written], indent=2))
    else:
        for path in written:
            click.echo(f"summary: {path}")


@command.command("bank")
@click.option(
    "--task",
    "tasks",
    multiple=True,
    required=True,
    metavar="NAME=DATA",
    help="Name of a task and its folder of manifests, NAME=DATA:ENDING where that has several "
    "labels; give one for each task.",
)
@click.option(
    "--model",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    help="Pretrained checkpoint that all tasks share.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder that all runs, tasks.bank and the report are written to.",
)
@click.option(
    "--config-name",
    "config",
    default="finetuning/base_1h",
    show_default=True,
    help="Config of the tasks that are transcribed.",
)
@click.option(
    "--labels-config-name",
    "labels_config",
    default="labels/base",
    show_default=True,
    help="Config of the tasks with labels of whole utterances.",
)
@click.option(
    "--methods",
    default="masks,head,weights",
    show_default=True,
    help="Ways to adapt the model that are compared; masks are always learned.",
)
@click.option(
    "--updates",
    type=whole_number(1),
    help="Number of updates of each training; by default as in the config.",
)
@click.option(
    "--sparsity",
    type=Number(0.0, 1.0, max_open=True),
    default=0.1,
    show_default=True,
    help="Share of the masked weights to remove.",
)
@click.option(
    "--mask-attention",
    "attention",
    is_flag=True,
    help="Mask attention projections beside feed-forward weights.",
)
@click.option(
    "--train-norms", "norms", is_flag=True, help="Train biases and layer norms beside masks."
)
@click.option(
    "--masks-learning-rate", type=Number(), help="Learning rate of masks; by default the config's."
)
@click.option(
    "--head-learning-rate",
    type=Number(),
    help="Learning rate of a head alone; by default the config's.",
)
@click.option(
    "--weights-learning-rate",
    type=Number(),
    help="Learning rate of weights; by default the config's.",
)
@click.option("--train", default="train", show_default=True, help="Split to train on.")
@click.option("--valid", default="valid", show_default=True, help="Split to choose checkpoints on.")
@click.option("--test", default="test", show_default=True, help="Split for the error rates.")
@click.option(
    "--seed",
    type=SEED,
    default=DEFAULT_SEED,
    show_default=True,
    help="Seed of training; each task has its own, made of this one and its name.",
)
@click.option(
    "--jobs", type=AT_A_TIME, default=1, show_default=True, help="Number of tasks at a time."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of text.")
@click.argument("overrides", nargs=-1)
def bank(tasks: tuple[str, ...], test: str, jobs: int, as_json: bool, **options: Any) -> None:
    """Masks of many languages and tasks on one model, in one bank, against heads and weights.

    Each task learns masks and a head over the shared weights; a head alone; and weights of its own.
    The best checkpoints in validation are evaluated on the test split, the masks go into
    OUT/tasks.bank, and OUT gets one report: report.md, .json and .png.

    The same command with a further --task adds that one alone. OVERRIDES are those of hydra, for
    every training.
    """
    from speechprune.recipes.bank import BankTraining
    from speechprune.recipes.tasks import METHODS, TaskSetting, methods_of, tasks_of

    rates = {method: options.pop(f"{method}_learning_rate") for method in METHODS}
    setting = TaskSetting(
        tasks=tasks_of(tasks),
        names=methods_of(options.pop("methods").split(",")),
        splits=(options.pop("train"), options.pop("valid")),
        learning_rates={method: rate for method, rate in rates.items() if rate is not None},
        **options,
    )
    out = BankTraining(setting, test, jobs).run(lambda line: click.echo(line, err=True))
    click.echo((out / ("report.json" if as_json else "report.md")).read_text(encoding="utf-8"))


for _each in RECIPES.values():
    command.add_command(_command(_each))
