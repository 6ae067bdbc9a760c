"""`masked_ctc`: fairseq's CTC loss plus what masks need in a loss, a policy's penalty."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Tuple

import torch
from fairseq import utils
from fairseq.criterions import register_criterion
from fairseq.criterions.ctc import CtcCriterionConfig
from fairseq.logging import metrics

from speechprune.criterions.ctc import CtcCriterion


@dataclass
class MaskedCtcCriterionConfig(CtcCriterionConfig):
    penalty_weight: float = field(
        default=1.0, metadata={"help": "factor of the mask policy's penalty in the loss"}
    )


@register_criterion("masked_ctc", dataclass=MaskedCtcCriterionConfig)
class MaskedCtcCriterion(CtcCriterion):
    """CTC loss + penalty_weight * penalty.

    The penalty is added once per unit of the loss's normalisation, so that it does not depend on
    the batch size or `update_freq`.
    """

    def __init__(self, cfg: MaskedCtcCriterionConfig, task: Any) -> None:
        super().__init__(cfg, task)
        self.penalty_weight = cfg.penalty_weight

    def forward(
        self, model: Any, sample: Dict[str, Any], reduce: bool = True, **kwargs: Any
    ) -> Tuple[torch.Tensor, int, Dict[str, Any]]:
        loss, sample_size, logging_output = super().forward(model, sample, reduce, **kwargs)
        controller = getattr(model, "mask_controller", None)
        penalty = None if controller is None else controller.penalty()
        if penalty is not None:
            penalty = penalty * sample_size
            loss = loss + self.penalty_weight * penalty
        density = 1.0 if controller is None else controller.stats()["density"]
        logging_output["penalty"] = 0.0 if penalty is None else utils.item(penalty.data)
        logging_output["density"] = density * sample_size
        return loss, sample_size, logging_output

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        CtcCriterion.reduce_metrics(logging_outputs)
        sample_size = sum(log.get("sample_size", 0) for log in logging_outputs)
        for key, digits in (("penalty", 5), ("density", 6)):
            total = utils.item(sum(log.get(key, 0) for log in logging_outputs))
            metrics.log_scalar(key, total / sample_size, sample_size, round=digits)
