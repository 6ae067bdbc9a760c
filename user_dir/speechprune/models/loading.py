"""Models from their checkpoints alone: finetuned ones whole, and the encoder of any."""

from __future__ import annotations

from speechprune import quiet_fairseq  # noqa: F401  (before fairseq)

# isort: split
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fairseq import tasks
from fairseq.data.dictionary import Dictionary
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY
from fairseq.tasks import FairseqTask
from fairseq.tasks.sentence_prediction import SentencePredictionTask
from omegaconf import DictConfig, open_dict
from torch import nn

from speechprune.backbones import backbone_called, find_backbone
from speechprune.checkpoint.file import PROVENANCE, PathLike, read
from speechprune.checkpoint.finetuned import find_dictionary, read_finetuned
from speechprune.checkpoint.pretrained import model_name
from speechprune.checkpoint.slots import AUDIO_LABELS, described_slots, saved_slots
from speechprune.checkpoint.text import CLASSES, SYMBOLS, find_symbols, read_text_model
from speechprune.checkpoint.upgrading import read_upgraded
from speechprune.errors import UserError
from speechprune.manifests.label_files import CLASSES as LABELS
from speechprune.manifests.slots import Slots
from speechprune.masking.bits import Tally
from speechprune.models.encoder import building_from, load_weights
from speechprune.models.mask_flags import as_s3router_reads
from speechprune.models.names import (
    HUBERT_WEIGHTS,
    ROUTER,
    WEIGHTS,
    is_ctc,
    is_labelling,
    is_of_sentences,
)
from speechprune.models.registration import register_all
from speechprune.models.sites import encoder_of_model
from speechprune.models.uninitialised import Uninitialised
from speechprune.slimming.controller import SLIM_CONTROLLER
from speechprune.state_names import is_finetuned, is_of_s3router, is_text

#: What a model has in place of a mask controller, if others put the masks on: their tally.
MASK_TALLY = "mask_tally"


@dataclass(frozen=True)
class LoadedModel:
    """A finetuned model, ready for inference.

    Attributes:
        path: the checkpoint, or the bank.
        model: in evaluation mode, on the CPU, or where that of the bank is.
        task: fairseq's, with the dictionary or the slots of the outputs.
        cfg: the checkpoint's configuration, as built.
        provenance: what was noted by whoever made the checkpoint of another one; empty for those
            that training saved.
    """

    path: Path
    model: Any
    task: FairseqTask
    cfg: DictConfig
    provenance: Mapping[str, Any]

    @property
    def density(self) -> float:
        """Share of the maskable weights that is kept; 1.0 for a model without masks. Of a model in
        slimming, the share of what its heads and channels are made of."""
        masks = getattr(self.model, "mask_controller", None)
        if masks is not None:
            return float(masks.stats()["density"])
        tally: Tally | None = getattr(self.model, MASK_TALLY, None)
        if tally is not None:
            return tally.density
        if getattr(self.model, SLIM_CONTROLLER, None) is not None:
            encoder = encoder_of_model(self.model)
            units = find_backbone(encoder).units(encoder)
            return 1.0 - self.removed / sum(u.parameters_of(u.heads, u.channels) for u in units)
        return float(self.provenance.get("density", 1.0))

    @property
    def labels(self) -> str:
        """The ending of the files of labels, beside a manifest, that its outputs are compared
        with; "" of text, whose labels are of one kind."""
        return str(self.cfg.task.get("labels") or "")

    def frame_count(self, samples: int) -> int:
        """T, the frames of a recording of so many samples; 0 if it is too short for one."""
        encoder = encoder_of_model(self.model)
        return find_backbone(encoder).frame_count(encoder, samples)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def removed(self) -> int:
        """Parameters that masks remove, or slimming will cut out."""
        masks = getattr(self.model, "mask_controller", None)
        tally: Tally | None = getattr(self.model, MASK_TALLY, None)
        if masks is not None:
            tally = masks.mask_set().tally
        if tally is not None:
            return int(tally.total - tally.kept)
        slimming = getattr(self.model, SLIM_CONTROLLER, None)
        return 0 if slimming is None else int(slimming.removed_parameters())


@dataclass(frozen=True)
class LoadedRecogniser(LoadedModel):
    """A CTC model.

    Attributes:
        dictionary: of the outputs.
    """

    dictionary: Dictionary


@dataclass(frozen=True)
class LoadedLabeller(LoadedModel):
    """A model for labels of whole utterances.

    Attributes:
        slots: with their classes, in the order of the outputs.
    """

    slots: Slots

    @property
    def labels(self) -> str:
        return LABELS


@dataclass(frozen=True)
class LoadedSentences(LoadedModel):
    """A model for sentences.

    Attributes:
        symbols: of texts.
        classes: of sentences; None if they get values.
    """

    symbols: Dictionary
    classes: Dictionary | None


def load_finetuned(
    path: PathLike, data: PathLike | None = None
) -> LoadedRecogniser | LoadedLabeller | LoadedSentences:
    """Build any finetuned checkpoint: fairseq's own, one of ours, or a folded one.

    Neither the pretrained file nor the data folder of training has to exist.

    Args:
        data: a folder to take `dict.LABELS.txt` from, if the checkpoint of a CTC model lacks its
            dictionary.

    Raises:
        UserError: the file cannot be read or is not a finetuned model, or what its outputs stand
            for is nowhere.
    """
    path = Path(path)
    state = read_known(path)
    if is_of_sentences(state["cfg"].model._name):
        return _load_sentences(path, state, data)
    if is_labelling(state["cfg"].model._name):
        slots = saved_slots(state, path)
        if slots is None:
            raise UserError(f"{path} is damaged: it lacks the classes that its outputs stand for")
        return LoadedLabeller(*_built(path, state, _task(state, described_slots(slots))), slots)
    dictionary = find_dictionary(state, state["cfg"], path, data)
    task = _task(state, {"target_dictionary": dictionary})
    return LoadedRecogniser(*_built(path, state, task), dictionary)


def _load_sentences(path: Path, state: Mapping[str, Any], data: PathLike | None) -> LoadedSentences:
    cfg = state["cfg"].task
    symbols = find_symbols(state, SYMBOLS, path, data)
    classes = None if cfg.regression_target else find_symbols(state, CLASSES, path, data)
    task = SentencePredictionTask(cfg, symbols, classes or symbols)
    return LoadedSentences(*_built(path, state, lambda: task), symbols, classes)


def load_recogniser(path: PathLike, data: PathLike | None = None) -> LoadedRecogniser:
    """As `load_finetuned`, of a CTC model.

    Raises:
        UserError: as that, or the model is one for labels.
    """
    return as_recogniser(load_finetuned(path, data))


def as_recogniser(loaded: LoadedModel) -> LoadedRecogniser:
    """The model, if it is one for CTC; else UserError."""
    path = loaded.path
    if isinstance(loaded, LoadedRecogniser):
        return loaded
    if not isinstance(loaded, LoadedLabeller):
        raise UserError(f"{path} is a model of text; this needs a CTC model, which hears speech")
    names = ", ".join(slot.name for slot in loaded.slots)
    raise UserError(
        f"{path} tells the class of an utterance ({names}) and writes no text; this needs a CTC "
        "model"
    )


def _task(state: Mapping[str, Any], outputs: Mapping[str, Any]) -> Callable[[], FairseqTask]:
    """Makes the task of a speech model, whose state tells what its outputs stand for."""

    def make() -> FairseqTask:
        task = tasks.setup_task(state["cfg"].task, from_checkpoint=True)
        task.load_state_dict(dict(outputs))
        return task

    return make


def _built(
    path: Path, state: Mapping[str, Any], make_task: Callable[[], FairseqTask]
) -> tuple[Path, Any, FairseqTask, DictConfig, Mapping[str, Any]]:
    """The parts of a `LoadedModel`.

    Args:
        state: as `read_known` gives it.
    """
    cfg = state["cfg"]
    with building_from(path):
        task = make_task()
        with Uninitialised():
            model = task.build_model(cfg.model, from_checkpoint=True)
        model.load_state_dict(state["model"], strict=True, model_cfg=cfg.model)
    # PyTorch multiplies in another order, with other rounding, by weights that require gradient:
    # without, masked and folded models agree to the last bit.
    model.eval().requires_grad_(False)
    return path, model, task, cfg, state.get(PROVENANCE) or {}


def read_known(path: PathLike) -> dict[str, Any]:
    """The state of a finetuned checkpoint whose model can be built; UserError if it cannot."""
    register_all()
    state = read_finetuned(path)
    model = state["cfg"].model
    name = model.get("_name")
    is_known = is_ctc(name) or is_labelling(name) or is_of_sentences(name)
    if not is_known or (name not in MODEL_REGISTRY and name not in ARCH_MODEL_REGISTRY):
        raise UserError(
            f"{path} holds a model {name!r}, which is neither a CTC model that speechprune knows "
            "nor one for labels or sentences"
        )
    if is_labelling(name) != (state["cfg"].task._name == AUDIO_LABELS):
        raise UserError(f"{path} is damaged: its task {state['cfg'].task._name} is not {name}'s")
    if name == HUBERT_WEIGHTS:
        # fairseq's own cannot be built without the dictionaries of pretraining; the other can.
        with open_dict(state["cfg"]):
            model._name = WEIGHTS
    if name == ROUTER and is_of_s3router(state["model"]):
        try:
            with open_dict(model):
                model.update(as_s3router_reads(model))
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    return state


def load_pretrained(path: PathLike, overrides: Mapping[str, Any] | None = None) -> nn.Module:
    """The pretrained encoder in a checkpoint, without its pretraining heads, on the CPU.

    Args:
        overrides: values for keys of the model's configuration.

    Raises:
        UserError: the file cannot be read or holds no pretrained model of a known family.
    """
    if is_text(read(path, mmap=True)["model"]):
        return _load_pretrained_text(path)
    family = backbone_called(model_name(path))
    family.make_known()
    state = read_upgraded(path)
    cfg = state["cfg"]
    with open_dict(cfg):
        cfg.model.update(overrides or {})
    with building_from(path), Uninitialised():
        model = family.build(cfg.task, cfg.model)
    load_weights(model, state["model"], path)
    return model.eval()


def _load_pretrained_text(path: PathLike) -> nn.Module:
    found = read_text_model(path)
    family = backbone_called(str(found.settings.get("_name") or found.settings.get("arch")))
    with building_from(path), Uninitialised():
        model = family.build({}, found.settings)
    load_weights(model, found.weights, path)
    return model.eval()


def load_encoder(path: PathLike) -> nn.Module:
    """The encoder in the checkpoint at ``path``, in evaluation mode, on the CPU, without gradient.

    That of a finetuned checkpoint with masks has them on.

    Raises:
        UserError: the file cannot be read, or holds no encoder of a registered family.
    """
    if is_finetuned(read(path, mmap=True)["model"]):
        return encoder_of_model(load_finetuned(path).model)
    return load_pretrained(path).requires_grad_(False)
