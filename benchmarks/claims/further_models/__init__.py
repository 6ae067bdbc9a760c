"""A user folder for fairseq: models that are compared, but are no part of speechprune."""

import speechprune.plugin  # noqa: F401  (registers the tasks that runs name)

from . import low_rank, mask_dropout  # noqa: F401  (registers their models)
