"""`speechprune transcribe`: the text of audio files, or their classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from speechprune.tools._options import AUTO, task_option

if TYPE_CHECKING:
    from speechprune.decoding.files import Transcript


@click.command()
@click.pass_context
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@task_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of lines.")
def command(
    context: click.Context,
    checkpoint: Path,
    files: tuple[Path, ...],
    task: str | None,
    as_json: bool,
) -> None:
    """Print the text of each of FILES, after the file's name and a tab.

    A model for labels of whole utterances prints the class of each slot, parted by tabs. Of a bank,
    --task chooses whose model is used; with auto, the task that is surest is printed before the
    text.

    FILES may have any sample rate, number of channels and format that libsndfile reads.
    Nothing is printed if one of them cannot be read. Of a truncated one the text of what is there
    is printed, an error says how much is missing, and the exit status is 1.
    """
    from speechprune.decoding.bank import BankModel, is_bank
    from speechprune.decoding.files import hear_files, transcribe_files
    from speechprune.exporting.onnx_model import load_any

    if task == AUTO and is_bank(checkpoint):
        transcripts = hear_files(BankModel(checkpoint), files)
    else:
        transcripts = transcribe_files(load_any(checkpoint, task), files)
    found = list(zip(files, transcripts))
    if as_json:
        click.echo(json.dumps([_row(*each) for each in found], indent=2, ensure_ascii=False))
    else:
        for file, transcript in found:
            click.echo("\t".join(_row(file, transcript).values()))
    truncated = [(file, transcript.missing) for file, transcript in found if transcript.missing]
    for file, missing in truncated:
        click.echo(f"speechprune: error: {file} {missing}", err=True)
    if truncated:
        context.exit(1)


def _row(file: Path, transcript: Transcript) -> dict[str, str]:
    chosen = {"task": transcript.task} if transcript.task else {}
    return {"file": str(file), **chosen, "text": transcript.text}
