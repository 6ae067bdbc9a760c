"""`labels`: the cross-entropies of an utterance's slots, and how often their classes are right."""

from typing import Any, Dict, List, Tuple

import torch
from fairseq import utils
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.logging import metrics
from torch import Tensor
from torch.nn import functional as F

from speechprune.criterions.config import LabelsConfig
from speechprune.criterions.names import LABELS
from speechprune.criterions.penalties import penalised, reduce_penalty
from speechprune.errors import UserError
from speechprune.models.names import LABELS_ROUTER

#: How keys begin under which a batch's right answers are logged: of all slots, and of one.
_CORRECT, _CORRECT_IN = "correct", "correct_"


@register_criterion(LABELS, dataclass=LabelsConfig)
class LabelsCriterion(FairseqCriterion):
    """Sum over slots of cross-entropies, mean over utterances, + penalty_weight * penalty.

    ``accuracy`` is the percentage of utterances with the right class in every slot, and
    ``accuracy_SLOT`` that of one slot, if there are several.
    """

    def __init__(self, cfg: LabelsConfig, task: Any) -> None:
        super().__init__(task)
        self.penalty_weight = cfg.penalty_weight
        self.slots = [slot.name for slot in task.slots]

    def prepare(self, model: Any) -> None:
        """Called before training; raises UserError for a model that tells no classes."""
        if not hasattr(model, "logits_by_slot"):
            raise UserError(
                f"criterion._name={LABELS} needs a model for labels of utterances, such as "
                f"model._name={LABELS_ROUTER}"
            )

    def forward(
        self, model: Any, sample: Dict[str, Any], reduce: bool = True
    ) -> Tuple[Tensor, int, Dict[str, Any]]:
        """The loss, a sum over utterances; their number; and what is logged."""
        by_slot = model.logits_by_slot(model(**sample["net_input"]))
        labels = sample["labels"]
        losses = [F.cross_entropy(s, labels[:, i], reduction="sum") for i, s in enumerate(by_slot)]
        loss, sample_size = torch.stack(losses).sum(), len(labels)
        right = torch.stack([scores.argmax(-1) for scores in by_slot], dim=-1) == labels
        log = {
            "loss": utils.item(loss.data),
            "ntokens": sample_size,
            "nsentences": sample_size,
            "sample_size": sample_size,
            _CORRECT: int(right.all(dim=-1).sum()),
        }
        for index, name in enumerate(self.slots):
            log[f"{_CORRECT_IN}{name}"] = int(right[:, index].sum())
        return penalised(loss, sample_size, log, model, self.penalty_weight), sample_size, log

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        """Log means over the utterances of all processes and micro-batches."""
        count = sum(log.get("sample_size", 0) for log in logging_outputs)
        loss = utils.item(sum(log.get("loss", 0) for log in logging_outputs))
        metrics.log_scalar("loss", loss / count, count, round=4)
        keys = dict.fromkeys(key for log in logging_outputs for key in log)
        slots = [key for key in keys if key.startswith(_CORRECT_IN)]
        for key in [_CORRECT, *(slots if len(slots) > 1 else [])]:
            right = utils.item(sum(log.get(key, 0) for log in logging_outputs))
            name = f"accuracy{key[len(_CORRECT) :]}"
            metrics.log_scalar(name, 100.0 * right / count, count, round=3)
        reduce_penalty(logging_outputs)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Counts and sums add, also over processes."""
        return True
