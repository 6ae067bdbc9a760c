"""Errors that are not the program's own mistakes, reported in one line."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from speechprune.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LONGEST_REASON = 200


def user_message(error: BaseException) -> str | None:
    """The line that a user reads about ``error``; None if it is the program's own mistake.

    Libraries raise errors of their own while they handle one, fairseq on every checkpoint that does
    not load: the reason may only be in the context.
    """
    for link in _chain(error):
        if isinstance(link, UserError):
            return str(link)
        if isinstance(link, FloatingPointError):
            return (
                f"training diverged ({link}); lower optimization.lr, or look for bad samples with "
                "`speechprune manifest check`"
            )
    return storage_failure(error) or _name_failure(error) or _loading_failure(error)


def storage_failure(error: BaseException) -> str | None:
    """One line if a full disk, a refused file or one in a folder's place is behind ``error``, else
    None."""
    for link in _chain(error):
        if isinstance(link, OSError) and link.errno in _FULL:
            what = link.filename or "the output"
            return f"{what} cannot be written: {link.strerror}; free some space and run again"
        if isinstance(link, (FileExistsError, NotADirectoryError)) and link.filename:
            return f"{link.filename} cannot be made a folder: {link.strerror}; name another place"
        if isinstance(link, PermissionError) and link.filename:
            return f"no permission to use {link.filename}; change its mode or name another place"
    return None


def _name_failure(error: BaseException) -> str | None:
    """One line if a name that no file can have, or no text can hold, is behind ``error``."""
    for link in _chain(error):
        if isinstance(link, OSError) and link.errno == errno.ENAMETOOLONG:
            return f"{link.filename} is too long a name for a file; choose another"
        if isinstance(link, UnicodeEncodeError) and "surrogate" in link.reason:
            name = link.object.splitlines()[link.object.count("\n", 0, link.start)]
            return f"the name {name[-_LONGEST_REASON:]!r} is not UTF-8; rename it"
    return None


def _loading_failure(error: BaseException) -> str | None:
    """One line if fairseq found a checkpoint's tensors to be another model's, else None."""
    message = str(error)
    if not message.startswith("Cannot load model parameters from checkpoint"):
        return None
    details = str(error.__context__ or "").strip().splitlines()
    reason = details[-1].strip() if details else "no reason given"
    return f"{message.rstrip('.')}: {reason[:_LONGEST_REASON]}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__
