"""Files are written whole, and only in the place of their like."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from speechprune.errors import UserError
from speechprune.files import kind_of, refuse_to_replace, write_atomically

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """One file of each kind."""
    contents = {"figure": PNG, "JSON": b' {"a": 1}', "text": b"WER 3\n", "": b""}
    found = {
        kind: tmp_path / f"{kind}.file" for kind in (*contents, "checkpoint", "masks or matrix")
    }
    for kind, content in contents.items():
        found[kind].write_bytes(content)
    torch.save({"a": torch.ones(2)}, found["checkpoint"])
    save_file({"a": torch.ones(2)}, found["masks or matrix"])
    return found


def test_kinds_are_told_by_content(files: dict[str, Path], tmp_path: Path) -> None:
    assert {kind: kind_of(path) for kind, path in files.items()} == {kind: kind for kind in files}
    assert kind_of(tmp_path / "missing") == ""
    torch.save({}, tmp_path / "old", _use_new_zipfile_serialization=False)
    assert kind_of(tmp_path / "old") == "checkpoint"


def test_only_a_file_of_its_kind_is_replaced(files: dict[str, Path]) -> None:
    before = {kind: path.read_bytes() for kind, path in files.items()}
    for new in files.values():
        content = new.read_bytes()
        for kind, path in files.items():
            if kind in ("", kind_of(new)):
                write_atomically(path, content)
            elif content:
                with pytest.raises(UserError, match="holds another kind of file"):
                    write_atomically(path, content)
            path.write_bytes(before[kind])
    assert len(list(files["text"].parent.iterdir())) == len(files)


def test_what_is_read_is_not_replaced(tmp_path: Path) -> None:
    file = tmp_path / "file"
    refuse_to_replace(tmp_path / "other", file)
    for same in (file, tmp_path / "there" / ".." / "file"):
        with pytest.raises(UserError, match="would be overwritten"):
            refuse_to_replace(same, "1,2", file)
    file.write_text("")
    (tmp_path / "link").symlink_to(file)
    os.link(file, tmp_path / "hard")
    for same in ("link", "hard"):
        with pytest.raises(UserError, match="would be overwritten"):
            refuse_to_replace(tmp_path / same, file)


def test_a_folder_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, Path(".")):
        with pytest.raises(UserError, match="is a folder; name a file"):
            write_atomically(folder, b"x")
    assert not list(tmp_path.iterdir())
