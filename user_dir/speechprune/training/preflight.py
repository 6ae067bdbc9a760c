"""What would stop a run later on, found before anything is built."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fairseq.data import Dictionary
from fairseq.data.data_utils import (
    post_process,
    raise_if_valid_subsets_unintentionally_ignored,
)
from omegaconf import DictConfig, OmegaConf

from speechprune.checkpoint import read
from speechprune.checkpoint.evaluated import refuse_code
from speechprune.checkpoint.layers import depth, lost_layers, refuse_other_layers
from speechprune.checkpoint.outputs import saved_dictionary
from speechprune.checkpoint.pretrained import check_pretrained, width
from speechprune.checkpoint.slimming import refuse_other_units, refuse_uncut, slim_plan_in
from speechprune.checkpoint.slots import AUDIO_LABELS
from speechprune.checkpoint.text import SENTENCES, check_text_model
from speechprune.criterions.names import DISTILLING, METRICS
from speechprune.errors import UserError
from speechprune.manifests.check import SplitSummary, check_split
from speechprune.manifests.dictionary import dictionary_name
from speechprune.manifests.slots import read_slots
from speechprune.models.classes import compare_outputs
from speechprune.models.declaration import declared
from speechprune.models.layer_flags import drops_layers, plan_of
from speechprune.models.names import is_ctc, is_labelling
from speechprune.models.restart import LAST, RESETS
from speechprune.models.sentences import Sentences, begins_from_pretrained
from speechprune.models.symbols import rows_to_take
from speechprune.registry import unknown_name
from speechprune.seams.half_precision import NO_AMP
from speechprune.state_names import has_masks, is_finetuned
from speechprune.training.label_data import check_labels, metrics_of_slots
from speechprune.training.overrides import as_override
from speechprune.training.ranges import check_ranges
from speechprune.training.sentence_data import check_sentences
from speechprune.training.trackers import check_trackers

logger = logging.getLogger(__name__)


def check_data(cfg: DictConfig) -> list[SplitSummary]:
    """Check what the run will read: the training split, then each validation split.

    Args:
        cfg: all groups of a fairseq config.

    Raises:
        UserError: as `check_split`.
    """
    task, dataset = cfg.task, cfg.dataset
    if task._name == SENTENCES:
        check_sentences(cfg)
        return []
    is_for_labels = task._name == AUDIO_LABELS
    if not is_for_labels and (
        task._name != "audio_finetuning" or _value(task, "multi_corpus_keys")
    ):
        return []
    if dataset.required_batch_size_multiple != 1:
        logger.warning(
            "fairseq drops the shortest utterances, of validation too; set "
            "dataset.required_batch_size_multiple=1 to keep them"
        )
    summaries = check_labels(cfg) if is_for_labels else _check_texts(cfg)
    try:
        raise_if_valid_subsets_unintentionally_ignored(cfg)
    except ValueError as error:
        raise UserError(str(error)) from error
    return summaries


def _check_texts(cfg: DictConfig) -> list[SplitSummary]:
    dataset = cfg.dataset
    summaries = [_check_split(cfg, dataset.train_subset, dataset.max_tokens, closed=True)]
    if not dataset.disable_validation:
        for name in dataset.valid_subset.split(","):
            summaries.append(_check_split(cfg, name, dataset.max_tokens_valid, closed=False))
    return summaries


def check_settings(cfg: DictConfig) -> None:
    """Refuse settings that fairseq only stumbles over, perhaps at the first validation.

    Raises:
        UserError: a number outside its range, code where fairseq expects a literal, amp, batches
            without a limit, a metric that the criterion does not measure, a device or a tracker
            without its library, or what the model's own check refuses.
    """
    check_ranges(cfg)
    refuse_code(OmegaConf.to_container(cfg), "the settings")
    _check_post_process(cfg.criterion)
    _check_teacher(cfg.criterion)
    metric = cfg.checkpoint.best_checkpoint_metric
    measured = (*METRICS.get(cfg.criterion._name, (metric,)), *metrics_of_slots(cfg))
    for is_wrong, message in (
        (cfg.common.amp, NO_AMP),
        (
            cfg.common.tpu and find_spec("torch_xla") is None,
            "common.tpu=true needs torch_xla, which is not installed; leave it out",
        ),
        (
            cfg.dataset.max_tokens is None and cfg.dataset.batch_size is None,
            "batches have no limit: set dataset.max_tokens (audio samples) or dataset.batch_size",
        ),
        (
            metric not in measured,
            unknown_name("checkpoint.best_checkpoint_metric", metric, list(measured)),
        ),
    ):
        if is_wrong:
            raise UserError(message)
    check_trackers(cfg.common)
    _check_schedule(cfg)
    declared(cfg.model._name).check_settings(cfg.model)


def _check_post_process(criterion: DictConfig) -> None:
    """Refuse a way to join labels that fairseq does not know; it would only see it in training."""
    name = _value(criterion, "post_process")
    try:
        post_process("", name)
    except NotImplementedError as error:
        raise UserError(
            f"criterion.post_process={name} is not known; use letter for labels that are joined to "
            "words, none for others"
        ) from error


def _check_teacher(criterion: DictConfig) -> None:
    """Refuse a teacher without a criterion that learns from it, and the other way round."""
    teacher, learns = _value(criterion, "teacher"), criterion._name in DISTILLING
    if teacher and not learns:
        raise UserError(
            f"criterion._name={criterion._name} does not learn from criterion.teacher; set "
            f"criterion._name={DISTILLING[0]}"
        )
    if learns and not teacher:
        raise UserError(
            f"criterion._name={criterion._name} needs a checkpoint to learn from; name one as "
            "criterion.teacher"
        )


def _check_schedule(cfg: DictConfig) -> None:
    """Refuse a tri-stage schedule without a last stage: fairseq divides by its length."""
    schedule = cfg.lr_scheduler
    if schedule._name != "tri_stage":
        return
    ratio = schedule.phase_ratio
    if ratio is None:
        if schedule.decay_steps < 1:
            raise UserError(
                f"lr_scheduler.decay_steps={schedule.decay_steps} leaves nothing to decay in; use "
                "at least 1, or set lr_scheduler.phase_ratio"
            )
        return
    if len(ratio) != 3 or sum(ratio) != 1 or not all(0 <= part <= 1 for part in ratio):
        raise UserError(
            f"lr_scheduler.phase_ratio={list(ratio)} needs three parts of training that add up to "
            "1, such as [0.1,0.4,0.5]"
        )
    if ratio[2] == 0:
        raise UserError(
            f"lr_scheduler.phase_ratio={list(ratio)} leaves nothing to decay in; enlarge its last "
            "part"
        )


def fit_schedule(cfg: DictConfig) -> None:
    """Give the last stage of a tri-stage schedule an update where a short run has none for it, in
    place."""
    schedule, updates = cfg.lr_scheduler, cfg.optimization.max_update
    if schedule._name != "tri_stage" or schedule.phase_ratio is None:
        return
    warmup, hold, decay = (int(updates * part) for part in schedule.phase_ratio)
    if decay == 0:
        schedule.phase_ratio = None
        schedule.warmup_steps, schedule.hold_steps, schedule.decay_steps = warmup, hold, 1


def warn_of_unread(cfg: DictConfig, given: Collection[str]) -> None:
    """Warn of keys that the user set and that this model does not read.

    Args:
        given: keys such as "model.prune_rate".
    """
    name = cfg.model._name
    unread = {f"model.{flag}" for flag in declared(name).unread()} & set(given)
    if unread:
        logger.warning(f"{name} does not read {', '.join(sorted(unread))}")


def warn_of_denser_best(cfg: DictConfig) -> None:
    """Warn if `checkpoint_best.pt` may come from a time before the target sparsity."""
    end = declared(cfg.model._name).sparse_from(cfg.model)
    after = cfg.dataset.validate_after_updates
    if after < end and not cfg.dataset.disable_validation:
        logger.warning(
            f"the target sparsity is reached at update {end}, but validation begins after {after}: "
            "checkpoint_best.pt may be of a denser network; set "
            f"dataset.validate_after_updates={end}, or use checkpoint_last.pt"
        )


def check_checkpoints(cfg: DictConfig) -> None:
    """Check the pretrained model, and the checkpoint that the run will go on from.

    Raises:
        UserError: a file is missing or damaged, or is not what it is used for; or the run that goes
            on is one of another model. Other changes to the network are warned of.
    """
    model, settings = cfg.model, cfg.checkpoint
    check_base(cfg)
    last = Path(settings.save_dir, LAST)
    _refuse_two_starts(settings)
    is_restored = settings.restore_file != LAST and not _is_base(cfg)
    start = Path(settings.restore_file) if is_restored else last
    if start.exists():
        state = _check_layers(model, start)
        if not is_restored or not any(settings[key] for key in RESETS):
            _check_same_model(model, start, state)
        _refuse_to_fill(model, start, state)
        check_outputs(cfg, start, state, goes_on=not settings.reset_optimizer)
    elif settings.finetune_from_model:
        state = _check_layers(model, Path(settings.finetune_from_model))
        _refuse_to_fill(model, Path(settings.finetune_from_model), state)
        if not declared(model._name).has_masks and has_masks(state["model"]):
            raise UserError(
                f"{settings.finetune_from_model} has masks, which {model._name} does not know; "
                "bake them in with `speechprune masks fold`, or train another model"
            )
        is_known = is_ctc(model._name) or is_labelling(model._name)
        if is_known and not is_finetuned(state["model"]):
            raise UserError(
                f"{settings.finetune_from_model} is not a finetuned model; give a pretrained one "
                "as model.w2v_path"
            )
        check_outputs(cfg, Path(settings.finetune_from_model), state, goes_on=False)


def check_base(cfg: DictConfig) -> None:
    """Check the pretrained model that a run begins from, if it names one.

    Raises:
        UserError: as `check_pretrained`, or spans of its channels cannot be masked as the settings
            ask for.
    """
    if _value(cfg.model, "w2v_path") and not _value(cfg.model, "w2v_args"):
        check_pretrained(cfg.model.w2v_path, cfg.task.normalize)
        _check_channel_spans(cfg.model)
    if _is_of_text(cfg.model):
        check_text_model(Sentences.pretrained_file(cfg.model))


def _is_of_text(model: DictConfig) -> bool:
    """Whether a model is one of ours for sentences."""
    return issubclass(declared(model._name), Sentences)


def _is_base(cfg: DictConfig) -> bool:
    """Whether ``checkpoint.restore_file`` is the pretrained model and nothing to go on from."""
    return _is_of_text(cfg.model) and begins_from_pretrained(cfg.checkpoint)


def _base_file(model: DictConfig) -> str | None:
    """The pretrained model that settings name, if they name one."""
    if _is_of_text(model):
        return Sentences.pretrained_file(model)
    path: str | None = _value(model, "w2v_path")
    return path or None


def check_outputs(cfg: DictConfig, path: Path, state: Mapping[str, Any], *, goes_on: bool) -> None:
    """Refuse a checkpoint to begin from, or to go on from, whose outputs stand for something else.

    Raises:
        UserError: as `speechprune.models.classes.compare_outputs`, or as
            `speechprune.models.symbols.rows_to_take`.
    """
    slots = read_slots(Path(cfg.task.data)) if is_labelling(cfg.model._name) else None
    compare_outputs(path, state, cfg, slots, goes_on=goes_on)
    if saved_dictionary(state) is None or cfg.task._name != "audio_finetuning":
        return
    task = cfg.task
    folder = Path(_value(task, "target_dictionary") or task.data)
    own = Dictionary.load(str(folder / dictionary_name(task.labels)))
    rows_to_take(str(path), state, own, cfg, goes_on=goes_on)


def _refuse_to_fill(model: DictConfig, path: Path, state: Mapping[str, Any]) -> None:
    """Raise UserError if a checkpoint has removed units that the model would let grow again."""
    if not declared(model._name).keeps_removed_units:
        refuse_uncut(path, state["model"], f"which {model._name} would let grow again")


def _refuse_two_starts(settings: DictConfig) -> None:
    """fairseq takes no other way to begin beside `finetune_from_model`, which resets everything."""
    if not settings.finetune_from_model:
        return
    others = [f"checkpoint.{key}" for key in RESETS if settings[key]]
    others += ["checkpoint.restore_file"] if settings.restore_file != LAST else []
    if others:
        raise UserError(
            "checkpoint.finetune_from_model begins a new run with the weights of a checkpoint: "
            f"leave out {', '.join(others)}"
        )


def _check_same_model(model: DictConfig, path: Path, state: Mapping[str, Any]) -> None:
    """A run that goes on finds optimizer states, masks and a best value of the model before."""
    before = (state.get("cfg") or {}).get("model") or {}
    name, found = model._name, before.get("_name", model._name)
    if name != found:
        raise UserError(
            f"{path.absolute()} is of a run of model._name={found}, which cannot go on as {name}; "
            f"name another hydra.run.dir, or set model._name={found}"
        )
    old_network, network = (declared(name).network(settings) for settings in (before, model))
    shared = sorted(set(old_network) & set(network))
    values = [(flag, as_override(old_network[flag]), as_override(network[flag])) for flag in shared]
    changes = [f"model.{flag}={old} is now {new}" for flag, old, new in values if old != new]
    if changes:
        logger.warning(
            f"{path.absolute()} goes on with another network: {', '.join(changes)}; "
            "checkpoint_best.pt and the best value may be of the one before; name another "
            "hydra.run.dir to begin anew"
        )


def _check_channel_spans(model: DictConfig) -> None:
    """fairseq fails in the first update for which it draws no span of channels to mask."""
    share = _value(model, "mask_channel_prob")
    if not share or not model.apply_mask or model.mask_channel_selection != "static":
        return
    channels = width(model.w2v_path)
    # The number of spans is the whole part of this and a random number below 1.
    if share * channels / model.mask_channel_length >= 1.0 or _value(model, "eval_only"):
        return
    longest = int(share * channels)
    shorter = f"model.mask_channel_length={longest} or less, or " if longest else ""
    raise UserError(
        f"model.mask_channel_length={model.mask_channel_length} is too long to mask a share of "
        f"{share} (model.mask_channel_prob) of the {channels} channels of {model.w2v_path}; set "
        f"{shorter}model.mask_channel_prob=0"
    )


def _check_layers(model: DictConfig, path: Path) -> Mapping[str, Any]:
    """The state of a checkpoint to go on from; UserError if it lost other layers than are named, or
    other heads and channels than the pretrained model."""
    state = read(path, mmap=True)
    base = _base_file(model)
    if base is None:
        return state
    pretrained = read(base, mmap=True)
    units, plan = slim_plan_in(pretrained), None
    if "drop_layers" in model:
        plan = plan_of(model, depth(base)) if drops_layers(model) else None
        refuse_other_layers(path, state, lost_layers(pretrained, plan))
    if units is not None and plan is not None:
        units = units.of_layers(plan.kept)
    refuse_other_units(path, state, units)
    return state


def _check_split(
    cfg: DictConfig, name: str, max_tokens: int | None, *, closed: bool
) -> SplitSummary:
    summary = check_split(
        cfg.task.data,
        name,
        cfg.task.labels,
        dictionary_folder=_value(cfg.task, "target_dictionary"),
        sample_rate=cfg.task.sample_rate,
        max_tokens=max_tokens,
        closed=closed,
    )
    if summary.unknown:
        logger.warning(f"{name}: {summary.unknown} label symbols are not in the dictionary")
    return summary


def _value(section: DictConfig, key: str) -> Any:
    """The value of a key that other tasks and models lack; `get` of older omegaconfs raises."""
    return section[key] if key in section else None
