"""Failures that lie outside the program, told in one line."""

from __future__ import annotations

import errno

from speechprune.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def storage_failure(error: BaseException) -> str | None:
    """One line if a full disk or a refused file is behind ``error``, else None.

    A library that fails to write often raises an error of its own while it closes the file, and the
    reason is only in the context of that error.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.errno in _FULL:
            what = link.filename or "the output"
            return f"{what} cannot be written: {link.strerror}; free some space and run again"
        if isinstance(link, PermissionError) and link.filename:
            return f"no permission to use {link.filename}; change its mode or name another place"
        link = link.__cause__ or link.__context__
    return None


def user_message(error: BaseException) -> str | None:
    """The line that a user is told about ``error``; None if it is the program's own mistake."""
    return str(error) if isinstance(error, UserError) else storage_failure(error)
