"""Folders that appear whole or not at all; making one can be interrupted and continued."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

from speechprune.errors import UserError
from speechprune.files import sync, write_atomically
from speechprune.locks import LOCK, locked
from speechprune.manifests.audio import UNFINISHED
from speechprune.manifests.corpus import refuse_unfit
from speechprune.manifests.manifest import AUDIO
from speechprune.manifests.provenance import PROVENANCE
from speechprune.manifests.rows import read_raw_rows, split_names

_SETTINGS = "settings.json"


def keep_sources(out: Path, sources: Sequence[Path]) -> None:
    """Refuse to replace `out` if a manifest folder, or the audio of one, lies in it.

    Raises UserError in that case, or if one of `sources` is not a manifest folder.
    """
    if not out.exists():
        return
    for source in sources:
        roots = {read_raw_rows(source / f"{name}.tsv")[0] for name in split_names(source)}
        for path in (source, *map(Path, sorted(roots))):
            if path.resolve().is_relative_to(out.resolve()):
                raise UserError(
                    f"{path} would be lost if {out} was replaced; choose another folder"
                )


@contextmanager
def replacing(folder: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder that becomes `folder` when the block ends, and vanishes if it fails.

    Raises UserError if `folder` exists, unless `overwrite` is asked and it is a manifest folder,
    if it cannot be made, is being made by another process, or has a name that no manifest can hold.
    """
    folder = Path(os.path.realpath(folder))
    refuse_unfit(str(folder), "folder")
    _refuse_existing(folder, overwrite)
    partial = folder.with_name(f".{folder.name}.new")
    _make(partial)
    with locked(partial, folder):
        try:
            _clear(partial)
            yield partial
            _refuse_existing(folder, overwrite)  # it may have appeared meanwhile
            _swap(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def continuing(
    folder: Path, settings: Mapping[str, Any], overwrite: bool = False
) -> Iterator[Path]:
    """As `replacing`, but if the block fails after it wrote audio, the next call continues there.

    Args:
        settings: what the result depends on, for JSON. `overwrite` starts again if they differ.

    Raises:
        UserError: as `replacing`; or an interrupted preparation had other settings, or is under way
            in another process.
    """
    folder = Path(os.path.realpath(folder))
    _refuse_existing(folder, overwrite)
    partial = folder.with_name(f".{folder.name}.partial")
    _make(partial)
    with locked(partial, folder):
        _match_settings(partial, settings, overwrite)
        try:
            yield partial
            _refuse_existing(folder, overwrite)  # it may have appeared meanwhile
            (partial / _SETTINGS).unlink()
            _swap(partial, folder)
        except UserError as error:
            if not (partial / AUDIO).exists():
                raise
            raise UserError(
                f"{error}; what was converted stays in {partial}, from which the same command "
                "continues: delete that folder if you do not go on"
            ) from error
        finally:
            if not (partial / AUDIO).exists():
                shutil.rmtree(partial, ignore_errors=True)


def _refuse_existing(folder: Path, overwrite: bool) -> None:
    if not folder.exists() or folder.is_dir() and not any(folder.iterdir()):
        return
    if not (folder / PROVENANCE).is_file():
        raise UserError(
            f"{folder} exists and is not a prepared corpus (no {PROVENANCE}), so it is not "
            "replaced; choose another folder"
        )
    if not overwrite:
        raise UserError(f"{folder} exists; choose another folder or add --overwrite")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder.parent} cannot be written to: {error.strerror}") from error


def _clear(partial: Path) -> None:
    """Remove what a process that was killed has left."""
    for path in partial.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def _match_settings(partial: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
    """Make sure that what is in `partial` was made with `settings`."""
    wanted = json.dumps(settings, sort_keys=True)
    file = partial / _SETTINGS
    if file.exists() and file.read_text(encoding="utf-8") != wanted:
        if not overwrite:
            raise UserError(
                f"{partial} is an interrupted preparation with other settings; repeat those, or "
                "add --overwrite to start again"
            )
        shutil.rmtree(partial / AUDIO, ignore_errors=True)
    write_atomically(file, wanted.encode())


def _swap(partial: Path, folder: Path) -> None:
    """Put `partial` in the place of `folder`, which stays where it was if that fails.

    The files in `partial` are on the disk already; its lock stays behind.
    """
    (partial / LOCK).unlink()
    for inside, _, names in os.walk(partial):
        for name in names:
            if name.endswith(UNFINISHED):  # by a worker that was killed
                os.unlink(os.path.join(inside, name))
        sync(inside)
    outgoing = folder.with_name(f".{folder.name}.replaced-{os.getpid()}")
    if folder.exists():
        os.replace(folder, outgoing)
    try:
        os.replace(partial, folder)
    except OSError:
        if outgoing.exists():
            os.replace(outgoing, folder)
        raise
    sync(folder.parent)
    shutil.rmtree(outgoing, ignore_errors=True)
