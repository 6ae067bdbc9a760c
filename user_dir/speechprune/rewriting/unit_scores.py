"""Scores of the heads and channels of a model at rest: from its weights, or a few batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from speechprune.backbones import Backbone, find_backbone
from speechprune.errors import UserError
from speechprune.models.loading import LoadedRecogniser, LoadedSentences
from speechprune.models.sites import encoder_of_model, output_layer_of
from speechprune.rewriting.calibration import Part
from speechprune.slimming.choice import LayerScores
from speechprune.slimming.criteria import Criterion
from speechprune.slimming.scores import accumulate, channel_scores, head_scores
from speechprune.slimming.units import LayerUnits

#: What fairseq's CTC loss takes for the blank of models for speech.
_BLANK = 0


def scores_at_rest(units: Sequence[LayerUnits], criterion: Criterion) -> list[LayerScores]:
    """The scores of each layer by a criterion that needs no gradient."""
    return [_scores(layer, criterion, with_gradient=False) for layer in units]


def scores_of_batches(
    loaded: LoadedRecogniser | LoadedSentences,
    criterion: Criterion,
    batches: Iterable[Sequence[Part]],
) -> list[LayerScores]:
    """The scores of each layer from the loss on labelled batches, which change no weight: that of
    CTC, or the cross-entropy or squared error of sentences.

    The gradient of a batch is that of the mean loss of its utterances, in evaluation mode: without
    dropout and masked spans. Momentum is over the batches, in their order. An utterance whose
    labels do not fit in its frames has no gradient.

    Args:
        loaded: without masks; on the device of the batches.

    Raises:
        UserError: no gradient reached the weights, or one that is not finite.
    """
    encoder = encoder_of_model(loaded.model)
    family = find_backbone(encoder)
    units = family.units(encoder)
    loaded.model.requires_grad_(False)
    scored = [linear.weight for layer in units for linear in _scored(layer)]
    for weight in scored:
        weight.requires_grad_(True)
    found = [_zeros(layer) for layer in units]
    for batch in batches:
        utterances = sum(len(part.labels) for part in batch)
        for part in batch:
            (_loss(loaded, family, part) / utterances).backward()
        found = [_accumulated(criterion, s, layer) for s, layer in zip(found, units)]
        for weight in scored:
            weight.grad = None
    loaded.model.requires_grad_(False)
    _check(found)
    return found


def _loss(loaded: LoadedRecogniser | LoadedSentences, family: Backbone, part: Part) -> Tensor:
    """The sum of the losses of some utterances or sentences."""
    if isinstance(loaded, LoadedSentences):
        return _loss_of_sentences(loaded, family, part)
    return _ctc_loss(loaded, family, part)


def _loss_of_sentences(loaded: LoadedSentences, family: Backbone, part: Part) -> Tensor:
    """As fairseq's `sentence_prediction` has it."""
    features, _ = family.features(loaded.model, part.source, part.padding_mask)
    heads: Any = output_layer_of(loaded.model)
    outputs = heads[loaded.task.cfg.classification_head_name](features).float()
    labels = torch.tensor(part.labels, device=outputs.device)
    if loaded.classes is None:
        return functional.mse_loss(outputs.view(-1), labels.float(), reduction="sum")
    return functional.cross_entropy(outputs, labels, reduction="sum")


def _ctc_loss(loaded: LoadedRecogniser, family: Backbone, part: Part) -> Tensor:
    model, dictionary = loaded.model, loaded.dictionary
    encoder = encoder_of_model(model)
    features, padding = family.features(encoder, part.source, part.padding_mask)
    emissions = output_layer_of(model)(features).transpose(0, 1)
    output = {"encoder_out": emissions, "padding_mask": padding}
    log_probabilities = model.get_normalized_probs(output, log_probs=True)
    frames = [family.frame_count(encoder, int((~row).sum())) for row in part.padding_mask]
    targets = [
        dictionary.encode_line(line, append_eos=False, add_if_not_exist=False)
        for line in part.labels
    ]
    with torch.backends.cudnn.flags(enabled=False):  # as fairseq: cuDNN's has other bounds
        return functional.ctc_loss(
            log_probabilities,
            torch.cat(targets).long().to(emissions.device),
            torch.tensor(frames),
            torch.tensor([len(target) for target in targets]),
            blank=_BLANK,
            reduction="sum",
            zero_infinity=True,
        )


def _scored(layer: LayerUnits) -> tuple[torch.nn.Linear, ...]:
    """The linear layers whose weights tell how important units are; the last is for channels."""
    return layer.query, layer.key, layer.value, layer.out, layer.second


def _scores(layer: LayerUnits, criterion: Criterion, *, with_gradient: bool) -> LayerScores:
    weights = [linear.weight.detach() for linear in _scored(layer)]
    gradients = [linear.weight.grad if with_gradient else None for linear in _scored(layer)]
    return LayerScores(
        head_scores(criterion, weights[:4], gradients[:4], layer.heads),
        channel_scores(criterion, weights[4], gradients[4]),
    )


def _zeros(layer: LayerUnits) -> LayerScores:
    weight = layer.second.weight
    heads, channels = (
        torch.zeros(count, device=weight.device) for count in (layer.heads, layer.channels)
    )
    return LayerScores(heads, channels)


def _accumulated(criterion: Criterion, before: LayerScores, layer: LayerUnits) -> LayerScores:
    now = _scores(layer, criterion, with_gradient=True)
    return LayerScores(
        accumulate(criterion, before.heads, now.heads),
        accumulate(criterion, before.channels, now.channels),
    )


def _check(scores: Sequence[LayerScores]) -> None:
    """Raise UserError unless scores are finite and tell something."""
    values = torch.cat([torch.cat([layer.heads, layer.channels]) for layer in scores])
    if not values.isfinite().all():
        raise UserError("the gradients of the calibration batches are not finite numbers")
    if not values.any():
        raise UserError(
            "the calibration batches give no gradient: the labels of every utterance of speech may "
            "be too long for its frames; choose another subset, or --criterion magnitude"
        )
