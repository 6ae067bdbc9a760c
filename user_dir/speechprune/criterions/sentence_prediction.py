"""fairseq's `sentence_prediction`, plus what masks and gates need in a loss, their penalty."""

from typing import Any, Dict, List, Tuple

import torch
from fairseq.criterions import sentence_prediction
from torch import Tensor

from speechprune.criterions.config import SentencesConfig
from speechprune.criterions.names import SENTENCE_PREDICTION
from speechprune.criterions.penalties import penalised, reduce_penalty
from speechprune.criterions.replacing import replace_criterion
from speechprune.replacing import Function, replace


class SentencePredictionCriterion(sentence_prediction.SentencePredictionCriterion):
    """Cross-entropy, or squared error, mean over sentences, + penalty_weight * penalty.

    The name is fairseq's own, by which it tells in a checkpoint whose optimizer can go on.
    """

    def __init__(self, cfg: SentencesConfig, task: Any) -> None:
        super().__init__(cfg, task)
        self.penalty_weight = cfg.penalty_weight

    def forward(
        self, model: Any, sample: Dict[str, Any], reduce: bool = True
    ) -> Tuple[Tensor, int, Dict[str, Any]]:
        loss, sample_size, log = super().forward(model, sample, reduce)
        return penalised(loss, sample_size, log, model, self.penalty_weight), sample_size, log

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        sentence_prediction.SentencePredictionCriterion.reduce_metrics(logging_outputs)
        reduce_penalty(logging_outputs)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Not on GPUs, where fairseq can gather them: F1 and correlations are of lists."""
        return not torch.cuda.is_available()


def _as_plain_numbers(rounded: Function) -> Function:
    """Rounds what SciPy measures to a number of Python's: fairseq saves it in checkpoints, which
    are read without NumPy's classes."""

    def rounded_plainly(number: Any, digits: int) -> float:
        return float(rounded(number, digits))

    return rounded_plainly


replace(sentence_prediction, "safe_round", _as_plain_numbers)
replace_criterion(SENTENCE_PREDICTION, SentencePredictionCriterion, SentencesConfig)
