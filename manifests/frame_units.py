"""Labels without a transcript: each frame's cluster of whatever is told of the frames.

Source: HuBERT (Hsu et al., IEEE/ACM TASLP 2021), k-means over MFCCs, and then over hidden states.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from scipy.cluster.vq import kmeans2, vq

from speechprune.errors import UserError
from speechprune.manifests.audio import SAMPLE_RATE, SHORTEST, read_resampled
from speechprune.manifests.dictionary import dictionary_name, read_dictionary
from speechprune.manifests.lines import write_lines
from speechprune.manifests.recording import BadAudio
from speechprune.manifests.rows import read_column, read_rows

UNITS = "km"
UNIT_RATE = 50
"""Units per second: one for each frame of wav2vec 2.0's convolutions."""

_SAMPLE = 40_000  # frames that the clusters are found on
_ROUNDS = 30  # of k-means


class FrameFeatures(Protocol):
    """What is told of the frames of the utterances in a manifest folder.

    Attributes:
        most: utterances, at most, that clusters are to be found on: their frames are in memory
            together.
    """

    most: int

    def count(self, split: str) -> int:
        """Utterances of a split."""

    def of(self, split: str, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """The number of each of these utterances, and its features, float32 (frames, C).

        They may come in any order.
        """


@dataclass(frozen=True)
class Clusters:
    """Clusters of frames.

    Attributes:
        scale: what features are divided by, (C,).
        centroids: of divided features, (K, C).
    """

    scale: np.ndarray
    centroids: np.ndarray

    @classmethod
    def find(cls, features: FrameFeatures, split: str, count: int, seed: int) -> Clusters:
        """`count` clusters of frames in a split, by k-means; each channel has standard deviation 1.

        Args:
            seed: of the utterances and frames sampled, and of k-means.
        """
        random = np.random.default_rng(seed)
        numbers = list(range(features.count(split)))
        if len(numbers) > features.most:
            numbers = sorted(random.permutation(len(numbers))[: features.most].tolist())
        heard = dict(features.of(split, numbers))
        frames = np.concatenate([heard[number] for number in numbers])
        scale = frames.std(0)
        scale[scale == 0.0] = 1.0  # a channel that never changes tells no frames apart
        sample = frames[random.permutation(len(frames))[:_SAMPLE]] / scale
        centroids, _ = kmeans2(sample, count, iter=_ROUNDS, minit="++", seed=random)
        return cls(scale, centroids)

    def of(self, frames: np.ndarray) -> np.ndarray:
        """The cluster of each frame: int, (frames,), of features (frames, C)."""
        units: np.ndarray = vq(frames / self.scale, self.centroids)[0]
        return units


def write_frame_units(
    folder: Path, features: FrameFeatures, splits: Sequence[str], clusters: int, seed: int
) -> None:
    """Write `SPLIT.km`, a line of units for each utterance, and `dict.km.txt` into `folder`.

    The clusters are those of the first split; their numbers mean nothing in another folder.

    Args:
        clusters: number of units.
        seed: as in `Clusters.find`.
    """
    found = Clusters.find(features, splits[0], clusters, seed)
    for name in splits:
        numbers = range(features.count(name))
        lines = {number: found.of(frames) for number, frames in features.of(name, numbers)}
        texts = (" ".join(map(str, lines[number])) for number in numbers)
        write_lines(folder / f"{name}.{UNITS}", texts)
    write_lines(folder / dictionary_name(UNITS), [f"{unit} 1" for unit in range(clusters)])


def check_frame_units(folder: Path, data: Path, splits: Sequence[str]) -> None:
    """Raise UserError unless the units in `folder` are those of the manifests in `data`.

    Each recording has to have one unit of the dictionary for each frame of its length.
    """
    known = set(read_dictionary(folder / dictionary_name(UNITS))[0])
    for name in splits:
        rows = read_rows(data / f"{name}.tsv")[1]
        lines = read_column(folder, name, UNITS, len(rows))
        for number, (line, (_, samples)) in enumerate(zip(lines, rows), start=1):
            units, frames = line.split(), frames_of(samples)
            place = f"{folder / name}.{UNITS} line {number}"
            if len(units) != frames:
                raise UserError(
                    f"{place} has {len(units)} units for a recording of {frames} frames; remove "
                    f"{folder} to have it made anew"
                )
            if strange := [unit for unit in units if unit not in known]:
                raise UserError(
                    f"{place} has the unit {strange[0]!r}, which {dictionary_name(UNITS)} lacks; "
                    f"remove {folder} to have it made anew"
                )


def frames_of(samples: int) -> int:
    """Frames of wav2vec 2.0's convolutions, 0 of a recording that is too short for one."""
    return max(0, (samples - SHORTEST) // (SAMPLE_RATE // UNIT_RATE) + 1)


def read_all(paths: Sequence[Path]) -> list[np.ndarray]:
    """Recordings as float32 (samples,) at 16 kHz; UserError for one that cannot be used."""
    return [_read(path) for path in paths]


def _read(path: Path) -> np.ndarray:
    try:
        return read_resampled(path)[0]
    except BadAudio as problem:
        raise UserError(f"{path} {problem}") from problem
