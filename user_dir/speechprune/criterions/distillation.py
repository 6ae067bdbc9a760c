"""A teacher, and what a model is made to learn from it, as the criterions with a teacher use it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from fairseq.logging import metrics
from torch import Tensor, nn

from speechprune.backbones import find_backbone
from speechprune.checkpoint.layers import lost_layers
from speechprune.criterions.config import CriterionConfig
from speechprune.criterions.ctc import outputs_of
from speechprune.criterions.teacher import Teacher, check_states
from speechprune.distillation.loss import Distance, distance
from speechprune.distillation.matching import Stack, matching_states
from speechprune.distillation.projections import Projections
from speechprune.distillation.states import collected
from speechprune.errors import UserError
from speechprune.models.sites import encoder_of_model

#: What is logged: the loss and its two parts.
_LOGGED = ("distill", "distill_l1", "distill_cosine")


@dataclass
class Heard:
    """What a student made of a batch.

    Attributes:
        states: its hidden states by number, (T, B, C) each.
        outputs: what the model returned, its only entry.
    """

    states: Mapping[int, Tensor]
    outputs: Sequence[Mapping[str, Any]]

    @property
    def output(self) -> Mapping[str, Any]:
        """What the model returned."""
        (output,) = self.outputs
        return output

    @cached_property
    def frames(self) -> int:
        """How many frames are not padding, at least 1: losses are divided by it."""
        output, padding = self.output["encoder_out"], self.output["padding_mask"]
        heard = len(output) * output.shape[1] if padding is None else int((~padding).sum())
        return max(1, heard)


class Distillation(nn.Module):
    """The distance of a student's hidden states from those of a frozen teacher.

    The projections are its only parameters.

    Raises:
        UserError: settings that cannot work, or as `Teacher`.
    """

    def __init__(self, cfg: CriterionConfig, task: Any) -> None:
        super().__init__()
        _check_settings(cfg)
        assert cfg.teacher is not None
        self.teacher = Teacher(
            cfg.teacher, bool(getattr(task.cfg, "normalize", False)), list(cfg.states)
        )
        self.projections = Projections(self.teacher.channels)
        self.weights = (cfg.l1_weight, cfg.cosine_weight)
        self.student_states = tuple(cfg.student_states)
        self._prepared = False

    def prepare(self, model: Any) -> None:
        """Choose the states of the model that is to learn, once, before it is trained.

        Raises:
            UserError: its hidden states cannot be compared with the teacher's.
        """
        if self._prepared:
            return
        try:
            encoder = encoder_of_model(model)
        except AttributeError as error:
            raise UserError(
                f"a teacher is for CTC models, not for {type(model).__name__}; choose another "
                "model._name"
            ) from error
        family = find_backbone(encoder)
        self.teacher.check_fits(family, encoder)
        layers = len(family.layers(encoder))
        student = Stack(layers, lost_layers({"cfg": {"model": model.cfg}}))
        matching = matching_states(self.teacher.states, self.teacher.stack, student)
        self.student_states = self.student_states or matching
        check_states(self.student_states, layers, "student_states", "the model")
        self._prepared = True

    @contextmanager
    def listening(self, model: Any) -> Iterator[Heard]:
        """Note what ``model`` makes of the batch that it runs on in the block."""
        self.prepare(model)
        encoder = encoder_of_model(model)
        layers = find_backbone(encoder).layers(encoder)
        with collected(layers, self.student_states) as states, outputs_of(model) as outputs:
            yield Heard(states, outputs)

    def distance(self, heard: Heard, batch: Mapping[str, Any], together: bool) -> Distance | None:
        """How far the student is from its teacher, which hears the batch once.

        Args:
            batch: ``source`` and perhaps ``padding_mask``, as the student was given them.
            together: whether the student heard the utterances together, in training mode.

        Returns:
            None if the student has no states, all of its layers having been skipped.
        """
        theirs = self.teacher.hear(batch["source"], batch.get("padding_mask"), together=together)
        if not heard.states:
            return None
        padding = heard.output["padding_mask"]
        # Frames that fill the sequence up, and those that only one of the two crops, are left out.
        frames = min(len(heard.output["encoder_out"]), *(len(state) for state in theirs))
        own = [
            self.projections(number, heard.states[state][:frames])
            for number, state in zip(self.teacher.states, self.student_states)
        ]
        padding = None if padding is None else padding[:, :frames]
        return distance(own, [state[:frames] for state in theirs], padding)

    def loss(self, found: Distance) -> Tensor:
        """The distance as a loss, by the weights of its parts."""
        return found.loss(*self.weights)

    def log(self, found: Distance | None, frames: int) -> dict[str, float]:
        """What to log of a batch: sums over its frames."""
        if found is None:
            return {**dict.fromkeys(_LOGGED, 0.0), "distill_frames": 0}
        sums = torch.stack([self.loss(found), found.l1, found.cosine]).detach() * frames
        return {**dict(zip(_LOGGED, sums.tolist())), "distill_frames": frames}


def reduce_distillation(logs: Sequence[Mapping[str, Any]]) -> None:
    """Log the means over the frames of all batches of what `Distillation.log` gave for each."""
    frames = sum(log.get("distill_frames", 0) for log in logs)
    for key in _LOGGED:
        if frames:
            total = sum(log.get(key, 0) for log in logs)
            metrics.log_scalar(key, total / frames, frames, round=5)


def _check_settings(cfg: CriterionConfig) -> None:
    """Refuse settings of distillation that cannot work, whatever the teacher and the model."""
    if not cfg.teacher:
        raise UserError(
            "criterion.teacher names no checkpoint to learn from; give it one, such as "
            "criterion.teacher=$PWD/finetuned.pt"
        )
    for key, most in (("distill_weight", 1), ("l1_weight", math.inf), ("cosine_weight", math.inf)):
        value = getattr(cfg, key)
        if not (0 <= value <= most and math.isfinite(value)):
            allowed = "at least 0" if most == math.inf else f"0 to {most}"
            raise UserError(f"criterion.{key}={value} is out of range; use {allowed}")
    if cfg.student_states and len(cfg.student_states) != len(cfg.states):
        raise UserError(
            f"criterion.student_states={list(cfg.student_states)} must be as many as "
            f"criterion.states={list(cfg.states)}; give both"
        )
