"""`speechprune transcribe`: the text of audio files, or their classes."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.pass_context
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of lines.")
def command(
    context: click.Context, checkpoint: Path, files: tuple[Path, ...], as_json: bool
) -> None:
    """Print the text of each of FILES, after the file's name and a tab.

    A model for labels of whole utterances prints the class of each slot, parted by tabs.

    FILES may have any sample rate, number of channels and format that libsndfile reads.
    Nothing is printed if one of them cannot be read. Of a truncated one the text of what is there
    is printed, an error says how much is missing, and the exit status is 1.
    """
    from speechprune.decoding.files import transcribe_files
    from speechprune.models.loading import load_finetuned

    found = list(zip(files, transcribe_files(load_finetuned(checkpoint), files)))
    if as_json:
        rows = [{"file": str(file), "text": transcript.text} for file, transcript in found]
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        for file, transcript in found:
            click.echo(f"{file}\t{transcript.text}")
    truncated = [(file, transcript.missing) for file, transcript in found if transcript.missing]
    for file, missing in truncated:
        click.echo(f"speechprune: error: {file} {missing}", err=True)
    if truncated:
        context.exit(1)
