"""`speechprune tune-decoder`: the weights of a language model that make the fewest errors."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from speechprune.tools._decoding import (
    Decoding,
    beam_option,
    lexicon_option,
    workers_option,
)
from speechprune.tools._options import task_option, whole_number

if TYPE_CHECKING:
    from speechprune.decoding.tuning import Trial, Tuning

_SHOWN = 10


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder of manifests.")
@click.option(
    "--subset",
    required=True,
    help="Name of the manifest to tune on, such as valid: not the one that is reported.",
)
@click.option(
    "--lm",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Language model to weigh, of words or of letters: .arpa, or KenLM's .bin.",
)
@lexicon_option
@beam_option
@click.option(
    "--rounds",
    type=whole_number(0, 10),
    default=2,
    show_default=True,
    help="Number of times to look closer around the best weights.",
)
@workers_option
@task_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def command(
    checkpoint: Path,
    data: Path,
    subset: str,
    lm: Path,
    lexicon: Path | None,
    beam: int | None,
    rounds: int,
    workers: int | None,
    task: str | None,
    as_json: bool,
) -> None:
    """Find the --lm-weight and --word-score with which CHECKPOINT makes the fewest word errors.

    The model hears the subset once. A grid of weights is tried first, then the neighbours of the
    best ones, at half the distance in each round. Of weights with equally many word errors, fewer
    character errors decide, and then the smaller weights.
    """
    from speechprune.decoding.inference import read_references, sample_rate
    from speechprune.decoding.symbols import symbols_of
    from speechprune.decoding.tuning import tune
    from speechprune.exporting.onnx_model import load_any
    from speechprune.manifests.check import check_split
    from speechprune.models.loading import as_recogniser

    loaded = as_recogniser(load_any(checkpoint, task, data))
    check_split(data, subset, labels=None, sample_rate=sample_rate(loaded))
    options = Decoding(lm, lexicon, beam, None, None, workers)
    search = options.search(checkpoint, symbols_of(loaded.dictionary))
    split = read_references(loaded, data, subset)
    tuning = tune(loaded, split, search, rounds=rounds, workers=workers)
    given = {
        "data": data,
        "subset": subset,
        "task": task,
        "lm": lm,
        "lexicon": lexicon,
        "beam": beam,
        "lm-weight": f"{tuning.best.lm_weight:g}",
        "word-score": f"{tuning.best.word_score:g}" if search.words is not None else None,
    }
    line = _line(checkpoint, given)
    click.echo(json.dumps(_report(tuning, line), indent=2) if as_json else _table(tuning, line))


def _line(checkpoint: Path, given: dict[str, Any]) -> str:
    """What evaluates with the best weights; the subset is to be replaced by that of the test."""
    words = ["speechprune", "evaluate", str(checkpoint)]
    for name, value in given.items():
        words += [f"--{name}", str(value)] if value is not None else []
    return shlex.join(words)


def _report(tuning: Tuning, line: str) -> dict[str, Any]:
    return {
        "greedy": _described(tuning.greedy),
        "best": _described(tuning.best),
        "trials": [_described(trial) for trial in tuning.trials],
        "command": line,
    }


def _described(trial: Trial) -> dict[str, Any]:
    return {
        "lm_weight": trial.lm_weight,
        "word_score": trial.word_score,
        "wer": trial.words.rate,
        "cer": trial.characters.rate,
        "words": asdict(trial.words),
        "characters": asdict(trial.characters),
    }


def _table(tuning: Tuning, line: str) -> str:
    from speechprune.tables import table

    best = sorted(tuning.trials, key=lambda trial: trial.rank)[:_SHOWN]
    rows = [("lm weight", "word score", "WER", "CER")]
    rows += [(f"{t.lm_weight:g}", f"{t.word_score:g}", *_rates(t)) for t in best]
    rows.append(("greedy", "", *_rates(tuning.greedy)))
    left = len(tuning.trials) - len(best)
    others = f"\n{left} others make more errors, or as many with larger weights" if left else ""
    return f"{table(rows)}{others}\n\n{line}"


def _rates(trial: Trial) -> tuple[str, str]:
    return f"{100 * trial.words.rate:.2f} %", f"{100 * trial.characters.rate:.2f} %"
