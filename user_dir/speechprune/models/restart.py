"""How a run begins, or goes on: what fairseq will load before it trains."""

import os
from dataclasses import dataclass
from typing import Any, Optional

from omegaconf import II

from speechprune.errors import UserError

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

    Raises:
        UserError: ``restore_file`` names one that is missing; fairseq would train from nothing.
            It refuses a missing ``finetune_from_model`` itself.
    """
    if cfg.restore_file != LAST:
        if not os.path.exists(cfg.restore_file):
            raise UserError(f"checkpoint.restore_file: {cfg.restore_file} does not exist")
        return str(cfg.restore_file)
    path = cfg.finetune_from_model if is_first_launch(cfg) else _last(cfg)
    return path if path and os.path.exists(path) else None


def _last(cfg: Any) -> str:
    return os.path.join(cfg.save_dir, LAST)
