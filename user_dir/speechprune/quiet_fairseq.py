"""Imports fairseq, and leaves the logging of the program alone.

One of fairseq's tasks sets the root logger up on import, to show the debug messages of every
library. Modules that are the first to import fairseq import this one before.
"""

import logging
import sys

if "fairseq" not in sys.modules:
    # With a handler there, `logging.basicConfig` does nothing.
    _placeholder = logging.NullHandler()
    logging.getLogger().addHandler(_placeholder)
    try:
        import fairseq  # noqa: F401
    finally:
        logging.getLogger().removeHandler(_placeholder)
