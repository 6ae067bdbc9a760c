"""A user folder for fairseq: models to compare with, which speechprune itself does not have."""

import speechprune.plugin  # noqa: F401  (registers the tasks that runs name)

from . import low_rank, mask_dropout  # noqa: F401  (registers their models)
