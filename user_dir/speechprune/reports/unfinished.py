"""Training runs that are not finished: what tells them, and how far they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechprune.checksums import read_json
from speechprune.errors import UserError
from speechprune.training.overrides import EARLY_ENDS
from speechprune.training.run import DONE, SETTINGS


class UnfinishedRun(UserError):
    """The reason why a folder is not that of a finished training run."""


def refuse_missing(folder: Path, checkpoint: Path) -> None:
    """Refuse a folder without the checkpoint that counts.

    Args:
        checkpoint: in ``folder``.

    Raises:
        UnfinishedRun: there is something, but not this checkpoint.
        UserError: there is nothing at all, as after a misspelt name.
    """
    if checkpoint.is_file():
        return
    if not folder.exists():
        raise UserError(f"{folder} does not exist; name the folders of training runs")
    if not folder.is_dir():
        raise UnfinishedRun("no folder")
    started = folder / SETTINGS
    if started.exists() and not (folder / DONE).exists():
        raise UnfinishedRun(f"unfinished: 0 of {_planned(started)} updates are saved")
    raise UnfinishedRun(f"it holds no run: no {checkpoint.relative_to(folder)}")


def refuse_unfinished(folder: Path, state: Mapping[str, Any]) -> None:
    """Refuse a run that was to train further.

    Args:
        state: its last checkpoint.

    Raises:
        UnfinishedRun: with its updates.
    """
    from speechprune.checkpoint.settings import updates_of

    cfg = state["cfg"]
    done = updates_of(state)
    if done is None:
        raise UnfinishedRun("its last checkpoint does not tell how long it was trained")
    planned = (cfg.get("optimization") or {}).get("max_update") or 0
    if done >= planned or (folder / DONE).exists():
        return
    # Whoever writes down the settings writes down the end too, whichever it was.
    tells_its_end = (folder / SETTINGS).exists()
    if tells_its_end or not any(
        ((cfg.get(group) or {}).get(name) or 0) > 0
        for group, _, name in (key.partition(".") for key in EARLY_ENDS)
    ):
        raise UnfinishedRun(f"unfinished: {done} of {planned} updates")


def _planned(path: Path) -> str:
    """The updates that a run was started for, in what it was started with."""
    try:
        given = read_json(path)["overrides"]
        return dict(override.partition("=")[::2] for override in given)["optimization.max_update"]
    except (AttributeError, ValueError, KeyError, TypeError):
        return "all"
