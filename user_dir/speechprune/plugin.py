"""The one door into fairseq: models, criterions, tasks, data2vec, safe classes and `seams`.

fairseq imports `models` and `tasks` of a user folder by itself but never criterions, and neither
when the package was imported before: so importing this module registers everything.
"""

from __future__ import annotations

from speechprune import quiet_fairseq  # noqa: F401  (before fairseq)

# isort: split
import importlib
import sys
from pathlib import Path

import fairseq.models
from fairseq import checkpoint_utils
from fairseq.data import dictionary
from fairseq.data.audio import raw_audio_dataset
from fairseq.dataclass import utils as dataclass_utils
from fairseq.models.hubert import hubert
from fairseq.models.wav2vec import wav2vec2
from fairseq.optim import amp_optimizer, fp16_optimizer
from fairseq.tasks import audio_finetuning
from fairseq.tasks.sentence_prediction import SentencePredictionTask
from fairseq.trainer import Trainer

from speechprune.backbones import BACKBONES
from speechprune.backbones.data2vec import data2vec_audio
from speechprune.models.classes import comparing_classes
from speechprune.models.registration import register_all
from speechprune.models.sentence_symbols import comparing_symbols
from speechprune.models.sentence_task import checking_outputs, checking_split
from speechprune.models.symbols import following_symbols
from speechprune.replacing import replace
from speechprune.seams import checkpoints, half_precision, settings, spans, text, training_loop
from speechprune.starting import refuse_to_start_nothing


def _enter() -> None:
    """Let fairseq's own code do what `seams` says."""
    for module in (wav2vec2, hubert, data2vec_audio()):
        replace(module, "compute_mask_indices", spans.seeded)
    for module in (dictionary, audio_finetuning, raw_audio_dataset):
        text.read_past_byte_order_marks(module)
    checkpoint_utils.PathManager = checkpoints.SafeFiles
    replace(checkpoint_utils, "verify_checkpoint_directory", checkpoints.beginning_alone)
    replace(checkpoint_utils, "load_checkpoint_to_cpu", checkpoints.validating)
    replace(Trainer, "__init__", training_loop.preparing)
    replace(Trainer, "load_checkpoint", checkpoints.naming_unfit)
    replace(Trainer, "load_checkpoint", following_symbols)
    replace(Trainer, "load_checkpoint", comparing_classes)
    replace(Trainer, "load_checkpoint", comparing_symbols)
    replace(SentencePredictionTask, "build_model", checking_outputs)
    replace(SentencePredictionTask, "load_dataset", checking_split)
    replace(Trainer, "clip_grad_norm", training_loop.observing)
    optimizer = fp16_optimizer.FP16Optimizer
    replace(optimizer, "__init__", half_precision.naming_copies)
    mixin = fp16_optimizer._FP16OptimizerMixin
    replace(mixin, "state_dict", half_precision.saving_copies)
    replace(mixin, "load_state_dict", half_precision.loading_copies)
    replace(amp_optimizer.AMPOptimizer, "build_optimizer", half_precision.refusing_amp)
    for module in (dataclass_utils, fairseq.models):
        replace(module, "merge_with_parent", settings.passing_over_keys)
    refuse_to_start_nothing()
    # `fairseq-hydra-train` has imported its loop by now; `speechprune train` calls end_in_time.
    if "fairseq_cli.train" in sys.modules:
        training_loop.end_in_time(sys.modules["fairseq_cli.train"])


def _register() -> None:
    for name in BACKBONES.names():
        BACKBONES.build(name).make_known()
    _enter()
    register_all()
    for file in sorted((Path(__file__).parent / "criterions").glob("[!_]*.py")):
        importlib.import_module(f"speechprune.criterions.{file.stem}")


_register()
