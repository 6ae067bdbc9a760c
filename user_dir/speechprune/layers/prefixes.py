"""Several plans in one pass: layers that plans begin with alike are computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Callable, TypeVar

State = TypeVar("State")

#: The kept layers of a plan, ascending.
Kept = tuple[int, ...]


def passes(kept: Sequence[Kept]) -> int:
    """Layers that `walk` computes."""
    ordered = sorted(kept)
    pairs = zip([(), *ordered], ordered)
    return sum(len(layers) - _shared(before, layers) for before, layers in pairs)


def walk(
    kept: Sequence[Kept], state: State, apply: Callable[[int, State], State]
) -> Iterator[tuple[int, State]]:
    """The final state of each plan, with its place in ``kept``.

    Plans are walked in the order of their layers, that is depth first through their trie: at any
    time one state for each layer of one plan is held, however many plans there are.

    Args:
        state: before the first layer.
        apply: layer and state before it to the state after it.
    """
    states = [state]
    before: Kept = ()
    for place in sorted(range(len(kept)), key=kept.__getitem__):
        shared = _shared(before, kept[place])
        del states[shared + 1 :]
        for layer in kept[place][shared:]:
            states.append(apply(layer, states[-1]))
        before = kept[place]
        yield place, states[-1]


def _shared(first: Kept, second: Kept) -> int:
    """How many layers both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second)))
