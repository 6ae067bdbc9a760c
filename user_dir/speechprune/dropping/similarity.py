"""Similarity of the hidden states of a model, over recordings or texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from speechprune import __version__
from speechprune.backbones import find_backbone
from speechprune.checkpoint import PathLike, digest
from speechprune.decoding.inference import best_device
from speechprune.dropping.hearing import Heard, heard_by
from speechprune.errors import UserError
from speechprune.figures import heat_map
from speechprune.layers.matrix import SimilarityMatrix
from speechprune.layers.similarity import MEASURES, Measure, gather
from speechprune.layers.similarity.distance_correlation import DistanceMeasure
from speechprune.layers.similarity.rows import RowMeasure
from speechprune.manifests.split_files import inputs_digest
from speechprune.models.loading import load_encoder

#: Independent data this much alike leave little room to tell states apart.
HIGH_FLOOR = 0.9


@dataclass(frozen=True)
class Listening:
    """An encoder and what it hears.

    Attributes:
        heard: recordings or texts.
        order: the numbers of those that it hears.
    """

    encoder: nn.Module
    heard: Heard
    order: Sequence[int]

    def states(self) -> Iterator[Tensor]:
        """The hidden states of each utterance, (L + 1, T, C).

        Each is heard alone. One too short for a frame is passed over.
        """
        family = find_backbone(self.encoder)
        device = best_device()
        encoder = self.encoder.to(device)
        for index in tqdm(self.order, unit="utterance", desc="listening", disable=None):
            source = self.heard.source(index).to(device)
            if not family.frame_count(encoder, len(source)):
                continue
            with torch.inference_mode():
                states, _ = family.hidden_states(encoder, source[None], None)
            yield torch.cat(states)


def similarity(
    checkpoint: PathLike,
    data: Path,
    subset: str,
    measures: Mapping[str, Measure],
    *,
    utterances: int | None = None,
    seed: int = 0,
) -> dict[str, SimilarityMatrix]:
    """How alike the hidden states of a model are, by each measure, in one pass over the data.

    Args:
        checkpoint: pretrained or finetuned.
        data: folder of manifests, or of texts; labels are not needed.
        measures: by the name that each is to have in the result.
        utterances: how many to draw, of texts too; all if None.

    Raises:
        UserError: a file is missing or damaged, there are fewer utterances, or too few for a
            measure.
    """
    heard = heard_by(checkpoint, data, subset)
    order = _draw(len(heard), subset, utterances, seed)
    refuse_too_few(len(order), measures)
    listener = Listening(load_encoder(checkpoint), heard, order)
    statistics = gather(listener.states(), list(measures.values()))
    shared = {
        "version": __version__,
        "checkpoint": digest(checkpoint),
        "backbone": type(listener.encoder).__name__,
        "manifest": inputs_digest(data, subset),
        "subset": subset,
        "utterances": len(order),
        "seed": seed,
    }
    found = {}
    for (name, measure), statistic in zip(measures.items(), statistics):
        matrix = measure.matrix(statistic)
        provenance = {**shared, "settings": measure.describe(), "count": measure.used(statistic)}
        floor = measure.floor(statistic, seed)
        found[name] = SimilarityMatrix(matrix, name, floor, provenance)
    return found


def build_measures(
    names: Sequence[str], options: Mapping[str, Mapping[str, Any]]
) -> dict[str, Measure]:
    """Measures by name, each with its own ``options``.

    Raises:
        UserError: a name, an option or a value that is none.
    """
    built = {name: MEASURES.build(name, **options.get(name, {})) for name in names}
    for measure in built.values():
        measure.statistic()
    return built


def options_of(
    names: Sequence[str], rows: Mapping[str, Any], distances: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The settings of each measure, as far as it has them.

    Args:
        rows: for measures of rows, such as svcca.
        distances: for measures of distances between utterances, such as dc.

    Raises:
        UserError: a name that is none.
    """
    found = {}
    for name in names:
        measure = MEASURES.get(name)
        given = rows if issubclass(measure, RowMeasure) else {}
        given = distances if issubclass(measure, DistanceMeasure) else given
        found[name] = {k: v for k, v in given.items() if k in measure.settings()}
    return found


def refuse_too_few(utterances: int, measures: Mapping[str, Measure]) -> None:
    """Raise UserError if a measure needs more utterances."""
    for name, measure in measures.items():
        if utterances < measure.least:
            raise UserError(
                f"{utterances} utterances are too few for {name}, which needs {measure.least}"
            )


def warnings(matrices: Mapping[str, SimilarityMatrix]) -> list[str]:
    """What is to be said of matrices that may tell nothing."""
    return [
        f"{name} of independent data of this size is {matrix.floor:.2f} already, so that only "
        f"values above it tell anything; {_measure_of(matrix).lowers_floor} would lower "
        "it"
        for name, matrix in matrices.items()
        if matrix.floor is not None and matrix.floor >= HIGH_FLOOR
    ]


def _measure_of(matrix: SimilarityMatrix) -> Measure:
    settings = matrix.provenance.get("settings", {})
    measure: Measure = MEASURES.build(matrix.measure, **settings)
    return measure


def draw(matrix: SimilarityMatrix, path: Path) -> None:
    """Draw a matrix as a PNG; raises UserError if it cannot be written."""
    labels = [str(state) for state in range(len(matrix.values))]
    lowest = float(np.floor(10 * matrix.values.min()) / 10)
    heat_map(matrix.values, labels, path, _title(matrix), lowest)


def _title(matrix: SimilarityMatrix) -> str:
    """The measure, what it was measured on, as far as the matrix tells, and its floor."""
    told = matrix.provenance
    heard = (
        f" on {told['utterances']} utterances of {told['subset']}" if "utterances" in told else ""
    )
    floor = "" if matrix.floor is None else f", independent data {matrix.floor:.2f}"
    return f"{matrix.measure} of hidden states{heard}{floor}"


def _draw(count: int, subset: str, utterances: int | None, seed: int) -> list[int]:
    """Numbers of utterances in random order."""
    wanted = count if utterances is None else utterances
    if wanted > count:
        raise UserError(f"{subset} has {count} utterances, not {wanted}; ask for fewer")
    numbers: list[int] = np.random.default_rng(seed).permutation(count)[:wanted].tolist()
    return numbers
