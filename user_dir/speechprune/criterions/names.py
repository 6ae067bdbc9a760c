"""What our criterions are called in fairseq's registry, and what they measure."""

#: CTC loss with our error rates; and with the penalty of masks; and with distillation.
CTC, MASKED_CTC, DISTILL_CTC = "ctc", "masked_ctc", "distill_ctc"
#: Distillation alone, which needs no labels.
DISTILL = "distill"

#: A cross-entropy for each slot of an utterance's labels.
LABELS = "labels"

#: fairseq's own of its task for sentences, with the penalty of masks.
SENTENCE_PREDICTION = "sentence_prediction"

#: Those that count errors in validation as `speechprune evaluate` does.
COUNTING_ERRORS = (CTC, MASKED_CTC, DISTILL_CTC)
#: Those with a teacher.
DISTILLING = (DISTILL_CTC, DISTILL)

_OF_CTC = ("loss", "nll_loss", "uer", "wer", "raw_wer")
_OF_PENALTY = ("penalty", "density")
_OF_DISTILLATION = ("distill", "distill_l1", "distill_cosine")

#: What fairseq's own for sentences measures on request, by the setting that asks for it.
REPORTED = {
    "report_mcc": ("mcc",),
    "report_acc_and_f1": ("acc_and_f1", "f1"),
    "report_pearson_and_spearman": ("pearson_and_spearman", "pearson", "spearman"),
}

#: What each of them logs of a validation. What fairseq's `ctc` cannot log stays for old settings.
METRICS = {
    CTC: _OF_CTC + _OF_PENALTY,
    MASKED_CTC: _OF_CTC + _OF_PENALTY,
    DISTILL_CTC: _OF_CTC + _OF_PENALTY + _OF_DISTILLATION,
    LABELS: ("loss", "accuracy", *_OF_PENALTY),
    SENTENCE_PREDICTION: (
        *("loss", "nll_loss", "accuracy"),
        *(metric for metrics in REPORTED.values() for metric in metrics),
        *_OF_PENALTY,
    ),
    DISTILL: ("loss", *_OF_PENALTY, *_OF_DISTILLATION),
}
