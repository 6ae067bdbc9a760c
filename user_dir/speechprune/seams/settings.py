"""Settings with keys that models here do not know."""

from __future__ import annotations

from typing import Any

from fairseq.optim.adam import FairseqAdamConfig

from speechprune.models.config import WeightCtcConfig
from speechprune.models.s3router_keys import pass_over
from speechprune.replacing import Function


def passing_over_keys(merge: Function) -> Function:
    """`merge_with_parent`, passing over keys in the YAMLs and checkpoints of S3-Router.

    fairseq refuses unknown keys of a config, and drops those of a checkpoint without a word.
    """

    def pass_over_and_merge(dc: Any, cfg: Any, remove_missing: bool = False) -> Any:
        kind = dc if isinstance(dc, type) else type(dc)
        if issubclass(kind, (WeightCtcConfig, FairseqAdamConfig)):
            pass_over(cfg, kind.__dataclass_fields__, is_saved=remove_missing)
        return merge(dc, cfg, remove_missing)

    return pass_over_and_merge
