"""The one door into fairseq: models, criterions, data2vec, safe checkpoint classes and eight seams.

fairseq imports `models` and `tasks` of a user folder by itself but never criterions, and neither
when the package was imported before: so importing this module registers everything.
"""

from __future__ import annotations

from speechprune import quiet_fairseq  # noqa: F401  (before fairseq)

# isort: split
import functools
import importlib
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
import torch
from fairseq import checkpoint_utils
from fairseq.data import dictionary
from fairseq.data.audio import raw_audio_dataset
from fairseq.file_io import PathManager
from fairseq.models.hubert import hubert
from fairseq.models.wav2vec import wav2vec2
from fairseq.optim import amp_optimizer, fp16_optimizer
from fairseq.tasks import FairseqTask, audio_finetuning

from speechprune.backbones import BACKBONES
from speechprune.backbones.data2vec import data2vec_audio
from speechprune.errors import UserError
from speechprune.models.registration import register_all

logger = logging.getLogger(__name__)

NO_AMP = (
    "common.amp=true cannot train these models: fairseq's amp divides gradients by the loss scale "
    "twice and does not save it; use common.fp16=true or common.bf16=true"
)


def _seed_span_masking(module: ModuleType) -> None:
    """Let `module` draw its SpecAugment spans from numpy's global state.

    fairseq draws them from the operating system, so no seed makes a run repeatable. Our models seed
    numpy's global state per update, rank and micro-batch.
    """
    draw = module.compute_mask_indices
    if getattr(draw, "is_seeded", False):
        return

    @functools.wraps(draw)
    def seeded(shape: tuple[int, int], *args: Any, **options: Any) -> np.ndarray:
        if options.get("seed") is None:
            options["seed"] = int(np.random.randint(2**31))
            options["epoch"] = 0
            options["indices"] = torch.arange(shape[0])
        return draw(shape, *args, **options)

    seeded.is_seeded = True  # type: ignore[attr-defined]
    module.compute_mask_indices = seeded  # type: ignore[attr-defined]


def _read_past_byte_order_marks(module: ModuleType) -> None:
    """Let `module` read text that begins with a byte order mark, as some editors leave it.

    fairseq takes the mark for a part of the first line: of the audio's folder in a `.tsv`, or of
    the first symbol of labels and dictionaries, which is unknown then.
    """

    @functools.wraps(open)
    def open_text(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if mode == "r" and not args:
            options["encoding"] = "utf-8-sig"
        return open(file, mode, *args, **options)

    module.open = open_text  # type: ignore[attr-defined]


class _AtomicCopies(PathManager):
    """fairseq saves a checkpoint atomically under its first name, then copies it over the others in
    place: a full disk or a kill during a copy would destroy the checkpoint to resume from."""

    @staticmethod
    def copy(src_path: str, dst_path: str, overwrite: bool = False) -> Any:
        temporary = dst_path + ".tmp"
        try:
            result = PathManager.copy(src_path, temporary, overwrite=True)
            PathManager.rename(temporary, dst_path)
        except OSError:
            if PathManager.exists(temporary):
                PathManager.rm(temporary)
            raise
        return result


def _copies(optimizer: Any) -> list[torch.Tensor]:
    """The fp32 copies of an FP16Optimizer: one for each parameter, or flat ones for each device."""
    found = optimizer.fp32_params
    return list(found.values()) if isinstance(found, dict) else list(found)


def _name_master_copies() -> None:
    """Give each parameter that fp16 or bf16 trains its fp32 copy, as `master_copy`.

    fairseq writes the copies over the parameters after each step: whoever edits a parameter has to
    edit its copy too.
    """
    build = fp16_optimizer.FP16Optimizer.__init__
    if getattr(build, "names_copies", False):
        return

    @functools.wraps(build)
    def build_and_name(self: Any, *args: Any, **options: Any) -> None:
        build(self, *args, **options)
        offset = 0
        for index, parameter in enumerate(self.fp16_params):
            if self.has_flat_params:
                flat = _copies(self)[0].data
                copy = flat[offset : offset + parameter.numel()].view_as(parameter)
                offset += parameter.numel()
            else:
                copy = _copies(self)[index].data
            parameter.master_copy = copy

    build_and_name.names_copies = True  # type: ignore[attr-defined]
    fp16_optimizer.FP16Optimizer.__init__ = build_and_name


def _keep_master_copies() -> None:
    """Save the fp32 copies of the parameters that fp16 and bf16 train, and load them again.

    fairseq does not: a resumed run goes on from rounded ones, and forgets every change too small
    for half precision.
    """
    optimizer = fp16_optimizer._FP16OptimizerMixin
    save, load = optimizer.state_dict, optimizer.load_state_dict
    if getattr(save, "keeps_copies", False):
        return

    @functools.wraps(save)
    def save_copies(self: Any) -> dict[str, Any]:
        return {**save(self), "fp32_params": [copy.detach() for copy in _copies(self)]}

    @functools.wraps(load)
    def load_copies(self: Any, state: dict[str, Any], overrides: Any = None) -> None:
        load(self, {k: v for k, v in state.items() if k != "fp32_params"}, overrides)
        for copy, saved in zip(_copies(self), state.get("fp32_params", ())):
            copy.data.copy_(saved)

    save_copies.keeps_copies = True  # type: ignore[attr-defined]
    optimizer.state_dict, optimizer.load_state_dict = save_copies, load_copies


def end_in_time(train_module: ModuleType) -> None:
    """Let fairseq's loop train no more than it is to.

    With `model.eval_only=true` there is one validation pass, and nothing is trained. A run that is
    started again after its last update ends there: fairseq looks at `optimization.max_update` only
    after one more update, which it would save.
    """
    train = train_module.train
    if getattr(train, "ends_in_time", False):
        return

    @functools.wraps(train)
    def train_in_time(cfg: Any, trainer: Any, task: Any, epoch_itr: Any) -> Any:
        if getattr(cfg.model, "eval_only", False):
            subsets = cfg.dataset.valid_subset.split(",")
            return train_module.validate(cfg, trainer, task, epoch_itr, subsets), True
        updates, last = trainer.get_num_updates(), cfg.optimization.max_update
        if 0 < last <= updates:
            logger.info(f"nothing to train: {updates} of {last} updates are done")
            return [None], True
        return train(cfg, trainer, task, epoch_itr)

    train_in_time.ends_in_time = True  # type: ignore[attr-defined]
    train_module.train = train_in_time  # type: ignore[attr-defined]


def _observe_before_steps() -> None:
    """Let masks see the gradients of an update, once all processes have shared them.

    No method of a model is called between the last backward pass and the step.
    """
    step = FairseqTask.optimizer_step
    if getattr(step, "observes", False):
        return

    @functools.wraps(step)
    def observe_and_step(self: Any, optimizer: Any, model: Any, update_num: int) -> None:
        controller = getattr(getattr(model, "module", model), "mask_controller", None)
        if controller is not None:
            controller.observe()
        step(self, optimizer, model, update_num)

    observe_and_step.observes = True  # type: ignore[attr-defined]
    FairseqTask.optimizer_step = observe_and_step  # type: ignore[method-assign]


def _refuse_amp() -> None:
    """Refuse `common.amp`, which would be wrong in silence if it did not crash first.

    fairseq's `AMPOptimizer` lets the gradient scaler unscale its torch optimizer and then step
    another object, for which the scaler unscales once more. It does not save the scale, so that a
    resumed run is another one. And encoders put a float32 `mask_emb` into half precision states,
    which torch refuses.
    """

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise UserError(NO_AMP)

    amp_optimizer.AMPOptimizer.build_optimizer = refuse


def _register() -> None:
    for name in BACKBONES.names():
        BACKBONES.build(name).make_known()
    _seed_span_masking(wav2vec2)
    _seed_span_masking(hubert)
    _seed_span_masking(data2vec_audio())
    for module in (dictionary, audio_finetuning, raw_audio_dataset):
        _read_past_byte_order_marks(module)
    checkpoint_utils.PathManager = _AtomicCopies
    _keep_master_copies()
    _name_master_copies()
    _observe_before_steps()
    _refuse_amp()
    # `fairseq-hydra-train` has imported its loop by now; `speechprune train` calls end_in_time.
    if "fairseq_cli.train" in sys.modules:
        end_in_time(sys.modules["fairseq_cli.train"])
    register_all()
    for file in sorted((Path(__file__).parent / "criterions").glob("[!_]*.py")):
        importlib.import_module(f"speechprune.criterions.{file.stem}")


_register()
