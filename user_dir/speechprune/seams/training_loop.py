"""fairseq's training loop: where it begins and ends, and where masks see gradients."""

from __future__ import annotations

import logging
from types import ModuleType
from typing import Any

from speechprune.replacing import Function, replace
from speechprune.slimming.controller import SLIM_CONTROLLER

logger = logging.getLogger(__name__)


def end_in_time(train_module: ModuleType) -> None:
    """Let fairseq's loop train no more than it is to.

    With `model.eval_only=true` there is one validation pass, and nothing is trained. A run that is
    started again after its last update ends there: fairseq looks at `optimization.max_update` only
    after one more update, which it would save.
    """

    def ending(train: Function) -> Function:
        def train_in_time(cfg: Any, trainer: Any, task: Any, epoch_itr: Any) -> Any:
            if getattr(cfg.model, "eval_only", False):
                subsets = cfg.dataset.valid_subset.split(",")
                return train_module.validate(cfg, trainer, task, epoch_itr, subsets), True
            updates, last = trainer.get_num_updates(), cfg.optimization.max_update
            if 0 < last <= updates:
                logger.info(f"nothing to train: {updates} of {last} updates are done")
                return [None], True
            return train(cfg, trainer, task, epoch_itr)

        return train_in_time

    replace(train_module, "train", ending)


def preparing(build: Function) -> Function:
    """`Trainer.__init__`, before which the criterion sees the model that it is to train, and the
    model says what is to be saved with it.

    fairseq builds each without the other; what does not fit would come up in the first update, of
    which it saves a checkpoint then.
    """

    def prepare_and_build(
        self: Any, cfg: Any, task: Any, model: Any, criterion: Any, *args: Any, **options: Any
    ) -> None:
        if hasattr(criterion, "prepare"):
            criterion.prepare(model)
        if hasattr(model, "tell"):
            model.tell(cfg, task)
        build(self, cfg, task, model, criterion, *args, **options)

    return prepare_and_build


def observing(clip: Function) -> Function:
    """`Trainer.clip_grad_norm`, after which masks and slimming see the gradients of an update, once
    all processes have shared them.

    No method of a model is called between the last backward pass and the step, and a task may take
    steps of its own.
    """

    def clip_and_observe(self: Any, clip_norm: float) -> Any:
        norm = clip(self, clip_norm)
        model = self.get_model()  # of several processes, each wraps it more than once
        masks, slimming = (
            getattr(model, name, None) for name in ("mask_controller", SLIM_CONTROLLER)
        )
        if masks is not None:
            masks.observe()
        if slimming is not None:
            # Optimizers for half precision scale and clip gradients only when they use them.
            slimming.observe(getattr(self.optimizer, "_multiply_factor", 1.0))
        return norm

    return clip_and_observe
