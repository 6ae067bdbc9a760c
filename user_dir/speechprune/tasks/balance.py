"""Which recordings an epoch draws, so that each class comes equally often."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def balanced_order(classes: np.ndarray, seed: Sequence[int]) -> np.ndarray:
    """As many recordings as there are, each class equally often but for one, in random order.

    Within a class, a recording is drawn again only when all others were drawn as often. A class
    without a recording has no share.

    Args:
        classes: of each recording, int (N,).
        seed: of numpy's generator.

    Returns:
        int64 (N,): numbers of recordings.
    """
    random = np.random.default_rng(seed)
    present = np.unique(classes)
    shares = np.full(len(present), len(classes) // len(present))
    # Those that come once more than others are chosen anew each time.
    shares[random.permutation(len(present))[: len(classes) % len(present)]] += 1
    drawn = []
    for one, share in zip(present, shares):
        members = np.flatnonzero(classes == one)
        rounds = [random.permutation(members) for _ in range(-(-share // len(members)))]
        drawn.append(np.concatenate([members[:0], *rounds])[:share])
    return random.permutation(np.concatenate(drawn))
