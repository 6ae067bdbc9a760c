"""What the plugin changes in how fairseq handles files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils

import speechprune.plugin  # noqa: F401  (what is tested)
from speechprune.errors import UserError
from speechprune.locks import give_back_kept, locked


def test_fairseqs_checkpoints_are_on_the_disk_before_they_have_their_names(
    tmp_path: Path, disk: list[tuple[str, str]]
) -> None:
    first, last = str(tmp_path / "checkpoint1.pt"), str(tmp_path / "checkpoint_last.pt")
    for round_ in range(2):  # over nothing, and over an older one
        disk.clear()
        checkpoint_utils.torch_persistent_save({"update": round_}, first)
        checkpoint_utils.PathManager.copy(first, last, overwrite=True)
        assert disk == [
            *[("sync", f"{first}.tmp"), ("rename", first), ("sync", str(tmp_path))],
            *[("sync", f"{last}.tmp"), ("rename", last), ("sync", str(tmp_path))],
        ]
        assert torch.load(last) == {"update": round_}
    assert sorted(os.listdir(tmp_path)) == ["checkpoint1.pt", "checkpoint_last.pt"]


def test_checkpoints_take_the_place_of_files_and_links_only(tmp_path: Path) -> None:
    first, last, other = (str(tmp_path / f"{name}.pt") for name in ("first", "last", "other"))
    checkpoint_utils.torch_persistent_save("other", other)
    os.symlink(other, last)
    os.mkfifo(first)
    with pytest.raises(UserError, match="is a pipe, which is not replaced"):
        checkpoint_utils.torch_persistent_save("new", first)
    with pytest.raises(UserError, match="is a pipe, which is not replaced"):
        checkpoint_utils.PathManager.copy(other, first)
    os.remove(first)
    checkpoint_utils.torch_persistent_save("new", first)
    checkpoint_utils.PathManager.copy(first, last)
    assert (torch.load(last), torch.load(other)) == ("new", "other")


def test_training_begins_alone_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever starts fairseq's loop, by `fairseq-hydra-train` or not."""
    monkeypatch.chdir(tmp_path)
    with locked(tmp_path / "checkpoints"):
        with pytest.raises(UserError, match=f"another process is writing to {tmp_path}/"):
            checkpoint_utils.verify_checkpoint_directory("checkpoints")
    for _ in range(2):  # as in a sweep
        checkpoint_utils.verify_checkpoint_directory("checkpoints")
    with pytest.raises(UserError, match="another process"):
        with locked(tmp_path / "checkpoints"):
            pass
    give_back_kept()
    assert not os.listdir(tmp_path / "checkpoints")
