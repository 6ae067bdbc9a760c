"""Worker processes: they leave Ctrl-C to their parent, and do not outlive it."""

from __future__ import annotations

import os
import threading
from multiprocessing import connection, parent_process
from signal import SIG_DFL, SIG_IGN, SIGHUP, SIGINT, SIGTERM, signal


def follow_parent() -> None:
    """Call it first in a process that `multiprocessing` started.

    Ctrl-C and a hangup reach every process of a terminal; the parent answers for all. A parent that
    is killed cannot end its workers, so each watches for that itself.
    """
    signal(SIGINT, SIG_IGN)
    signal(SIGHUP, SIG_IGN)
    signal(SIGTERM, SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
