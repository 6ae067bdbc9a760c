"""How a run begins, or goes on: what fairseq will load before it trains."""

import os
from dataclasses import dataclass
from typing import Any, Optional

from omegaconf import II

#: What fairseq goes on from, unless `checkpoint.restore_file` says otherwise.
LAST = "checkpoint_last.pt"
#: Settings of `checkpoint` that make `restore_file` the beginning of another run.
RESETS = ("reset_dataloader", "reset_lr_scheduler", "reset_meters", "reset_optimizer")


@dataclass
class RunContext:
    """What a model has to know of fairseq's other groups to tell how its run begins."""

    seed: int = II("common.seed")
    finetune_from_model: Optional[str] = II("checkpoint.finetune_from_model")
    save_dir: str = II("checkpoint.save_dir")
    restore_file: str = II("checkpoint.restore_file")


def is_first_launch(cfg: Any) -> bool:
    """Whether fairseq will load `checkpoint.finetune_from_model` and not go on with a run.

    It decides by this file too, see `fairseq.checkpoint_utils.load_checkpoint`.
    """
    return not os.path.exists(_last(cfg))


def starting_checkpoint(cfg: Any) -> Optional[str]:
    """The checkpoint that fairseq will load before training; None if there is none.

    fairseq itself refuses one that is missing.
    """
    path = cfg.finetune_from_model if is_first_launch(cfg) else _last(cfg)
    if cfg.restore_file != LAST:
        path = cfg.restore_file
    return path if path and os.path.exists(path) else None


def _last(cfg: Any) -> str:
    return os.path.join(cfg.save_dir, LAST)
