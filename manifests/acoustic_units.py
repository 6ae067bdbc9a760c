"""Labels without a transcript: each frame's cluster of cepstra, to pretrain on.

Source: the first iteration of HuBERT (Hsu et al., IEEE/ACM TASLP 2021), k-means over MFCCs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import numpy as np
from scipy.cluster.vq import kmeans2, vq
from scipy.fft import dct

from speechprune.errors import UserError
from speechprune.manifests.audio import SAMPLE_RATE, read_resampled
from speechprune.manifests.lines import write_lines
from speechprune.manifests.manifest import Split, read_split
from speechprune.manifests.recording import BadAudio

UNITS = "km"
UNIT_RATE = 50
"""Units per second: one for each frame of wav2vec 2.0's convolutions."""

_WINDOW, _HOP, _FFT = 400, 160, 512  # samples
_HOPS_PER_UNIT = SAMPLE_RATE // (_HOP * UNIT_RATE)
_BANDS, _CEPSTRA = 40, 13
#: Hz; what telephones carry too, so that a narrow band does not make units of its own.
_LOWEST, _HIGHEST = 60.0, 3800.0
_DELTA_WEIGHT = 2.0  # differences vary less than what they are taken of
_SAMPLE = 40_000  # frames that the clusters are found on


def write_units(folder: Path, splits: Sequence[str], clusters: int = 100, seed: int = 1) -> None:
    """Write `SPLIT.km`, a line of units for each utterance, and `dict.km.txt` into `folder`.

    The clusters are those of the first split; their numbers mean nothing in another folder.

    Args:
        folder: a manifest folder.
        splits: names of its splits.
        clusters: number of units.
        seed: of the frames sampled and of k-means.

    Raises:
        UserError: as `manifest.read_split` does, or a recording cannot be used.
    """
    features = {name: _split_features(read_split(folder, name)) for name in splits}
    frames = np.concatenate(features[splits[0]])
    scale = frames.std(0)
    random = np.random.default_rng(seed)
    sample = frames[random.permutation(len(frames))[:_SAMPLE]] / scale
    centroids, _ = kmeans2(sample, clusters, iter=30, minit="++", seed=random)
    for name, utterances in features.items():
        units = [vq(cepstra / scale, centroids)[0] for cepstra in utterances]
        write_lines(folder / f"{name}.{UNITS}", [" ".join(map(str, line)) for line in units])
    write_lines(folder / f"dict.{UNITS}.txt", [f"{unit} 1" for unit in range(clusters)])


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


def _split_features(split: Split) -> list[np.ndarray]:
    return [cepstra_of(_read(split.root / utterance.path)) for utterance in split.utterances]


def _read(path: Path) -> np.ndarray:
    try:
        return read_resampled(path)[0]
    except BadAudio as problem:
        raise UserError(f"{path} {problem}") from problem


def _mel_filters() -> np.ndarray:
    """Triangles over the power spectrum, (bands, bins), evenly spaced in mel."""
    lowest, highest = (2595.0 * np.log10(1.0 + hertz / 700.0) for hertz in (_LOWEST, _HIGHEST))
    edges = 700.0 * (10.0 ** (np.linspace(lowest, highest, _BANDS + 2) / 2595.0) - 1.0)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bins = np.fft.rfftfreq(_FFT, 1.0 / SAMPLE_RATE)
    return np.maximum(
        0.0, np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
    )
