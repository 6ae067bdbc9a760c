"""fairseq's `ctc`, whose error rates in validation are those that `speechprune evaluate` prints.

fairseq's own count pauses and padding otherwise, and of labels without words, such as phones, its
`wer` is the share of utterances with an error.
"""

import logging
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Tuple

import torch
from fairseq.criterions import ctc
from fairseq.data import AddTargetDataset
from torch import Tensor, nn

from speechprune.criterions.config import CriterionConfig
from speechprune.criterions.names import CTC
from speechprune.criterions.replacing import replace_criterion
from speechprune.decoding.greedy import decode, spells_words
from speechprune.decoding.scoring import ErrorCounts, count_text_errors
from speechprune.manifests.spelling import unspell
from speechprune.replacing import Function, replace

logger = logging.getLogger(__name__)

#: Where a batch has the lines of the label file, one for each utterance.
_LINES = "label_lines"


class CtcCriterion(ctc.CtcCriterion):
    """fairseq's CTC loss, and in validation our error rates.

    ``wer`` is of words and ``uer`` of characters; both are of units where the dictionary has no
    `|`. What `criterion.post_process` and `criterion.wer_kenlm_model` make of transcripts is left
    to fairseq.

    The name is fairseq's own, by which it tells in a checkpoint whose optimizer can go on.
    """

    def __init__(self, cfg: Any, task: Any) -> None:
        super().__init__(cfg, task)
        self.dictionary = task.target_dictionary
        self.letters = spells_words(self.dictionary)
        self.counts_as_evaluate = cfg.post_process == "letter" and self.w2l_decoder is None
        if self.counts_as_evaluate and not self.letters:
            logger.info("the dictionary has no `|`: wer and uer are both the unit error rate")

    def forward(
        self, model: Any, sample: Dict[str, Any], reduce: bool = True, **kwargs: Any
    ) -> Tuple[Tensor, int, Dict[str, Any]]:
        if model.training or _LINES not in sample or not self.counts_as_evaluate:
            return super().forward(model, sample, reduce, **kwargs)
        with outputs_of(model) as outputs:
            loss, sample_size, log = super().forward(model, sample, reduce, **kwargs)
        words, characters = self._errors(_emissions(model, outputs[-1]), sample[_LINES])
        log["w_errors"] = log["wv_errors"] = words.errors
        log["w_total"] = words.reference_length
        log["c_errors"], log["c_total"] = characters.errors, characters.reference_length
        return loss, sample_size, log

    def _errors(self, emissions: Tensor, lines: List[str]) -> Tuple[ErrorCounts, ErrorCounts]:
        words, characters = ErrorCounts(), ErrorCounts()
        for line, text in zip(lines, decode(self.dictionary, emissions)):
            reference = unspell(line, letters=self.letters)
            found = count_text_errors(reference, text, letters=self.letters)
            words, characters = words + found[0], characters + found[1]
        return words, characters


@contextmanager
def outputs_of(model: nn.Module) -> Iterator[List[Dict[str, Any]]]:
    """Collect what a model returns, with its scores as they are: fairseq changes them in place."""
    outputs: List[Dict[str, Any]] = []

    def keep(module: nn.Module, arguments: Any, output: Dict[str, Any]) -> None:
        outputs.append({**output, "encoder_out": output["encoder_out"].clone()})

    hook = model.register_forward_hook(keep)
    try:
        yield outputs
    finally:
        hook.remove()


def _emissions(model: Any, output: Dict[str, Any]) -> Tensor:
    """CTC scores, (T, B, symbols); frames of padding emit blanks, as not all of fairseq's models
    make them do."""
    with torch.no_grad():
        emissions: Tensor = model.get_logits(output)
        padding = output["padding_mask"]
        if padding is not None:
            blank = torch.full_like(emissions[0, 0], float("-inf"))
            blank[0] = 0.0
            emissions[padding.T] = blank
    return emissions


def _keeping_lines(collate: Function) -> Function:
    """Gives each batch the lines of the label file: numbers do not tell unknown symbols."""

    def collate_with_lines(self: Any, samples: List[Dict[str, Any]]) -> Dict[str, Any]:
        batch: Dict[str, Any] = collate(self, samples)
        if batch:
            batch[_LINES] = [self.get_label(number) for number in batch["id"].tolist()]
        return batch

    return collate_with_lines


replace_criterion(CTC, CtcCriterion, CriterionConfig)
replace(AddTargetDataset, "collater", _keeping_lines)
