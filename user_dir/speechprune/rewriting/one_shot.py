"""Heads and channels removed from a checkpoint at once, without training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from speechprune.backbones import find_backbone
from speechprune.backbones.cost import EncoderCost, encoder_cost
from speechprune.checkpoint.file import PathLike, read
from speechprune.checkpoint.finetuned import listening
from speechprune.decoding.inference import best_device
from speechprune.errors import UserError
from speechprune.models.loading import (
    LoadedRecogniser,
    LoadedSentences,
    load_finetuned,
    load_recogniser,
)
from speechprune.models.sites import encoder_of_model
from speechprune.rewriting.audio_calibration import AudioCalibration
from speechprune.rewriting.calibration import Calibration, Draw, Part
from speechprune.rewriting.layer_repair import LayerErrors, repair
from speechprune.rewriting.plain_checkpoint import read_plain
from speechprune.rewriting.rewriting import Rewriting
from speechprune.rewriting.sentence_calibration import SentenceCalibration
from speechprune.rewriting.slimming import CutReport, write_slim
from speechprune.rewriting.unit_scores import scores_at_rest, scores_of_batches
from speechprune.slimming.choice import BudgetChoice, LayerScores, ShareChoice
from speechprune.slimming.criteria import CRITERIA, Criterion
from speechprune.slimming.plan import KeptUnits
from speechprune.slimming.units import LayerUnits
from speechprune.state_names import is_finetuned, is_text
from speechprune.tables import table

#: Of models whose loss can be had, and of all others.
_BY_LOSS, _BY_WEIGHTS = "snip_momentum", "magnitude"


@dataclass(frozen=True)
class PruneReport:
    """What was removed, and what that did.

    Attributes:
        slim: what each layer keeps.
        criterion: by which units were scored.
        calibration: how many utterances or sentences there were, by their name; empty without data.
        errors: of each layer's blocks, on what was drawn; None without repair.
        before, after: what the encoder costs, for a source of the usual length.
    """

    slim: CutReport
    criterion: str
    calibration: Mapping[str, int]
    errors: tuple[LayerErrors, ...] | None
    before: EncoderCost
    after: EncoderCost

    def describe(self) -> dict[str, Any]:
        """As plain values."""
        return {
            **self.slim.describe(),
            "criterion": self.criterion,
            **(self.calibration or {"utterances": 0}),
            "errors": None if self.errors is None else [asdict(layer) for layer in self.errors],
            **self.after.length.describe(),
            "multiply_adds": self.after.multiply_adds,
            "multiply_adds_before": self.before.multiply_adds,
        }

    def in_words(self) -> str:
        """A line for each layer, and what is left of the encoder."""
        lines = [self.slim.in_words()]
        share = self.after.multiply_adds / self.before.multiply_adds
        lines.append(
            f"{self.after.multiply_adds:,} of {self.before.multiply_adds:,} multiply-adds stay "
            f"({share:.1%}), for {self.after.length}"
        )
        by_gradient = CRITERIA.get(self.criterion).needs_gradient
        on = "".join(f" on {count} {what}" for what, count in self.calibration.items())
        lines.append(f"units scored by {self.criterion}{on if by_gradient else ''}")
        if self.errors is not None:
            lines.append(f"relative error of each block before and after repair{on}:")
            lines.append(_error_table(self.errors))
        return "\n".join(lines)


def prune(
    path: PathLike,
    out: PathLike,
    amount: ShareChoice | BudgetChoice,
    *,
    criterion: str | None = None,
    draw: Draw | None = None,
    repaired: bool = False,
) -> PruneReport:
    """Write a checkpoint without the heads and channels that matter least.

    Masks are baked in before. Nothing is trained; with ``repaired``, the weights that read from
    what is left are refitted on what ``draw`` says, see `layer_repair`.

    Args:
        path: any pretrained or finetuned checkpoint, ours or fairseq's, slim or not.
        amount: shares of heads and channels that go, or a budget; its multiply-adds are those for a
            source of the usual length.
        criterion: by which units are scored; by default snip_momentum on the labelled batches of
            ``draw`` for a finetuned model, else magnitude.
        draw: calibration data. Labels are read only by criteria that need gradients.

    Raises:
        UserError: a file is missing or damaged; a criterion that needs gradients has no labels, or
            a pretrained model; data is missing for what needs it, or given to what does not;
            nothing would be removed; ``out`` is the source or cannot be written.
    """
    rewriting = Rewriting(path, out)
    if not Path(out).absolute().parent.is_dir():  # scores and repair take a while
        raise UserError(f"{out} cannot be written: there is no folder {Path(out).parent}")
    finetuned = is_finetuned(rewriting.state["model"])
    name = criterion or (_BY_LOSS if finetuned and draw is not None else _BY_WEIGHTS)
    chosen: Criterion = CRITERIA.build(name)
    what = "sentences" if is_text(rewriting.state["model"]) else "audio"
    _check_data(name, chosen, finetuned, draw, repaired, what)
    source = read_plain(path)
    loaded = _load(path, draw) if chosen.needs_gradient else None
    calibration = None if draw is None else _calibration(path, draw, name, loaded)
    encoder = source.encoder
    units = find_backbone(encoder).units(encoder)
    before = encoder_cost(encoder)
    if loaded is None:
        scores = scores_at_rest(units, chosen)
    else:
        scores = _scores_of_loss(loaded, chosen, calibration)
    kept = _chosen(amount, scores, units, before)
    errors = _repair(encoder, kept, calibration) if repaired else None
    noted = {"criterion": name, **asdict(amount), "repaired": repaired}
    if calibration is not None:
        noted["calibration"] = calibration.describe()
    slim = write_slim(rewriting, source, kept, {"pruned_by": noted})
    after = encoder_cost(encoder)
    counted = {} if calibration is None else {calibration.what: len(calibration)}
    return PruneReport(slim, name, counted, errors, before, after)


def _chosen(
    amount: ShareChoice | BudgetChoice,
    scores: Sequence[LayerScores],
    units: Sequence[LayerUnits],
    whole: EncoderCost,
) -> list[KeptUnits]:
    """What each layer keeps; raises UserError if nothing would go."""
    if isinstance(amount, ShareChoice):
        kept = amount.choose(scores)
    else:
        kept = amount.choose(scores, units, whole, whole.frames)
    if kept == [KeptUnits.all(layer.heads, layer.channels) for layer in units]:
        raise UserError(
            "nothing would be removed: what is asked for is less than one head or channel; ask for "
            "more"
        )
    return kept


def _check_data(
    name: str,
    criterion: Criterion,
    finetuned: bool,
    draw: Draw | None,
    repaired: bool,
    what: str,
) -> None:
    """Refuse data that is missing, or that nothing would read.

    Args:
        what: the data is.
    """
    if criterion.needs_gradient and not finetuned:
        raise UserError(
            f"{name} needs the gradient of a loss, which a pretrained model without output layer "
            f"does not have; choose --criterion {_BY_WEIGHTS}, or finetune it first"
        )
    if criterion.needs_gradient and draw is None:
        raise UserError(
            f"{name} needs labelled {what}; name the data by --data and --subset, or choose "
            f"--criterion {_BY_WEIGHTS}"
        )
    if repaired and draw is None:
        raise UserError(
            f"--repair needs {what} to refit weights on; name the data by --data and --subset"
        )
    if draw is not None and not criterion.needs_gradient and not repaired:
        raise UserError(
            f"nothing would read the {what} of {draw.data}: {name} looks at weights alone; leave "
            "--data out, or add --repair"
        )


def _load(path: PathLike, draw: Draw | None) -> LoadedRecogniser | LoadedSentences:
    """A finetuned model without its masks."""
    data = None if draw is None else draw.data
    loaded: LoadedRecogniser | LoadedSentences
    if is_text(read(path, mmap=True)["model"]):
        of_text = load_finetuned(path, data)
        assert isinstance(of_text, LoadedSentences)
        loaded = of_text
    else:
        loaded = load_recogniser(path, data)
    if hasattr(loaded.model, "fold"):
        loaded.model.fold()
    return loaded


def _calibration(
    path: PathLike, draw: Draw, criterion: str, loaded: LoadedRecogniser | LoadedSentences | None
) -> Calibration:
    """The recordings or sentences, with labels if a model is ``loaded`` to take gradients of."""
    if is_text(read(path, mmap=True)["model"]):
        assert not isinstance(loaded, LoadedRecogniser)
        return SentenceCalibration(draw, path, loaded)
    assert not isinstance(loaded, LoadedSentences)
    normalize, rate = listening(path)
    labels = None if loaded is None else str(loaded.cfg.task.labels)
    if labels is not None and not (draw.data / f"{draw.subset}.{labels}").is_file():
        raise UserError(
            f"{criterion} needs labels, and there is no {draw.data / draw.subset}.{labels}; name "
            f"another subset, or choose --criterion {_BY_WEIGHTS}"
        )
    found = AudioCalibration(draw, normalize=normalize, rate=rate, labels=labels)
    if loaded is not None:
        found.check_labels(loaded.dictionary.symbols, str(loaded.path))
    return found


def _scores_of_loss(
    loaded: LoadedRecogniser | LoadedSentences,
    criterion: Criterion,
    calibration: Calibration | None,
) -> list[LayerScores]:
    assert calibration is not None
    loaded.model.to(best_device())
    batches = _batches(encoder_of_model(loaded.model), calibration)
    return scores_of_batches(loaded, criterion, batches)


def _repair(
    encoder: nn.Module, kept: Sequence[KeptUnits], calibration: Calibration | None
) -> tuple[LayerErrors, ...]:
    assert calibration is not None
    encoder.to(best_device())
    parts = chain.from_iterable(_batches(encoder, calibration))
    errors = repair(find_backbone(encoder), encoder, kept, parts)
    encoder.to(torch.device("cpu"))
    return tuple(errors)


def _batches(encoder: nn.Module, calibration: Calibration) -> Iterator[list[Part]]:
    """What an encoder can take of what was drawn, on its device."""
    family = find_backbone(encoder)
    longest = family.longest(encoder)

    def is_taken(samples: int) -> bool:
        return family.frame_count(encoder, samples) > 0 and samples <= (longest or samples)

    return calibration.batches(next(encoder.parameters()).device, is_taken)


def _error_table(errors: Sequence[LayerErrors]) -> str:
    rows = [["layer", "attention", "after", "feed-forward", "after"]]
    for number, layer in enumerate(errors):
        blocks = (layer.attention, layer.feed_forward)
        values = [value for block in blocks for value in (block.before, block.after)]
        rows.append([str(number), *(f"{value:.4f}" for value in values)])
    return table(rows)
