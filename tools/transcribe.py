"""`speechprune transcribe`: the text of audio files, or their classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from speechprune.errors import UserError
from speechprune.tools._decoding import Decoding, decoding_options, nbest_option
from speechprune.tools._options import AUTO, task_option

if TYPE_CHECKING:
    from speechprune.decoding.files import Transcript

JSON, CTM, SRT = "json", "ctm", "srt"


@click.command()
@click.pass_context
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@task_option
@decoding_options
@nbest_option
@click.option(
    "--timestamps",
    type=click.Choice([JSON, CTM, SRT]),
    help="Form in which to print when each word was said: JSON, CTM, or SRT for subtitles.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of lines.")
def command(
    context: click.Context,
    checkpoint: Path,
    files: tuple[Path, ...],
    task: str | None,
    timestamps: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Print the text of each of FILES, after the file's name and a tab.

    A model for labels of whole utterances prints the class of each slot, parted by tabs. Of a bank,
    --task chooses whose model is used; with auto, the task that is surest is printed before the
    text.

    The text is that of the best symbol of each frame. --lm, --lexicon, --beam or --nbest search for
    the best transcript instead; with --nbest, score and text follow the file's name in each line.

    FILES may have any sample rate, number of channels and format that libsndfile reads. One of more
    than 80 seconds (at 16 kHz) is heard in windows, cut at silence, so that it may be hours long.
    Nothing is printed if one of them cannot be read. Of a truncated one the text of what is there
    is printed, an error says how much is missing, and the exit status is 1.
    """
    options = Decoding(**given, with_spans=timestamps is not None)
    options.check()
    _check_output(files, options, timestamps, as_json=as_json)
    found = list(zip(files, _transcripts(checkpoint, files, task, options)))
    text = _printed(found, options, timestamps, as_json=as_json)
    if text:
        click.echo(text)
    truncated = [(file, transcript.missing) for file, transcript in found if transcript.missing]
    for file, missing in truncated:
        click.echo(f"speechprune: error: {file} {missing}", err=True)
    if truncated:
        context.exit(1)


def _check_output(
    files: Sequence[Path], options: Decoding, timestamps: str | None, *, as_json: bool
) -> None:
    """Refuse what no form can hold, before anything is transcribed."""
    if timestamps in (CTM, SRT) and (as_json or options.nbest is not None):
        other = "--json" if as_json else "--nbest"
        raise UserError(f"--timestamps {timestamps} has no room for {other}; choose one of them")
    if timestamps == SRT and len(files) > 1:
        raise UserError("--timestamps srt makes the subtitles of one recording; name one file")
    if timestamps == CTM:
        from speechprune.decoding.formats import ctm

        ctm([()] * len(files), files)


def _transcripts(
    checkpoint: Path, files: Sequence[Path], task: str | None, options: Decoding
) -> list[Transcript]:
    from speechprune.decoding.bank import BankModel, is_bank
    from speechprune.decoding.files import hear_files, search_files, transcribe_files
    from speechprune.exporting.onnx_model import load_any

    searches = options.searches or options.with_spans
    if task == AUTO and is_bank(checkpoint):
        if searches:
            raise UserError(
                f"--task {AUTO} chooses by the best symbol of each frame, and searches nothing; "
                f"name a task of {checkpoint}"
            )
        return hear_files(BankModel(checkpoint), files)
    loaded = load_any(checkpoint, task)
    if not searches:
        return transcribe_files(loaded, files)
    from speechprune.decoding.emissions import ModelEmissions
    from speechprune.decoding.hypothesis import GreedySearch
    from speechprune.models.loading import as_recogniser

    source = ModelEmissions(as_recogniser(loaded))
    if not options.searches:
        return search_files(source, GreedySearch(source.symbols), files)
    search = options.search(checkpoint, source.symbols)
    return search_files(source, search, files, workers=options.workers)


def _printed(
    found: Sequence[tuple[Path, Transcript]],
    options: Decoding,
    timestamps: str | None,
    *,
    as_json: bool,
) -> str:
    from speechprune.decoding.formats import ctm, srt

    if timestamps == CTM:
        return ctm([transcript.words for _, transcript in found], [file for file, _ in found])
    if timestamps == SRT:
        ((_, transcript),) = found
        return srt(transcript.words)
    if timestamps == JSON or as_json:
        rows = [
            {
                **_row(file, transcript),
                **({"words": _words(transcript)} if timestamps else {}),
                **({"nbest": _nbest(transcript)} if options.nbest is not None else {}),
            }
            for file, transcript in found
        ]
        return json.dumps(rows, indent=2, ensure_ascii=False)
    if options.nbest is not None:
        return "\n".join(
            f"{file}\t{each.score:.4f}\t{each.text}"
            for file, transcript in found
            for each in transcript.hypotheses
        )
    return "\n".join("\t".join(_row(*each).values()) for each in found)


def _row(file: Path, transcript: Transcript) -> dict[str, str]:
    chosen = {"task": transcript.task} if transcript.task else {}
    return {"file": str(file), **chosen, "text": transcript.text}


def _words(transcript: Transcript) -> list[dict[str, Any]]:
    """Each word with its times in seconds, to the millisecond."""
    return [
        {"word": word.text, "start": round(word.start, 3), "end": round(word.end, 3)}
        for word in transcript.words
    ]


def _nbest(transcript: Transcript) -> list[dict[str, Any]]:
    return [
        {
            "text": each.text,
            "score": each.score,
            "emission_score": each.emission_score,
            "language_score": each.language_score,
        }
        for each in transcript.hypotheses
    ]
