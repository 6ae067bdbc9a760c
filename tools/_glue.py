"""`speechprune prepare glue`: tasks on sentences, for fairseq's `sentence_prediction`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from speechprune.manifests.corpora.base import WORKERS_HELP
from speechprune.tables import table
from speechprune.tools._options import AT_A_TIME, Number, whole_number

if TYPE_CHECKING:
    from speechprune.manifests.glue.preparation import PreparedText

#: Rows left out that are printed; provenance.json has all.
_SHOWN = 20
_PATH = click.Path(path_type=Path)


@click.command("glue", context_settings={"show_default": True})
@click.argument("folder", type=_PATH)
@click.option(
    "--task",
    "name",
    required=True,
    metavar="NAME",
    help="Task to prepare: CoLA, MNLI, MRPC, QNLI, QQP, RTE, SST-2, STS-B, or one of your own.",
)
@click.option("--out", required=True, type=_PATH, help="New folder to write.")
@click.option(
    "--bpe",
    type=_PATH,
    metavar="FOLDER",
    help="Folder of GPT-2's encoder.json, vocab.bpe and dict.txt, as fairseq publishes them for "
    "RoBERTa; without it, tokens are words in lower case.",
)
@click.option(
    "--dictionary",
    type=_PATH,
    metavar="FILE",
    help="Dictionary of words of the model to finetune; without it, one is learned of the training "
    "set.",
)
@click.option(
    "--min-count",
    type=whole_number(1),
    default=2,
    help="How often the training set must have a word for a dictionary that is learned; the others "
    "become <unk>.",
)
@click.option(
    "--classes",
    metavar="CLASS,CLASS",
    help="All classes in the order of the outputs of a model that was finetuned elsewhere.",
)
@click.option(
    "--scale",
    type=Number(0, min_open=True),
    help="Number that scores are divided by; 5 for STS-B, as in fairseq's recipe, and else 1.",
)
@click.option("--workers", type=AT_A_TIME, help=WORKERS_HELP)
@click.option(
    "--max-bad", type=Number(0, 1), default=0.01, help="Largest share of rows that may be unusable."
)
@click.option("--overwrite", is_flag=True, help="Replace a prepared folder.")
@click.option("--resume", is_flag=True, help="Accept a folder that is finished already.")
def command(
    folder: Path,
    name: str,
    out: Path,
    bpe: Path | None,
    dictionary: Path | None,
    min_count: int,
    classes: str | None,
    scale: float | None,
    **how: Any,
) -> None:
    """Tasks of GLUE, as download_glue_data.py writes them, for fairseq's sentence_prediction.

    FOLDER is the folder of the task, or holds it. A task of your own has train.tsv, dev.tsv and
    perhaps test.tsv: columns parted by tabs, without quotation marks around them, under a line with
    their names, which are sentence, or sentence1 and sentence2; and label or score. Train with
    task.init_token=0 and task.separator_token=2, so that pairs become <s> A </s> </s> B </s>.
    """
    from speechprune.manifests.glue.preparation import TextSettings, prepare_text

    order = None if classes is None else tuple(classes.split(","))
    settings = TextSettings(name, bpe, dictionary, min_count, order, scale)
    _show(prepare_text(folder, out, settings, progress=_bar, **how), settings)


def _bar(sentences: Iterable[Any], total: int) -> Iterator[Any]:
    """A progress bar on stderr; silent in a log file."""
    from tqdm import tqdm

    yield from tqdm(sentences, total=total, unit="sentence", disable=None)


def _show(prepared: PreparedText, settings: Any) -> None:
    rows = [("split", "examples", "labels", "tokens", "unknown", "longest")]
    for size in prepared.splits:
        share = f"{100 * size.unknown / size.tokens:.2f} %"
        counts = f"{size.tokens:,}", share, str(size.longest)
        rows.append((size.name, f"{size.examples:,}", "yes" if size.labelled else "no", *counts))
    click.echo(table(rows))
    click.echo(_tokens(prepared, settings))
    for split, line, reason in prepared.left_out[:_SHOWN]:
        click.echo(f"left out: line {line} of {split}, which {reason}")
    if len(prepared.left_out) > _SHOWN:
        click.echo(f"and {len(prepared.left_out) - _SHOWN} more; provenance.json has all")


def _tokens(prepared: PreparedText, settings: Any) -> str:
    if settings.bpe is not None:
        return f"tokens: GPT-2's byte pairs, {prepared.symbols:,} in the dictionary"
    origin = "of the training set" if settings.dictionary is None else f"of {settings.dictionary}"
    return f"tokens: words in lower case, {prepared.symbols:,} in the dictionary {origin}"
