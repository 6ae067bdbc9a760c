"""How fairseq starts the processes of a run: it does so without a word where it starts none.

It starts one process for each GPU, and joins the jobs of torchrun and Slurm by itself.
"""

from __future__ import annotations

from speechprune import quiet_fairseq  # noqa: F401  (before fairseq)

# isort: split
from subprocess import CalledProcessError
from typing import Any

import torch
from fairseq.distributed import utils as distributed
from omegaconf import DictConfig

from speechprune.replacing import Function, replace

#: Addresses of the machine itself, without their "tcp://".
THIS_MACHINE = ("localhost", "127.", "[::1]")

#: What fairseq raises when the launcher's variables do not fit the settings or the machine.
_OF_LAUNCHERS = (
    *(AssertionError, AttributeError, CalledProcessError, IndexError),
    *(KeyError, TypeError, ValueError, ZeroDivisionError),
)


def why_nothing_starts(cfg: DictConfig) -> str | None:
    """Why fairseq would train nothing, or wait for processes that never come; None if it trains.

    Args:
        cfg: all groups of a fairseq config; the address at which processes meet is filled in.
    """
    settings = cfg.distributed_training
    try:
        distributed.infer_init_method(settings)
    except _OF_LAUNCHERS as error:
        return f"fairseq cannot start the processes of this run ({_words(error)})"
    address = settings.distributed_init_method
    if address is None or settings.distributed_no_spawn or cfg.common.tpu:
        return None
    gpus, world = torch.cuda.device_count(), settings.distributed_world_size
    if min(gpus, world) == 0:
        return "fairseq starts one process for each GPU, and here is none: nothing would be trained"
    if gpus < world and address.partition("://")[2].startswith(THIS_MACHINE):
        return (
            f"distributed_training.distributed_world_size={world}, but fairseq starts one process "
            f"for each GPU, here {gpus}: they would wait for the others for ever"
        )
    return None


def refuse_to_start_nothing() -> None:
    """Let fairseq's own commands end in one line where they would train nothing.

    A user folder is imported before they start processes if the config names `ImportPlugin`.
    """
    replace(distributed, "call_main", _checking)


def _checking(call: Function) -> Function:
    def check_and_call(cfg: DictConfig, main: Any, **options: Any) -> Any:
        reason = why_nothing_starts(cfg)
        if reason is not None:
            # Of any other exception hydra prints a traceback.
            raise SystemExit(
                f"speechprune: error: {reason}; use `speechprune train` with the same arguments"
            )
        return call(cfg, main, **options)

    return check_and_call


def _words(error: BaseException) -> str:
    """What an exception says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
