"""`speechprune recipe`: pruning methods and their baselines, as training runs one after another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from speechprune.recipes import RECIPES, Recipe, Setting, cook
from speechprune.recipes.setting import DEFAULT_SEED, ROUND_UPDATES

_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)

#: Options of single recipes, by the attribute of the setting that they give.
_OPTIONS: dict[str, Callable[[Any], Any]] = {
    "sparsity": click.option("--sparsity", type=float, required=True, help="Share removed."),
    "start_sparsity": click.option(
        "--start-sparsity", type=float, help="Half of the target without it."
    ),
    "step": click.option(
        "--step", type=float, default=0.1, show_default=True, help="Share removed per round."
    ),
    "round_updates": click.option(
        "--round-updates",
        type=click.IntRange(1),
        help=f"Updates of each training but the last; {ROUND_UPDATES} without it, or those of "
        "--updates where that is fewer.",
    ),
    "score_learning_rate": click.option(
        "--score-learning-rate", type=float, help="Of the round that learns masks."
    ),
    "source": click.option(
        "--source", type=_FOLDER, required=True, help="Data of the language that the mask is of."
    ),
    "languages": click.option(
        "--language", "languages", type=_FOLDER, multiple=True, required=True, help="Repeat it."
    ),
}


@click.group("recipe")
def command() -> None:
    """Train by a method, all its rounds. Interrupted, the same command goes on."""


def _command(recipe: Recipe) -> click.Command:
    def call(**options: Any) -> None:
        _cook(recipe.name, **options)

    call.__doc__ = f"{recipe.help}\n\n    OVERRIDES are hydra's, for every round."
    for name in reversed(recipe.options):
        call = _OPTIONS[name](call)
    pools = "languages" in recipe.options
    for option in (
        click.argument("overrides", nargs=-1),
        click.option("--json", "as_json", is_flag=True, help="Print the summaries."),
        click.option(
            "--seed",
            type=click.IntRange(0),
            default=DEFAULT_SEED,
            show_default=True,
            help="Others lie beside it in --out, in folders such as dense-seed2.",
        ),
        click.option("--updates", type=click.IntRange(1), help="Those of the config without it."),
        click.option("--config-name", "config", default="finetuning/base_1h", show_default=True),
        click.option("--out", type=click.Path(path_type=Path), required=True, help="Of all runs."),
        click.option(
            "--model",
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            required=True,
            help="Pretrained checkpoint.",
        ),
        click.option("--data", type=_FOLDER, required=not pools, help="Folder of manifests."),
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


for _each in RECIPES.values():
    command.add_command(_command(_each))
