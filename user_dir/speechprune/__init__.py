"""speechprune: choose which connections, channels and layers of a speech model to keep.

Importing the package is cheap. When fairseq imports it, as its user folder, it registers its parts
with fairseq; whatever trains or builds a model sees to that by itself.
"""

import sys

__version__ = "0.1.0"

if sys.modules.get("fairseq") is not None:
    import logging

    # A task of fairseq sets the root logger up on import; with a handler there it does not.
    _placeholder = logging.NullHandler()
    logging.getLogger().addHandler(_placeholder)
    try:
        from speechprune import plugin  # noqa: F401
    finally:
        logging.getLogger().removeHandler(_placeholder)
