"""Every reader of checkpoints takes a damaged one, or refuses it in one line; none runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from checkpoints import MASKS
from nano import write_corpus, write_finetuned, write_wav2vec2
from slim_files import with_idle_units

from benchmarks.mutations import mutations
from speechprune.checkpoint import read
from speechprune.checkpoint.finetuned import listening
from speechprune.checkpoint.layers import depth, lost_layers
from speechprune.checkpoint.pretrained import check_pretrained
from speechprune.checkpoint.saved import saved_checkpoints
from speechprune.checkpoint.upgrading import read_upgraded
from speechprune.errors import UserError
from speechprune.models.loading import load_encoder, load_finetuned
from speechprune.models.mask_reading import read_mask_set
from speechprune.reports.runs import read_run
from speechprune.rewriting.plain_checkpoint import read_plain
from speechprune.rewriting.slimming import apply

NUMBER = 100


def _read_run(path: Path) -> Any:
    (path.parent.parent / "facts.json").unlink(missing_ok=True)
    return read_run(path.parent.parent)


#: What builds a pretrained checkpoint and a finetuned one, and what else reads them: one by turns.
BUILDERS: dict[str, Callable[[Path], Any]] = {
    "pretrained": load_encoder,
    "finetuned": load_finetuned,
    "slim": load_finetuned,
}
READERS: dict[str, tuple[Callable[[Path], Any], ...]] = {
    "pretrained": (
        lambda path: check_pretrained(path, normalize=False),
        listening,
        depth,
        lambda path: lost_layers(read_upgraded(path)),
    ),
    "finetuned": (
        listening,
        depth,
        read_mask_set,
        lambda path: saved_checkpoints(path.parent),
        _read_run,
    ),
    "slim": (depth, read_plain, lambda path: saved_checkpoints(path.parent)),
}


@pytest.mark.parametrize("kind", list(READERS))
def test_damaged_checkpoints_are_read_or_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    source = write_wav2vec2(tmp_path / "pretrained.pt")
    if kind == "finetuned":
        data = write_corpus(tmp_path / "data", train=1, valid=1)
        source = write_finetuned(tmp_path / "finetuned.pt", source, data, model=MASKS)
    if kind == "slim":
        data = write_corpus(tmp_path / "data", train=1, valid=1)
        idle = with_idle_units(write_finetuned(tmp_path / "finetuned.pt", source, data))
        source = tmp_path / "slim.pt"
        apply(idle, source)
    path, marker = tmp_path / "run" / "checkpoints" / "checkpoint_last.pt", tmp_path / "executed"
    path.parent.mkdir(parents=True)
    state = torch.load(source, weights_only=True)
    refused = 0
    for index, mutation in enumerate(mutations(state, NUMBER, 0, marker)):
        torch.save(mutation.value, path)
        # What `read` refuses, all refuse: they look at nothing that it did not give them.
        others = READERS[kind]
        for reader in (read, others[index % len(others)], BUILDERS[kind]):
            told = f"{'.'.join(map(str, mutation.place))}: {mutation.change}"
            try:
                reader(path)
            except UserError as error:
                assert "\n" not in str(error), told
                refused += 1
                break
            except Exception as error:
                raise AssertionError(told) from error
            assert not marker.exists(), told
    assert refused > NUMBER / 2
