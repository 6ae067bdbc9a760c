"""What models are called in fairseq's registry: ``model._name`` of a command line.

Whoever has to choose a model takes its name from here; what a model is and reads, it says itself
(`speechprune.models.declaration`).
"""

from __future__ import annotations

from dataclasses import dataclass

#: fairseq's own: all weights are finetuned, of wav2vec 2.0, data2vec and, here, HuBERT.
WEIGHTS = "wav2vec_ctc"
#: fairseq's own for HuBERT.
HUBERT_WEIGHTS = "hubert_ctc"
#: All weights of what is left after layers were dropped.
PRUNED = "wav2vec_ctc_pruned"
#: S3-Router: masks that are learned through scores.
ROUTER = "wav2vec_ctc_st"
#: PARP, and other policies that train weights.
PARP = "wav2vec_ctc_parp"
#: Weights under a mask that was given and stays.
FIXED_MASK = "wav2vec_ctc_masked"
#: All weights, while heads and channels are removed for good.
SLIM = "wav2vec_ctc_slim"
#: Its criterion that is learned, by gates; the others score.
GATES = "l0"
#: Any mask policy, with weights trained or frozen.
POLICY = "wav2vec_ctc_policy"

#: Whole utterances get labels: by all weights, or the output layer alone; S3-Router; PARP.
LABELS = "wav2vec_labels"
LABELS_ROUTER = "wav2vec_labels_st"
LABELS_PARP = "wav2vec_labels_parp"
#: All of them.
LABELLING = (LABELS, LABELS_ROUTER, LABELS_PARP)

#: Sentences get classes or values, by an encoder of text: fairseq's own, and what is left after
#: layers were dropped; S3-Router; PARP; any policy; a given mask; slimming.
ROBERTA = "roberta"
ROBERTA_PRUNED = "roberta_pruned"
ROBERTA_ROUTER = "roberta_st"
ROBERTA_PARP = "roberta_parp"
ROBERTA_POLICY = "roberta_policy"
ROBERTA_FIXED_MASK = "roberta_masked"
ROBERTA_SLIM = "roberta_slim"


@dataclass(frozen=True)
class ModelNames:
    """What the models of one kind of task are called.

    Attributes:
        pretrained: the key that names the file of the pretrained model.
        weights: all weights are finetuned: the control.
        pruned: the same, of what is left of a model.
    """

    pretrained: str
    weights: str
    pruned: str
    router: str
    parp: str
    fixed_mask: str


OF_SPEECH = ModelNames("model.w2v_path", WEIGHTS, PRUNED, ROUTER, PARP, FIXED_MASK)
OF_TEXT = ModelNames(
    "model.roberta_path",
    ROBERTA_PRUNED,
    ROBERTA_PRUNED,
    ROBERTA_ROUTER,
    ROBERTA_PARP,
    ROBERTA_FIXED_MASK,
)


def names_beside(name: str) -> ModelNames:
    """The names of models for sentences, if ``name`` is that of one, else of CTC models."""
    return OF_TEXT if is_of_sentences(name) else OF_SPEECH


def is_of_sentences(name: str) -> bool:
    """Whether a model's name is that of one for sentences, ours or fairseq's."""
    return name.startswith(ROBERTA)


def is_labelling(name: str) -> bool:
    """Whether a model's name is that of one for labels of whole utterances."""
    return name in LABELLING


def is_ctc(name: str) -> bool:
    """Whether a model's name is that of a CTC model, ours, fairseq's or one of a user's."""
    return "ctc" in name
