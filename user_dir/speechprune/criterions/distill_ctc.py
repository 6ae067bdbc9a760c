"""`distill_ctc` and `distill`: learning the hidden states of a teacher, with labels and without.

Source: DPHuBERT (Peng et al., Interspeech 2023), of which this is the distillation.
"""

from typing import Any, Dict, List, Tuple

from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.logging import metrics
from torch import Tensor, nn

from speechprune.criterions.config import CriterionConfig
from speechprune.criterions.ctc import CtcCriterion
from speechprune.criterions.distillation import Distillation, reduce_distillation
from speechprune.criterions.names import DISTILL, DISTILL_CTC
from speechprune.criterions.penalties import penalised, reduce_penalty


class WithTeacher(nn.Module):
    """What both criterions share: the distillation, and how fairseq's trainer treats it."""

    distillation: Distillation

    def prepare(self, model: Any) -> None:
        """Called with the model before it is trained; raises UserError if it cannot learn."""
        self.distillation.prepare(model)

    def load_state_dict(self, state_dict: Any, *args: Any, **options: Any) -> Any:
        """Take the projections of a checkpoint; one that was trained without a teacher has none,
        and leaves them as they begin."""
        return super().load_state_dict(state_dict or self.state_dict(), *args, **options)


@register_criterion(DISTILL_CTC, dataclass=CriterionConfig)
class DistillCtcCriterion(WithTeacher, CtcCriterion):
    """(1 - distill_weight) * CTC loss + distill_weight * distillation + penalty_weight * penalty.

    CTC loss and distillation are sums over the batch, of utterances and of the frames in them, both
    divided by the same number: how batches are cut does not weigh one against the other. ``loss``
    is logged of CTC alone, as by the other criterions.
    """

    def __init__(self, cfg: CriterionConfig, task: Any) -> None:
        super().__init__(cfg, task)
        self.distill_weight = cfg.distill_weight
        self.penalty_weight = cfg.penalty_weight
        self.distillation = Distillation(cfg, task)

    def forward(
        self, model: Any, sample: Dict[str, Any], reduce: bool = True, **kwargs: Any
    ) -> Tuple[Tensor, int, Dict[str, Any]]:
        with self.distillation.listening(model) as heard:
            loss, sample_size, log = super().forward(model, sample, reduce, **kwargs)
        found = self.distillation.distance(heard, sample["net_input"], model.training)
        loss = (1 - self.distill_weight) * loss
        if found is not None:
            loss = loss + self.distill_weight * heard.frames * self.distillation.loss(found)
        log.update(self.distillation.log(found, heard.frames))
        return penalised(loss, sample_size, log, model, self.penalty_weight), sample_size, log

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        CtcCriterion.reduce_metrics(logging_outputs)
        reduce_penalty(logging_outputs)
        reduce_distillation(logging_outputs)


@register_criterion(DISTILL, dataclass=CriterionConfig)
class DistillCriterion(WithTeacher, FairseqCriterion):
    """distillation + penalty_weight * penalty, of batches with labels or without.

    It is a mean over all frames of an update that are not padding.
    """

    def __init__(self, cfg: CriterionConfig, task: Any) -> None:
        super().__init__(task)
        self.penalty_weight = cfg.penalty_weight
        self.distillation = Distillation(cfg, task)

    def forward(
        self, model: Any, sample: Dict[str, Any], reduce: bool = True
    ) -> Tuple[Tensor, int, Dict[str, Any]]:
        batch = sample["net_input"]
        with self.distillation.listening(model) as heard:
            model(**{"padding_mask": None, **batch})
        found = self.distillation.distance(heard, batch, model.training)
        frames = heard.frames
        # Without a layer there is nothing to learn, but something to go backwards through.
        loss = 0.0 * heard.output["encoder_out"].float().sum()
        if found is not None:
            loss = frames * self.distillation.loss(found)
        log = {
            "loss": loss.item(),
            "ntokens": frames,
            "nsentences": sample["id"].numel(),
            "sample_size": frames,
            **self.distillation.log(found, frames),
        }
        return penalised(loss, frames, log, model, self.penalty_weight), frames, log

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        size = sum(log.get("sample_size", 0) for log in logging_outputs)
        loss = sum(log.get("loss", 0) for log in logging_outputs)
        metrics.log_scalar("loss", loss / size, size, round=5)
        reduce_penalty(logging_outputs)
        reduce_distillation(logging_outputs)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """All that is logged is a number."""
        return True
