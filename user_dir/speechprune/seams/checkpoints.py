"""How fairseq's loop reads and writes checkpoints: validated, durable, one process at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from fairseq.file_io import PathManager

from speechprune.checkpoint import read
from speechprune.checkpoint.resuming import mend_last
from speechprune.checkpoint.upgrading import upgraded
from speechprune.errors import UserError
from speechprune.files import check_output, put_in_place
from speechprune.locks import keep
from speechprune.models.restart import LAST
from speechprune.replacing import Function


class SafeFiles(PathManager):
    """How fairseq renames and copies checkpoints, safe from a full disk, a kill and a power cut.

    It renames what the disk may not have yet, and copies a checkpoint over the others in place:
    either could destroy the checkpoint to resume from. A symbolic link is replaced, and what it
    leads to stays: that may be the checkpoint of another run.
    """

    @staticmethod
    def rename(src: str, dst: str) -> None:
        check_output(dst)
        put_in_place(src, dst)

    @staticmethod
    def copy(src_path: str, dst_path: str, overwrite: bool = False) -> Any:
        check_output(dst_path)
        temporary = dst_path + ".tmp"
        try:
            result = PathManager.copy(src_path, temporary, overwrite=True)
            put_in_place(temporary, dst_path)
        except OSError:
            if PathManager.exists(temporary):
                PathManager.rm(temporary)
            raise
        return result


def validating(load: Function) -> Function:
    """fairseq's `load_checkpoint_to_cpu`, reading as we do.

    What training goes on from, and `model.w2v_path`, are validated before their settings and
    tensors are used.
    """

    def load_validated(
        path: str, arg_overrides: Any = None, load_on_all_ranks: bool = False
    ) -> dict[str, Any]:
        path = PathManager.get_local_path(path)
        return upgraded(read(path), path, arg_overrides)

    return load_validated


def naming_unfit(load: Function) -> Function:
    """`Trainer.load_checkpoint`, naming the file with whose optimizer a run cannot go on."""

    def load_or_name(self: Any, filename: str, *args: Any, **options: Any) -> Any:
        if not PathManager.isfile(filename):
            return load(self, filename, *args, **options)
        try:
            extra_state = load(self, filename, *args, **options)
            _refuse_other_shapes(self.optimizer.optimizer)
        except UserError:
            raise
        # Of a model that does not fit, fairseq tells by an error of its own.
        except _MISFITS as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{filename} cannot be resumed from: {reason}; set "
                "checkpoint.reset_optimizer=true, or begin a new run"
            ) from error
        return extra_state

    return load_or_name


_MISFITS = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)


def _refuse_other_shapes(optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError if moments of gradients are not of their parameters, as Adam keeps them."""
    # An optimizer made of several has no state of its own.
    for parameter, state in getattr(optimizer, "state", {}).items():
        for name in ("exp_avg", "exp_avg_sq"):
            moment = state.get(name, parameter)
            if not isinstance(moment, torch.Tensor) or moment.shape != parameter.shape:
                raise ValueError(f"its {name} does not fit a parameter of {list(parameter.shape)}")


def beginning_alone(verify: Function) -> Function:
    """`verify_checkpoint_directory`, letting one process train into a folder at a time, from the
    newest whole checkpoint in it.

    fairseq's first process calls this of the folder before it looks at what is there.
    """

    def begin_alone(save_dir: str) -> None:
        folder = Path(save_dir).absolute()
        keep(folder)
        mend_last(folder / LAST)
        verify(save_dir)

    return begin_alone
