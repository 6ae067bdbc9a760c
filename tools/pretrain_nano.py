"""`speechprune pretrain-nano`: pretrain the nano wav2vec 2.0 that comes along, from nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from speechprune.tools._options import AT_A_TIME


@click.command(context_settings={"show_default": True})
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Checkpoint to write.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("nano"),
    help="Folder of the corpus, the run and its log; what is there already is used.",
)
@click.option("--workers", type=AT_A_TIME, default=2, help="Number of processes that speak.")
@click.argument("overrides", nargs=-1)
def command(out: Path, folder: Path, workers: int, overrides: tuple[str, ...]) -> None:
    """Speak two hours in six languages, pretrain on them without labels, and keep the encoder.

    It takes half an hour on one core. OVERRIDES are fairseq-hydra-train's, such as
    optimization.max_update=100; the config is pretraining/nano.
    """

    from tqdm import tqdm

    from speechprune.recipes.nano import pretrain_nano

    def bar(utterances: Iterable[Any], total: int) -> Iterable[Any]:
        return tqdm(utterances, total=total, unit="utterance", disable=None)

    pretrain_nano(out, folder, overrides=overrides, workers=workers, progress=bar, tell=click.echo)
