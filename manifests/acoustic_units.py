"""Labels without a transcript: each frame's cluster of cepstra, to pretrain on.

Source: the first iteration of HuBERT (Hsu et al., IEEE/ACM TASLP 2021), k-means over MFCCs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.fft import dct

from speechprune.manifests.audio import SAMPLE_RATE
from speechprune.manifests.frame_units import UNIT_RATE, read_all, write_frame_units
from speechprune.manifests.processes import chunked, spread
from speechprune.manifests.progress import Progress, unwatched
from speechprune.manifests.rows import Row, read_rows

_WINDOW, _HOP, _FFT = 400, 160, 512  # samples
_HOPS_PER_UNIT = SAMPLE_RATE // (_HOP * UNIT_RATE)
_BANDS, _CEPSTRA = 40, 13
#: Hz; what telephones carry too, so that a narrow band does not make units of its own.
_LOWEST, _HIGHEST = 60.0, 3800.0
_DELTA_WEIGHT = 2.0  # differences vary less than what they are taken of
_CHUNK = 32  # utterances that a worker hears at a time


def write_units(
    folder: Path,
    splits: Sequence[str],
    clusters: int = 100,
    seed: int = 1,
    *,
    out: Path | None = None,
    workers: int | None = 1,
    progress: Progress = unwatched,
) -> None:
    """Write `SPLIT.km`, a line of units for each utterance, and `dict.km.txt`.

    The clusters are those of the first split; their numbers mean nothing in another folder.

    Args:
        folder: a manifest folder, whose labels are not read.
        splits: names of its splits.
        clusters: number of units.
        seed: of the frames sampled and of k-means.
        out: the folder to write to, by default the same.
        workers: processes that listen, None for one per core; the units are the same.
        progress: wraps the stream of utterances, each time that some are listened to.

    Raises:
        UserError: a manifest is missing or malformed, or a recording cannot be used.
    """
    features = Cepstra(folder, workers, progress)
    write_frame_units(out or folder, features, splits, clusters, seed)


class Cepstra:
    """The cepstra of the utterances in a manifest folder."""

    most = 4000

    def __init__(
        self, folder: Path, workers: int | None = 1, progress: Progress = unwatched
    ) -> None:
        self._folder, self._workers, self._progress = folder, workers, progress

    def count(self, split: str) -> int:
        return len(self._rows(split)[1])

    def of(self, split: str, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        root, rows = self._rows(split)
        chunks = chunked((Path(root, rows[number][0]) for number in numbers), _CHUNK)
        heard = (each for part in spread(_cepstra, chunks, self._workers) for each in part)
        yield from zip(numbers, self._progress(heard, len(numbers)))

    def _rows(self, split: str) -> tuple[str, list[Row]]:
        return read_rows(self._folder / f"{split}.tsv")


def cepstra_of(samples: np.ndarray) -> np.ndarray:
    """Mel-frequency cepstra and their differences in time, without the utterance's mean.

    Args:
        samples: (T,), float, at 16 kHz.

    Returns:
        float32, (frames, 26), 50 frames a second.
    """
    windows = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::_HOP]
    power = np.abs(np.fft.rfft(windows * np.hanning(_WINDOW), _FFT)) ** 2
    cepstra = dct(np.log(power @ _mel_filters().T + 1e-6), norm="ortho")[:, :_CEPSTRA]
    cepstra -= cepstra.mean(0)
    both = np.concatenate([cepstra, _DELTA_WEIGHT * np.gradient(cepstra, axis=0)], axis=1)
    return both[::_HOPS_PER_UNIT].astype(np.float32)


def _cepstra(paths: Sequence[Path]) -> list[np.ndarray]:
    return [cepstra_of(samples) for samples in read_all(paths)]


def _mel_filters() -> np.ndarray:
    """Triangles over the power spectrum, (bands, bins), evenly spaced in mel."""
    lowest, highest = (2595.0 * np.log10(1.0 + hertz / 700.0) for hertz in (_LOWEST, _HIGHEST))
    edges = 700.0 * (10.0 ** (np.linspace(lowest, highest, _BANDS + 2) / 2595.0) - 1.0)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bins = np.fft.rfftfreq(_FFT, 1.0 / SAMPLE_RATE)
    return np.maximum(
        0.0, np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
    )
