"""`speechprune evaluate`: error rates or accuracy, density and speed of a finetuned model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from speechprune.decoding import MAX_SYMBOLS, MAX_TOKENS
from speechprune.errors import UserError
from speechprune.tools import _labels, _sentences
from speechprune.tools._decoding import Decoding, decoding_options, nbest_option
from speechprune.tools._options import AUTO, task_option, whole_number

if TYPE_CHECKING:
    from speechprune.decoding.bank import BankModel
    from speechprune.decoding.beam import BeamSearch
    from speechprune.decoding.inference import Evaluation
    from speechprune.decoding.scoring import ErrorCounts
    from speechprune.manifests.manifest import Split
    from speechprune.models.loading import LoadedModel, LoadedRecogniser


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder of manifests.")
@click.option("--subset", required=True, help="Name of the manifest, such as test-clean.")
@task_option
@click.option(
    "--max-tokens",
    type=whole_number(1),
    help=f"Most samples of audio in a batch, padding included, {MAX_TOKENS} by default; of text, "
    f"most symbols, {MAX_SYMBOLS} by default.",
)
@click.option(
    "--batch-size",
    type=whole_number(1),
    help="Most utterances in a batch; 1 keeps a base model free of padding.",
)
@decoding_options
@nbest_option
@click.option(
    "--figure",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Figure of which classes are taken for which to draw, of a model for labels: .png, .pdf "
    "or .svg.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def command(
    checkpoint: Path,
    data: Path,
    subset: str,
    task: str | None,
    max_tokens: int | None,
    batch_size: int | None,
    figure: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Print the word and character error rates of CHECKPOINT over every utterance of a subset.

    If its dictionary has no `|`, its labels are units, such as phones, and there is one rate, the
    unit error rate (UER), which --json gives as wer and cer.

    Of a model for labels of whole utterances, print the accuracy of each slot and of all slots
    together, each with a 95 % confidence interval, and the recall of each class.

    Of a model for sentences, print the official metrics of the task in the folder, as `prepare
    glue` makes it.

    CHECKPOINT may be a bank, of which --task names a task. With auto, each utterance is transcribed
    by the task that is surest, and what is printed ends with how many utterances chose which task.

    Transcripts are made of the best symbol of each frame. --lm, --lexicon, --beam or --nbest search
    for the best transcript instead; --nbest adds the error rate of an oracle, who would choose the
    one with the fewest errors.
    """
    from speechprune.decoding.bank import BankModel, is_bank
    from speechprune.exporting.onnx_model import load_any
    from speechprune.figures import check_figure_path

    if figure is not None:
        check_figure_path(figure)
    options = Decoding(**given)
    options.check()
    asked = {"max_tokens": max_tokens, "batch_size": batch_size}
    limits = {name: limit for name, limit in asked.items() if limit is not None}
    if task == AUTO and is_bank(checkpoint):
        _refuse_figure(figure, checkpoint)
        _refuse_search(options, checkpoint)
        bank = BankModel(checkpoint)
        labels = bank.recogniser(bank.recognisers()[0]).labels
        measure = partial(_by_the_surest, bank, data, subset, limits)
    else:
        loaded = load_any(checkpoint, task, data)
        labels = loaded.labels
        measure = partial(_by_one, loaded, data, subset, figure, limits, options)
    # Before the evaluation: meanwhile, a training may replace its checkpoint.
    source = _sources(checkpoint, data, subset, labels) if as_json else {}
    described, text = measure()
    if as_json:
        named = {} if task is None else {"task": task}
        click.echo(json.dumps({**source, **named, **described}, indent=2))
    else:
        click.echo(text)


def _sources(checkpoint: Path, data: Path, subset: str, labels: str) -> dict[str, Any]:
    """What was evaluated on what, with what tells them apart from later files of their names.

    Args:
        labels: the ending of the label files of ``data``.
    """
    from speechprune.files import digest
    from speechprune.manifests.split_files import split_digest
    from speechprune.reports.run_files import DATA_DIGEST

    source = {
        "checkpoint": str(checkpoint),
        "checkpoint_digest": digest(checkpoint),
        "data": str(data),
        "subset": subset,
    }
    try:
        return {**source, DATA_DIGEST: split_digest(data, subset, labels)}
    except OSError:  # the evaluation says what is missing
        return source


def _by_one(
    loaded: LoadedModel,
    data: Path,
    subset: str,
    figure: Path | None,
    limits: Mapping[str, Any],
    options: Decoding,
) -> tuple[dict[str, Any], str]:
    """What a model is worth, to be read by programs and by people."""
    from speechprune.decoding.inference import evaluate, read_references, sample_rate
    from speechprune.decoding.labelling import evaluate_labels, read_labels
    from speechprune.manifests.check import check_split
    from speechprune.models.loading import LoadedLabeller, LoadedSentences, as_recogniser

    if isinstance(loaded, LoadedSentences):
        from speechprune.decoding.sentences import evaluate_sentences

        _refuse_figure(figure, loaded.path)
        _refuse_search(options, loaded.path)
        of_text = evaluate_sentences(loaded, data, subset, **limits)
        return _sentences.report(of_text), _sentences.table(of_text)
    check_split(data, subset, labels=None, sample_rate=sample_rate(loaded))
    if isinstance(loaded, LoadedLabeller):
        _refuse_search(options, loaded.path)
        told = evaluate_labels(loaded, read_labels(loaded, data, subset), **limits)
        if figure is not None:
            _labels.draw(told, figure, _evaluated(loaded.path, subset))
        return _labels.report(told), _labels.table(told)
    _refuse_figure(figure, loaded.path)
    recogniser = as_recogniser(loaded)
    split = read_references(recogniser, data, subset)
    if options.searches:
        return _by_search(recogniser, split, limits, options)
    evaluation = evaluate(recogniser, split, **limits)
    return report(evaluation), table(evaluation)


def _by_search(
    loaded: LoadedRecogniser, split: Split, limits: Mapping[str, Any], options: Decoding
) -> tuple[dict[str, Any], str]:
    """The same, of the transcripts that a search finds."""
    from speechprune.decoding.searching import evaluate_search
    from speechprune.decoding.symbols import symbols_of

    search = options.search(loaded.path, symbols_of(loaded.dictionary))
    found = evaluate_search(loaded, split, search, workers=options.workers, **limits)
    how, in_words = describe(search)
    described, lines = {**report(found.evaluation), "decoding": how}, table(found.evaluation)
    if options.nbest is not None:
        described["oracle"] = {"wer": found.oracle.rate, "words": asdict(found.oracle)}
        rate = f"{100 * found.oracle.rate:.2f} %"
        lines += f"\noracle      {rate}  (of the best of {search.nbest} transcripts)"
    return described, f"{lines}\ndecoding    {in_words}"


def _by_the_surest(
    bank: BankModel, data: Path, subset: str, limits: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """The same, of all tasks of a bank together."""
    from speechprune.decoding.bank import evaluate_surest
    from speechprune.manifests.check import check_split

    check_split(data, subset, labels=None, sample_rate=bank.rate())
    evaluation, chosen = evaluate_surest(bank, data, subset, **limits)
    counts = ", ".join(f"{name} {count}" for name, count in chosen.items() if count)
    described = {**report(evaluation), "chosen": chosen}
    return described, f"{table(evaluation)}\nchosen      {counts}"


def _evaluated(checkpoint: Path, subset: str) -> str:
    """The split, and seed and updates of the model's training where its file tells them."""
    from speechprune.checkpoint import read
    from speechprune.checkpoint.settings import seed_of, updates_of
    from speechprune.decoding.bank import is_bank
    from speechprune.intervals import training_in_words

    if is_bank(checkpoint):
        return subset
    state = read(checkpoint, mmap=True)
    updates = updates_of(state)
    return (
        subset if updates is None else f"{subset}; {training_in_words([updates], [seed_of(state)])}"
    )


def _refuse_figure(figure: Path | None, checkpoint: Path) -> None:
    if figure is not None:
        raise UserError(
            f"--figure draws which classes are taken for which, but {checkpoint} is no model for "
            "labels of utterances; leave it out"
        )


def _refuse_search(options: Decoding, checkpoint: Path) -> None:
    if options.searches:
        raise UserError(
            f"a beam search is for a CTC model, or for one task of a bank, which {checkpoint} is "
            "not; leave out --lm, --lexicon, --beam and --nbest"
        )


def describe(search: BeamSearch) -> tuple[dict[str, Any], str]:
    """How transcripts were found, to be read by programs and by people."""
    files = {"lm": search.language_model, "lexicon": search.lexicon}
    found = {
        **{name: None if path is None else str(path) for name, path in files.items()},
        "beam": search.beam,
        "lm_weight": None if search.language_model is None else search.lm_weight,
        "word_score": None if search.words is None else search.word_score,
    }
    given = {name: value for name, value in found.items() if value is not None}
    return found, ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in given.items())


def report(evaluation: Evaluation) -> dict[str, Any]:
    """The measurements under the names that `--json` prints; rates are shares, not percent."""
    return {
        "utterances": evaluation.words.utterances,
        "units": evaluation.units,
        "wer": evaluation.words.rate,
        "cer": evaluation.characters.rate,
        "words": asdict(evaluation.words),
        "characters": asdict(evaluation.characters),
        "parameters": evaluation.parameters,
        "density": evaluation.density,
        "audio_seconds": evaluation.audio_seconds,
        "seconds_of_audio_per_second": evaluation.speed,
        "device": evaluation.device,
    }


def table(evaluation: Evaluation) -> str:
    """The measurements as lines to read."""
    rates = [
        _error_line("WER", evaluation.words, "words"),
        _error_line("CER", evaluation.characters, "characters"),
    ]
    if evaluation.units:
        rates = [_error_line("UER", evaluation.words, "units")]
    return "\n".join(
        [
            *rates,
            f"utterances  {evaluation.words.utterances}, {evaluation.audio_seconds:.1f} s of audio",
            f"parameters  {evaluation.parameters:,}",
            f"density     {evaluation.density:.4f} of the maskable weights kept",
            f"speed       {evaluation.speed:.1f} s of audio per second on {evaluation.device}",
        ]
    )


def _error_line(name: str, counts: ErrorCounts, unit: str) -> str:
    return (
        f"{name}         {100 * counts.rate:.2f} %  ({counts.substitutions} substitutions, "
        f"{counts.deletions} deletions, {counts.insertions} insertions in "
        f"{counts.reference_length} {unit})"
    )
