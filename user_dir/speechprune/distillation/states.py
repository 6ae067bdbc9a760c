"""The hidden states of a model while it runs, collected without changing what it does."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def collected(layers: nn.ModuleList, wanted: Collection[int]) -> Iterator[dict[int, Tensor]]:
    """Collect hidden states of the one forward pass that is made within.

    Nothing is computed again, also where activations are recomputed in the backward pass. A layer
    that layerdrop skips leaves the state as it was: hidden state i is then what entered the layers
    around it, as it is for the model itself.

    Args:
        layers: the L transformer layers. Those that run are called in order, with a state first,
            and return a state, or a tuple that begins with one.
        wanted: the numbers of the states, from 0 to L: state 0 is the input of layer 0, state i the
            output of layer i - 1.

    Yields:
        The states by number, in the layers' own shape, complete at the end of the block. There are
        none if no layer ran, as when layerdrop skips all.
    """
    collector = _Collector(wanted)
    handles = []
    for number, layer in enumerate(layers):
        handles.append(layer.register_forward_pre_hook(collector.entering(number)))
        handles.append(layer.register_forward_hook(collector.leaving(number)))
    try:
        yield collector.states
    finally:
        for handle in handles:
            handle.remove()
    collector.finish()


class _Collector:
    def __init__(self, wanted: Collection[int]) -> None:
        self.wanted = wanted
        self.states: dict[int, Tensor] = {}
        self.last: Tensor | None = None

    def reach(self, number: int, state: Tensor) -> None:
        """Keep a state by its number, and by those of the skipped layers before it."""
        self.last = state
        for each in self.wanted:
            if each <= number:
                self.states.setdefault(each, state)

    def finish(self) -> None:
        """Give the last state to the skipped layers after it."""
        if self.last is not None:
            self.reach(max(self.wanted, default=0), self.last)

    def entering(self, number: int) -> Any:
        def reach(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            self.reach(number, arguments[0])

        return reach

    def leaving(self, number: int) -> Any:
        def reach(layer: nn.Module, arguments: Any, output: Any) -> None:
            self.reach(number + 1, output if isinstance(output, Tensor) else output[0])

        return reach
