"""Files are written whole, and only in the place of their like."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from safetensors.torch import save_file

from speechprune.errors import UserError
from speechprune.figures import check_figure_path
from speechprune.files import (
    check_folder,
    check_output,
    kind_of,
    make_folder,
    put_in_place,
    refuse_to_replace,
    write_atomically,
)

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """One file of each kind."""
    contents = {"figure": PNG, "JSON": b' {"a": 1}', "text": b"WER 3\n", "": b""}
    contents["ONNX"] = b"\x08\x0a\x12\x07pytorch"
    found = {kind: tmp_path / f"{kind}.file" for kind in (*contents, "checkpoint", "safetensors")}
    for kind, content in contents.items():
        found[kind].write_bytes(content)
    torch.save({"a": torch.ones(2)}, found["checkpoint"])
    save_file({"a": torch.ones(2)}, found["safetensors"])
    return found


def test_kinds_are_told_by_content(files: dict[str, Path], tmp_path: Path) -> None:
    assert {kind: kind_of(path) for kind, path in files.items()} == {kind: kind for kind in files}
    assert kind_of(tmp_path / "missing") == ""
    torch.save({}, tmp_path / "old", _use_new_zipfile_serialization=False)
    assert kind_of(tmp_path / "old") == "checkpoint"


@pytest.mark.parametrize("first", [0x80, 0x89, 0x25])
def test_a_length_may_begin_as_other_kinds_do(tmp_path: Path, first: int) -> None:
    """What safetensors begin with is the length of their header, here 0x..80 or the like."""
    path = tmp_path / "file"
    path.write_bytes(bytes([first, 3, *bytes(6)]) + b'{"a"' + bytes(100))
    assert kind_of(path) == "safetensors"


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


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    os.chdir(path.parent)  # the names of sockets are short
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(path.name)


def make_device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("making a device needs root")


@pytest.mark.parametrize("make", [make_pipe, make_socket, make_device])
@pytest.mark.parametrize("linked", [False, True])
def test_what_is_no_file_stays_what_it_is(
    make: Callable[[Path], None], linked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    special = out = tmp_path / "special.png"
    make(special)
    if linked:
        out = tmp_path / "link.png"
        out.symlink_to(special)
    before = os.stat(special)
    assert kind_of(out) == ""
    actions: tuple[Callable[[Path], Any], ...] = (
        check_output,
        check_figure_path,
        refuse_to_replace,
        lambda path: write_atomically(path, b"x"),
    )
    for action in actions:
        with pytest.raises(UserError, match="is a (pipe|socket|device), which is not replaced"):
            action(out)
    for folder in (check_folder, make_folder):
        with pytest.raises(UserError, match="cannot be made a folder"):
            folder(out)
    assert os.path.samestat(before, os.stat(special)) and out.is_symlink() == linked
    assert sorted(tmp_path.iterdir()) == sorted({special, out})


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "file", tmp_path / "link"
    link.symlink_to(target)
    for content in (b"new", b"newer"):
        write_atomically(link, content)
        assert link.is_symlink() and target.read_bytes() == content
    assert list(target.parent.iterdir()) == [target]
    link.unlink()
    link.symlink_to(tmp_path / "nowhere" / "file")
    with pytest.raises(UserError, match="cannot be written: No such file"):
        write_atomically(link, b"x")
    link.unlink()
    link.symlink_to(link)
    with pytest.raises(UserError, match="cannot be written: Too many levels"):
        write_atomically(link, b"x")


def test_permissions_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "private.json"
    path.write_text("{}")
    path.chmod(0o640)
    write_atomically(path, b"{}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    write_atomically(tmp_path / ("é" * 127), b"x")
    with pytest.raises(UserError, match="File name too long"):
        write_atomically(tmp_path / ("é" * 128), b"x")
    assert len(list(tmp_path.iterdir())) == 1


def test_the_disk_has_a_file_before_its_name_and_the_name_before_we_go_on(
    tmp_path: Path, disk: list[tuple[str, str]]
) -> None:
    write_atomically(tmp_path / "file", b"x" * 100000)
    (synced, temporary), renamed, folder = disk
    assert synced == "sync" and temporary.endswith(".tmp")
    assert renamed == ("rename", f"{tmp_path}/file") and folder == ("sync", str(tmp_path))
    disk.clear()
    (tmp_path / "new").write_bytes(b"y")
    put_in_place(tmp_path / "new", tmp_path / "file")
    assert disk == [("sync", f"{tmp_path}/new"), renamed, folder]
