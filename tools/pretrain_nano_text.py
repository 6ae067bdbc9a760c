"""`speechprune pretrain-nano-text`: pretrain a RoBERTa of nano size on plain text, from nothing."""

from __future__ import annotations

from pathlib import Path

import click

from speechprune.tools._options import whole_number

_PATH = click.Path(path_type=Path)


@click.command(context_settings={"show_default": True})
@click.option(
    "--train", required=True, type=_PATH, help="Plain text to train on, a sentence a line."
)
@click.option("--valid", required=True, type=_PATH, help="Plain text to validate on.")
@click.option(
    "--out",
    required=True,
    type=_PATH,
    help="Checkpoint to write; its dictionary, NAME.dict.txt, is written beside NAME.pt.",
)
@click.option(
    "--folder",
    type=_PATH,
    default=Path("nano-text"),
    help="Folder of the binary text, the run and its log; what is there already is used.",
)
@click.option("--updates", type=whole_number(1), default=4000, help="Updates of the training.")
@click.option(
    "--min-count",
    type=whole_number(1),
    default=4,
    help="How often the training text must have a word of the dictionary; the others become <unk>.",
)
@click.argument("overrides", nargs=-1)
def command(
    train: Path,
    valid: Path,
    out: Path,
    folder: Path,
    updates: int,
    min_count: int,
    overrides: tuple[str, ...],
) -> None:
    """Learn a dictionary of words, and pretrain by masked words, as RoBERTa was.

    It takes about twenty minutes on one core. Prepare tasks with --dictionary NAME.dict.txt, and
    finetune with checkpoint.restore_file=NAME.pt task.max_positions=128. OVERRIDES are
    fairseq-hydra-train's, such as model.encoder_layers=6; the config is pretraining/nano_text.
    """
    from speechprune.recipes.nano_text import pretrain_nano_text

    pretrain_nano_text(
        out, folder, train, valid, overrides=overrides, updates=updates, min_count=min_count
    )
