"""The settings of our criterions together: all know all of them, so that one YAML serves them."""

from dataclasses import dataclass, field
from typing import List, Optional

from fairseq.criterions.ctc import CtcCriterionConfig
from fairseq.criterions.sentence_prediction import SentencePredictionConfig
from fairseq.dataclass import FairseqDataclass


@dataclass
class PenaltySettings:
    """Settings of what masks and gates add to a loss."""

    penalty_weight: float = field(
        default=1.0, metadata={"help": "factor of the penalty of masks and gates in the loss"}
    )


@dataclass
class DistillationSettings:
    """Settings of learning from a teacher."""

    teacher: Optional[str] = field(
        default=None,
        metadata={"help": "checkpoint to learn hidden states from, pretrained or finetuned"},
    )
    states: List[int] = field(
        default_factory=list,
        metadata={
            "help": "hidden states of the teacher to learn, such as [0,4,8,12]: 0 is the input of "
            "the first layer; by default that one, each third and the last"
        },
    )
    student_states: List[int] = field(
        default_factory=list,
        metadata={
            "help": "hidden states of the model that learn them, as many; by default those after "
            "the same layers, or at the same share of the depth"
        },
    )
    distill_weight: float = field(
        default=0.5, metadata={"help": "share of the distillation in the loss; CTC has the rest"}
    )
    l1_weight: float = field(
        default=1.0, metadata={"help": "factor of the mean L1 distance in the distillation"}
    )
    cosine_weight: float = field(
        default=1.0, metadata={"help": "factor of the mean cosine similarity in the distillation"}
    )


@dataclass
class LabelsConfig(PenaltySettings, FairseqDataclass):
    """The settings of `labels`."""


@dataclass
class SentencesConfig(PenaltySettings, SentencePredictionConfig):
    """fairseq's `sentence_prediction`'s own keys, and ours."""


@dataclass
class CriterionConfig(DistillationSettings, PenaltySettings, CtcCriterionConfig):
    """fairseq's `ctc`'s own keys and ours, of which each criterion reads its own."""
