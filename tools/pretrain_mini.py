"""`speechprune pretrain-mini`: pretrain a HuBERT of ten million parameters, from nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from speechprune.tools._options import AT_A_TIME, Number, whole_number

_PATH = click.Path(path_type=Path)


@click.command(context_settings={"show_default": True})
@click.option("--out", required=True, type=_PATH, help="Checkpoint to write.")
@click.option(
    "--folder",
    type=_PATH,
    default=Path("mini"),
    help="Folder of speech, units, runs and logs; what is there already is used.",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    help="Where to train; a GPU by default, if there is one.",
)
@click.option(
    "--hours",
    type=Number(0, 1000, min_open=True),
    help="Hours of synthetic speech, about; by default 4 on a CPU and 20 on a GPU.",
)
@click.option(
    "--updates",
    type=whole_number(1),
    nargs=2,
    help="Updates of the first and of the second iteration; by default what takes about two hours "
    "of a core, or an estimated eight minutes of a large GPU.",
)
@click.option(
    "--digits",
    type=_PATH,
    help="Tar or zip archive, or folder, of real spoken digits to hear too, without labels.",
)
@click.option(
    "--without",
    multiple=True,
    metavar="SPEAKER",
    help="Speaker of the digits who is not heard, so as to be unknown later on; repeatable.",
)
@click.option(
    "--workers", type=AT_A_TIME, help="Processes that speak and listen; by default one per core."
)
@click.option(
    "--parts",
    is_flag=True,
    help="Write the checkpoint in parts below 16 MiB, and its SHA-256, too.",
)
@click.argument("overrides", nargs=-1)
def command(
    out: Path,
    folder: Path,
    device: str | None,
    hours: float | None,
    updates: tuple[int, int] | None,
    digits: Path | None,
    without: tuple[str, ...],
    workers: int | None,
    parts: bool,
    overrides: tuple[str, ...],
) -> None:
    """Speak twelve languages, pretrain on them without labels in two iterations, and keep the
    encoder.

    OVERRIDES are fairseq-hydra-train's, for both iterations, such as dataset.max_tokens=640000; the
    config is pretraining/mini.
    """
    import torch
    from tqdm import tqdm

    from speechprune.file_parts import write_parts
    from speechprune.recipes.mini import SCALES, MiniSettings, pretrain_mini
    from speechprune.recipes.mini_speech import MiniSpeech

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    scale = SCALES[device]
    settings = MiniSettings(
        MiniSpeech(hours or scale.hours, digits, without),
        updates or scale.updates,
        (*scale.overrides, *overrides),
    )

    def bar(utterances: Iterable[Any], total: int) -> Iterable[Any]:
        return tqdm(utterances, total=total, unit="utterance", disable=None)

    pretrain_mini(
        out, folder, settings, device=device, workers=workers, progress=bar, tell=click.echo
    )
    for part in write_parts(out) if parts else ():
        click.echo(f"{part}: {part.stat().st_size:,} bytes")
