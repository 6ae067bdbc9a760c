"""The one door into fairseq: models, criterions, data2vec, safe checkpoint classes and seams.

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

import fairseq.models
import numpy as np
import torch
from fairseq import checkpoint_utils
from fairseq.data import dictionary
from fairseq.data.audio import raw_audio_dataset
from fairseq.dataclass import utils as dataclass_utils
from fairseq.file_io import PathManager
from fairseq.models.hubert import hubert
from fairseq.models.wav2vec import wav2vec2
from fairseq.optim import amp_optimizer, fp16_optimizer
from fairseq.optim.adam import FairseqAdamConfig
from fairseq.tasks import audio_finetuning
from fairseq.trainer import Trainer

from speechprune.backbones import BACKBONES
from speechprune.backbones.data2vec import data2vec_audio
from speechprune.checkpoint import read
from speechprune.checkpoint.resuming import mend_last
from speechprune.checkpoint.upgrading import upgraded
from speechprune.errors import UserError
from speechprune.files import check_output, put_in_place
from speechprune.locks import keep
from speechprune.models.config import WeightCtcConfig
from speechprune.models.registration import register_all
from speechprune.models.restart import LAST
from speechprune.models.s3router_keys import pass_over
from speechprune.models.symbols import follow_symbols
from speechprune.starting import refuse_to_start_nothing

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


class _SafeFiles(PathManager):
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


def _validate_checkpoints() -> None:
    """Let fairseq itself read checkpoints as we do: what training goes on from, and
    `model.w2v_path`, are validated before their settings and tensors are used."""
    load = checkpoint_utils.load_checkpoint_to_cpu
    if getattr(load, "validates", False):
        return

    @functools.wraps(load)
    def load_validated(
        path: str, arg_overrides: Any = None, load_on_all_ranks: bool = False
    ) -> dict[str, Any]:
        path = PathManager.get_local_path(path)
        return upgraded(read(path), path, arg_overrides)

    load_validated.validates = True  # type: ignore[attr-defined]
    checkpoint_utils.load_checkpoint_to_cpu = load_validated


def _name_unfit_checkpoints() -> None:
    """Let a run that cannot go on with the optimizer of a checkpoint name the file."""
    load = Trainer.load_checkpoint
    if getattr(load, "names_file", False):
        return

    @functools.wraps(load)
    def load_or_name(self: Any, filename: str, *args: Any, **options: Any) -> Any:
        if not PathManager.isfile(filename):
            return load(self, filename, *args, **options)
        try:
            extra_state = load(self, filename, *args, **options)
            _refuse_other_shapes(self.optimizer.optimizer)
        except UserError:
            raise
        # Of a model that does not fit, fairseq tells by an error of its own.
        except (ArithmeticError, AssertionError, AttributeError, LookupError) as error:
            raise UserError(_other_optimizer(filename, error)) from error
        except (TypeError, ValueError) as error:
            raise UserError(_other_optimizer(filename, error)) from error
        return extra_state

    load_or_name.names_file = True  # type: ignore[attr-defined]
    Trainer.load_checkpoint = load_or_name  # type: ignore[method-assign]


def _refuse_other_shapes(optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError if moments of gradients are not of their parameters, as Adam keeps them."""
    # An optimizer made of several has no state of its own.
    for parameter, state in getattr(optimizer, "state", {}).items():
        for name in ("exp_avg", "exp_avg_sq"):
            moment = state.get(name, parameter)
            if not isinstance(moment, torch.Tensor) or moment.shape != parameter.shape:
                raise ValueError(f"its {name} does not fit a parameter of {list(parameter.shape)}")


def _other_optimizer(filename: str, error: Exception) -> str:
    return (
        f"{filename} cannot be gone on from: {' '.join(str(error).split())[:200]}; set "
        "checkpoint.reset_optimizer=true, or begin a new run"
    )


def _begin_alone() -> None:
    """Let one process train into a folder at a time, from the newest whole checkpoint in it.

    fairseq's first process calls this of the folder before it looks at what is there.
    """
    verify = checkpoint_utils.verify_checkpoint_directory
    if getattr(verify, "begins_alone", False):
        return

    @functools.wraps(verify)
    def begin_alone(save_dir: str) -> None:
        folder = Path(save_dir).absolute()
        keep(folder)
        mend_last(folder / LAST)
        verify(save_dir)

    begin_alone.begins_alone = True  # type: ignore[attr-defined]
    checkpoint_utils.verify_checkpoint_directory = begin_alone


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


def _pass_over_keys_of_s3router() -> None:
    """Let the YAMLs and checkpoints of S3-Router hold keys that models here do not know.

    fairseq refuses unknown keys of a config, and drops those of a checkpoint without a word.
    """
    merge = dataclass_utils.merge_with_parent
    if getattr(merge, "passes_over", False):
        return

    @functools.wraps(merge)
    def pass_over_and_merge(dc: Any, cfg: Any, remove_missing: bool = False) -> Any:
        kind = dc if isinstance(dc, type) else type(dc)
        if issubclass(kind, (WeightCtcConfig, FairseqAdamConfig)):
            pass_over(cfg, kind.__dataclass_fields__, is_saved=remove_missing)
        return merge(dc, cfg, remove_missing)

    pass_over_and_merge.passes_over = True  # type: ignore[attr-defined]
    for module in (dataclass_utils, fairseq.models):
        module.merge_with_parent = pass_over_and_merge  # type: ignore[attr-defined]


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

    No method of a model is called between the last backward pass and the step, and a task may take
    steps of its own.
    """
    clip = Trainer.clip_grad_norm
    if getattr(clip, "observes", False):
        return

    @functools.wraps(clip)
    def clip_and_observe(self: Any, clip_norm: float) -> Any:
        norm = clip(self, clip_norm)
        controller = getattr(getattr(self.model, "module", self.model), "mask_controller", None)
        if controller is not None:
            controller.observe()
        return norm

    clip_and_observe.observes = True  # type: ignore[attr-defined]
    Trainer.clip_grad_norm = clip_and_observe


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
    checkpoint_utils.PathManager = _SafeFiles
    _begin_alone()
    _validate_checkpoints()
    _name_unfit_checkpoints()
    _keep_master_copies()
    _name_master_copies()
    _observe_before_steps()
    refuse_to_start_nothing()
    follow_symbols()
    _pass_over_keys_of_s3router()
    _refuse_amp()
    # `fairseq-hydra-train` has imported its loop by now; `speechprune train` calls end_in_time.
    if "fairseq_cli.train" in sys.modules:
        end_in_time(sys.modules["fairseq_cli.train"])
    register_all()
    for file in sorted((Path(__file__).parent / "criterions").glob("[!_]*.py")):
        importlib.import_module(f"speechprune.criterions.{file.stem}")


_register()
