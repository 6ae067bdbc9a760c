"""Going on with a run whose last checkpoint a power cut or a bad disk has damaged."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from speechprune.checkpoint.file import DamagedCheckpoint, read
from speechprune.checkpoint.saved import SavedCheckpoint, read_saved
from speechprune.errors import UserError
from speechprune.files import check_output, put_in_place

logger = logging.getLogger(__name__)

#: What fairseq calls a checkpoint that it is still writing or copying.
_UNFINISHED = "*.pt.tmp"


def mend_last(last: Path) -> None:
    """Put the newest whole checkpoint of a run in the place of a damaged last one, and say so.

    It takes the place of a missing one too if the run was interrupted while it saved. What it left
    unfinished is removed. Where there is no whole one, nothing else is changed. Call it while no
    other process trains in the folder.

    Raises:
        UserError: ``last`` is something else than a file, such as a pipe.
        OSError: a file cannot be written or removed.
    """
    check_output(last)
    unfinished = sorted(last.parent.glob(_UNFINISHED))
    problem = _problem(last, bool(unfinished))
    newest = _newest(last) if problem else None
    if newest is not None:
        temporary = last.with_name(f"{last.name}.tmp")
        shutil.copyfile(newest.path, temporary)
        put_in_place(temporary, last)
        logger.warning(
            f"{problem}; going on from {newest.path.name}, the newest whole checkpoint beside it, "
            f"of {newest.updates} updates"
        )
    for path in unfinished:
        path.unlink(missing_ok=True)


def _problem(last: Path, is_interrupted: bool) -> str:
    """What is wrong with a run's last checkpoint; "" if nothing is."""
    if not last.exists():
        return f"{last} was not finished" if is_interrupted else ""
    try:
        read(last, mmap=True)
    except DamagedCheckpoint as error:
        return str(error).partition(";")[0]
    except UserError:
        pass  # whole, and for others to judge
    return ""


def _newest(last: Path) -> SavedCheckpoint | None:
    """The whole checkpoint with most updates that a run has saved, besides the last."""
    found = []
    for path in sorted(last.parent.glob("*.pt")):
        try:
            saved = read_saved(path) if path != last and path.is_file() else None
        except UserError:
            continue
        found += [saved] if saved else []
    return max(found, key=lambda saved: saved.updates, default=None)
