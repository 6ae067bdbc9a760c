"""Which frames say which symbols: the best of all CTC paths that say the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def aligned(emissions: np.ndarray, tokens: Sequence[int], blank: int) -> list[tuple[int, int]]:
    """The frames of each token on the most probable path that says just these tokens.

    Source: the Viterbi form of the forward recursion in Graves et al., "Connectionist temporal
    classification", ICML 2006, equations 6 and 7. Of equally probable paths, the one that stays
    longest in the later states is taken.

    Args:
        emissions: float32 (T, V).
        tokens: numbers of symbols, neither repetitions of one sound nor blanks.
        blank: the number of the blank.

    Returns:
        The first frame of each token and the one after its last.

    Raises:
        ValueError: T frames cannot say so many tokens.
    """
    if not tokens:
        return []
    states = np.full(2 * len(tokens) + 1, blank)
    states[1::2] = tokens
    # A token may follow another one without a blank, if it is not the same.
    may_skip = np.zeros(len(states), dtype=bool)
    may_skip[3::2] = states[3::2] != states[1:-2:2]
    costs = emissions[:, states].astype(np.float64)
    steps = np.zeros(costs.shape, dtype=np.int8)
    best = np.full(len(states), -np.inf)
    best[:2] = costs[0, :2]
    for frame in range(1, len(costs)):
        came = np.full((3, len(states)), -np.inf)
        came[0] = best
        came[1, 1:] = best[:-1]
        came[2, 2:] = np.where(may_skip[2:], best[:-2], -np.inf)
        steps[frame] = came.argmax(axis=0)
        best = came.max(axis=0) + costs[frame]
    state = len(states) - 1 if best[-1] >= best[-2] else len(states) - 2
    if not np.isfinite(best[state]):
        raise ValueError(f"{len(costs)} frames cannot say {len(tokens)} tokens")
    return _spans(steps, state, len(tokens))


def _spans(steps: np.ndarray, state: int, tokens: int) -> list[tuple[int, int]]:
    """The frames of each token on the path that ends in ``state``.

    Args:
        steps: how many states were gone forward into each, int8 (T, states).
    """
    first, last = [0] * tokens, [0] * tokens
    token_before = -1
    for frame in range(len(steps) - 1, -1, -1):
        if state % 2:
            token = state // 2
            if token != token_before:
                last[token] = frame + 1
            first[token] = frame
            token_before = token
        state -= int(steps[frame, state])
    return list(zip(first, last))
