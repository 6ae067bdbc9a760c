"""`masked_ctc`: fairseq's CTC loss plus what masks need in a loss, a policy's penalty."""

from typing import Any, Dict, List, Tuple

from fairseq.criterions import register_criterion
from torch import Tensor

from speechprune.criterions.config import CriterionConfig
from speechprune.criterions.ctc import CtcCriterion
from speechprune.criterions.names import MASKED_CTC
from speechprune.criterions.penalties import penalised, reduce_penalty


@register_criterion(MASKED_CTC, dataclass=CriterionConfig)
class MaskedCtcCriterion(CtcCriterion):
    """CTC loss + penalty_weight * penalty."""

    def __init__(self, cfg: CriterionConfig, task: Any) -> None:
        super().__init__(cfg, task)
        self.penalty_weight = cfg.penalty_weight

    def forward(
        self, model: Any, sample: Dict[str, Any], reduce: bool = True, **kwargs: Any
    ) -> Tuple[Tensor, int, Dict[str, Any]]:
        loss, sample_size, log = super().forward(model, sample, reduce, **kwargs)
        return penalised(loss, sample_size, log, model, self.penalty_weight), sample_size, log

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        CtcCriterion.reduce_metrics(logging_outputs)
        reduce_penalty(logging_outputs)
