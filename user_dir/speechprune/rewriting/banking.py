"""Banks from checkpoints, and checkpoints from banks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from speechprune.backbones import backbone_called
from speechprune.bank.arrays import array_of
from speechprune.bank.bank import Bank, add_task, create_bank, refuse_taken
from speechprune.bank.header import SECTIONS
from speechprune.bank.task import ErrorRate
from speechprune.checkpoint.banked import state_of
from speechprune.checkpoint.file import PathLike, read, write
from speechprune.decoding.inference import evaluate, read_references, sample_rate
from speechprune.decoding.labelling import evaluate_labels, read_labels
from speechprune.errors import UserError
from speechprune.files import refuse_to_replace
from speechprune.manifests.check import check_split
from speechprune.models.loading import LoadedLabeller, as_recogniser, load_finetuned
from speechprune.rewriting.bank_outputs import rate_of
from speechprune.rewriting.bank_settings import without_paths
from speechprune.rewriting.plain_checkpoint import read_plain
from speechprune.rewriting.task_of_checkpoint import task_of
from speechprune.state_names import is_finetuned


def create(base: PathLike, path: PathLike) -> Bank:
    """Write a bank at ``path`` with the encoder of a pretrained checkpoint, and no tasks.

    The tensors have the types of the file; bfloat16 becomes float32, which holds the same values.

    Raises:
        UserError: the checkpoint cannot be read, is a finetuned one or of text, or something is at
            ``path`` already.
    """
    refuse_to_replace(path, base)
    if is_finetuned(read(base, mmap=True)["model"]):
        raise UserError(
            f"{base} is a finetuned model, but the base of a bank is the pretrained one; write its "
            "encoder with `speechprune encoder` to take that"
        )
    found = read_plain(base)
    if found.is_text:
        raise UserError(
            f"{base} is an encoder of text, but a bank switches between tasks of speech; keep the "
            "masks of each task with `speechprune masks export`"
        )
    names = found.encoder.state_dict()
    pretraining = {section: without_paths(found.pretraining[section]) for section in SECTIONS}
    model = pretraining["model"]
    # Files of 2020 name their model as namespaces do.
    model["_name"] = backbone_called(str(model.get("_name") or model.get("arch"))).fairseq_name
    arrays = {name: array_of(found.tensors[name]) for name in names}
    return create_bank(path, arrays, pretraining)


def add(
    path: PathLike,
    name: str,
    checkpoint: PathLike,
    *,
    percent: float | None = None,
    on: tuple[Path, str] | None = None,
) -> Bank:
    """Add a finetuned checkpoint with masks to the bank at ``path``.

    Args:
        percent: its error rate, if that was measured elsewhere.
        on: a folder of manifests and the name of a split to measure it on. Without either, what
            validation in training measured is noted.

    Raises:
        UserError: as `task_of`, `add_task` and `evaluate`.
    """
    bank = Bank(path)
    refuse_taken(bank, name)
    task = task_of(bank, name, checkpoint)
    if on is not None:
        percent = measured(checkpoint, *on)
    if percent is not None:
        rate = ErrorRate(percent, rate_of(task.about["kind"]), None if on is None else on[1])
        task = replace(task, about={**task.about, "error_rate": rate.describe()})
    return add_task(path, task, onto=bank.digest)


def measured(checkpoint: PathLike, folder: Path, split: str) -> float:
    """The error rate of a checkpoint over a split, in percent: of words or units, or of utterances
    of which a class is wrong."""
    loaded = load_finetuned(checkpoint, folder)
    check_split(folder, split, labels=None, sample_rate=sample_rate(loaded))
    if isinstance(loaded, LoadedLabeller):
        labelled = evaluate_labels(loaded, read_labels(loaded, folder, split))
        return 100 * (1 - labelled.all_slots.rate)
    recogniser = as_recogniser(loaded)
    return 100 * evaluate(recogniser, read_references(recogniser, folder, split)).words.rate


def extract(path: PathLike, name: str, out: PathLike) -> None:
    """Write the checkpoint that a task of the bank at ``path`` is, see `state_of`.

    Raises:
        UserError: there is no such task, the bank is damaged, or ``out`` is the bank or cannot be
            written.
    """
    refuse_to_replace(out, path)
    write(state_of(Bank(path), name), out)
