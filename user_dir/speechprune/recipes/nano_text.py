"""A RoBERTa of nano size, pretrained from nothing on plain text."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from speechprune.checkpoint.pretrained import pretrained_state
from speechprune.checkpoint.settings import plain, updates_of
from speechprune.errors import UserError
from speechprune.files import check_output, replacing_file
from speechprune.manifests.dictionary import symbols_digest
from speechprune.manifests.glue.plain import DICTIONARY, prepare_plain
from speechprune.recipes.pretraining import OWN_AND_UPDATES, check_overrides
from speechprune.rewriting.rewriting import Rewriting
from speechprune.training.overrides import quoted
from speechprune.training.run import TrainingRun

#: How often the training text has a word of the dictionary: of the rated texts that the benchmarks
#: read, 8,067 words, with which the file stays below 4 MB.
MIN_COUNT = 4
UPDATES = 4000

#: Settings of the task that finetuning has to have as well, beside the dictionary.
_OF_TASK = ("_name", "sample_break_mode", "tokens_per_sample")


def dictionary_beside(out: Path) -> Path:
    """Where the dictionary of a pretrained model is written, for `prepare glue --dictionary`."""
    return out.with_suffix(".dict.txt")


def pretrain_nano_text(
    out: Path,
    folder: Path,
    train: Path,
    valid: Path,
    *,
    overrides: tuple[str, ...] = (),
    updates: int = UPDATES,
    min_count: int = MIN_COUNT,
) -> None:
    """Learn a dictionary of words, pretrain by `config/pretraining/nano_text.yaml`, and export.

    Args:
        out: the checkpoint to write, in half precision; its dictionary is written beside it.
        folder: where the binary text and the run are kept; what is there already is used.
        train, valid: plain text, a sentence a line.
        overrides: more overrides for fairseq-hydra-train.
        min_count: how often `train` has a word of the dictionary.

    Raises:
        UserError: as `prepare_plain` and `TrainingRun.finish`, an override is of what the recipe
            sets itself, or `out` cannot be written.
    """
    check_overrides(overrides, OWN_AND_UPDATES)
    check_output(out)
    check_output(dictionary_beside(out))
    corpus = folder / "corpus"
    prepare_plain(corpus, {"train": train, "valid": valid}, min_count=min_count)
    run = TrainingRun(
        "pretraining",
        folder / "run",
        "pretraining/nano_text",
        (f"task.data={quoted(str(corpus.absolute()))}", *overrides),
        updates,
        needs=(corpus / DICTIONARY,),
    )
    # Sums in a fixed order: the recipe's result does not depend on the number of cores.
    run.finish({"OMP_NUM_THREADS": "1"})
    _export(run.checkpoint, corpus / DICTIONARY, out)


def _export(checkpoint: Path, dictionary: Path, out: Path) -> None:
    """Write the model for `checkpoint.restore_file`, with the digest of its dictionary."""
    rewriting = Rewriting(checkpoint, out)
    task, model = (plain(rewriting.state["cfg"][part]) for part in ("task", "model"))
    weights = _halved(rewriting.state["model"])
    _refuse_overflow(checkpoint, weights)
    kept = {key: task[key] for key in _OF_TASK}
    state = pretrained_state(weights, kept, model, updates_of(rewriting.state) or 0)
    rewriting.write(state, {"dictionary": symbols_digest(dictionary)})
    with dictionary.open("rb") as source, replacing_file(dictionary_beside(out)) as target:
        shutil.copyfileobj(source, target)


def _halved(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights in half precision; what shares its memory, as embeddings and the output do, still
    does."""
    halves: dict[int, torch.Tensor] = {}
    return {
        name: halves.setdefault(tensor.data_ptr(), tensor.half()).view(tensor.shape)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in weights.items()
    }


def _refuse_overflow(checkpoint: Path, weights: dict[str, torch.Tensor]) -> None:
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{checkpoint} has a weight in {name} that half precision cannot hold")
