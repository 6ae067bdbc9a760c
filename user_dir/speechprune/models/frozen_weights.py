"""Whether a model's masks are put on weights that stay as pretrained."""

from typing import Any

from speechprune.models.declaration import declared
from speechprune.models.pruning_flags import trains_weights


def trains_masked_weights(cfg: Any) -> bool:
    """Whether a model with these settings trains the weights that it masks; False without masks."""
    model = declared(cfg["_name"])
    if "co_train" in model.reads:
        return bool(model.has_masks and cfg["co_train"])
    if "train_weights" in model.reads:
        return trains_weights(cfg)
    return model.has_masks
