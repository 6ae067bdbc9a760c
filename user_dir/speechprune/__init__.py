"""speechprune: choose which connections, channels and layers of a speech model to keep.

Importing the package is cheap. When fairseq imports it, as its user folder, it registers its parts
with fairseq; whatever trains or builds a model sees to that by itself. After torch, it lets torch
load the dictionaries in finetuned checkpoints.
"""

import sys

__version__ = "0.1.0"

if sys.modules.get("fairseq") is not None:
    from speechprune import plugin  # noqa: F401
elif sys.modules.get("torch") is not None:
    from speechprune.safe_dictionary import allow_stand_in

    allow_stand_in()
