"""One process at a time writes into a folder, or changes a file.

The lock is the kernel's, on a file in the folder or beside the file: it goes with the process,
however that ends. What the file says is only to tell others who has it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.util import Finalize
from pathlib import Path

from speechprune.errors import UserError
from speechprune.files import make_folder

logger = logging.getLogger(__name__)

LOCK = ".lock"

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_LONGEST_NOTE = 1000
#: Seconds between two attempts to take a lock.
_BETWEEN_TRIES = 0.1

#: The files of the locks that this process has, by descriptor; and the descriptors of those that it
#: keeps, by folder.
_open: dict[int, Path] = {}
_kept: dict[str, int] = {}


class FolderInUse(UserError):
    """Another process writes into a folder, or changes a file."""


@contextmanager
def locked(folder: Path, shown: Path | None = None, patience: float = 0.0) -> Iterator[int]:
    """Have a folder, which is made if need be, for this block alone.

    Gives the descriptor of the lock: a program that it is passed on to has the lock too, until both
    have ended. Where the file system has no locks, this is warned of.

    Args:
        shown: what messages name in its place.
        patience: seconds to wait for another process that has it.

    Raises:
        FolderInUse: another process has it, which is named.
        UserError: the folder cannot be written to.
    """
    with _locked(make_folder(folder) / LOCK, shown or folder, "folder", patience) as descriptor:
        yield descriptor


@contextmanager
def locked_file(path: Path, patience: float = 0.0) -> Iterator[None]:
    """Have a file, which others may be reading, for this block alone; else as `locked`.

    The lock is another file beside it: the one that is written takes the place of the old one.
    """
    with _locked(path.with_name(f".{path.name}{LOCK}"), path, "file", patience):
        yield


@contextmanager
def _locked(lock: Path, shown: Path, kind: str, patience: float) -> Iterator[int]:
    last_try = time.monotonic() + patience
    while True:
        try:
            descriptor = _take(lock, shown, kind)
            break
        except FolderInUse:
            if time.monotonic() >= last_try:
                raise
            time.sleep(_BETWEEN_TRIES)
    try:
        yield descriptor
    finally:
        _give_back(descriptor)


def keep(folder: Path) -> None:
    """As `locked`, until `give_back_kept` or the end of this process; once is enough."""
    name = os.path.realpath(folder)
    if name not in _kept:
        _kept[name] = _take(make_folder(folder) / LOCK, folder, "folder")
        # Unlike atexit's, it is called at the end of a worker process too.
        Finalize(None, give_back_kept, exitpriority=0)


def give_back_kept() -> None:
    """End what `keep` began."""
    while _kept:
        _give_back(_kept.popitem()[1])


def _take(path: Path, shown: Path, kind: str) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise UserError(f"{shown} cannot be written to: {error.strerror} ({path})") from error
        try:
            _lock(descriptor, shown, kind)
            if _is_at(path, descriptor):
                _open[descriptor] = path
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its last holder had just removed it


def _lock(descriptor: int, shown: Path, kind: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    except BlockingIOError as error:
        holder = os.pread(descriptor, _LONGEST_NOTE, 0).decode("utf-8", "replace")
        raise FolderInUse(
            f"another process is writing to {shown} ({holder or 'it does not say which'}); let it "
            f"end first, or name another {kind}"
        ) from error
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise UserError(f"{shown} cannot be locked: {error.strerror}") from error
        logger.warning(
            f"{shown} is on a file system without locks ({error.strerror}): make sure that nothing "
            "else writes to it meanwhile"
        )


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _give_back(descriptor: int) -> None:
    path = _open.pop(descriptor, None)
    if path is not None:
        # Where the folder was removed and made anew meanwhile, the file there is another's.
        if _is_at(path, descriptor):
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _forget_all() -> None:
    """A forked worker does not prolong the locks of its parent."""
    _kept.clear()
    while _open:
        os.close(_open.popitem()[0])


os.register_at_fork(after_in_child=_forget_all)
