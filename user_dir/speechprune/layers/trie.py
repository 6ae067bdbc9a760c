"""Several plans in one pass: layers that plans begin with alike are computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Callable, TypeVar

State = TypeVar("State")


@dataclass
class Node:
    """What plans have in common up to a layer.

    Attributes:
        plans: those that end here, by their place in the sequence that the trie was made of.
        children: what follows, by layer.
    """

    plans: list[int] = field(default_factory=list)
    children: dict[int, Node] = field(default_factory=dict)

    @property
    def passes(self) -> int:
        """Layers to compute below this node."""
        return sum(1 + child.passes for child in self.children.values())


def trie(kept: Sequence[tuple[int, ...]]) -> Node:
    """The trie of sequences of kept layers."""
    root = Node()
    for number, layers in enumerate(kept):
        node = root
        for layer in layers:
            node = node.children.setdefault(layer, Node())
        node.plans.append(number)
    return root


def walk(
    node: Node, state: State, apply: Callable[[int, State], State]
) -> Iterator[tuple[int, State]]:
    """The final state of each plan, with its number.

    At any time one state for each layer of a path is held, however many plans there are.

    Args:
        state: before the layers below ``node``.
        apply: layer and state before it to the state after it.
    """
    for plan in node.plans:
        yield plan, state
    for layer, child in sorted(node.children.items()):
        yield from walk(child, apply(layer, state), apply)
