"""speechprune: choose which connections of a speech model to keep.

Importing the package registers its parts with fairseq. The core (`masking`, `backbones.base`)
needs torch and numpy only, so a missing fairseq is not an error here.
"""

import logging
from importlib.util import find_spec

__version__ = "0.1.0"

if find_spec("fairseq") is not None:
    # A task of fairseq sets the root logger up on import; with a handler there it does not.
    _placeholder = logging.NullHandler()
    logging.getLogger().addHandler(_placeholder)
    try:
        from speechprune import plugin  # noqa: F401
    finally:
        logging.getLogger().removeHandler(_placeholder)
