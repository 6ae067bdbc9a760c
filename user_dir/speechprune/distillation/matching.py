"""Which hidden states of a teacher and of its student are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from speechprune.errors import UserError
from speechprune.layers.plan import LayerPlan


@dataclass(frozen=True)
class Stack:
    """The layers of a model.

    Attributes:
        layers: L, how many there are.
        lost: those that it has lost, by the numbers that they had at first; None if none are known.

    Raises UserError if the two disagree.
    """

    layers: int
    lost: LayerPlan | None = None

    def __post_init__(self) -> None:
        if self.lost is not None and len(self.lost.kept) != self.layers:
            raise UserError(
                f"a model of {self.layers} layers says that it has lost all but "
                f"{list(self.lost.kept)}; its record of lost layers is damaged"
            )

    @property
    def kept(self) -> tuple[int, ...]:
        """The numbers that its layers had at first."""
        return tuple(range(self.layers)) if self.lost is None else self.lost.kept

    @property
    def layers_at_first(self) -> int:
        """How many layers there were before any was lost."""
        return self.layers if self.lost is None else self.lost.layers


def default_states(layers: int) -> tuple[int, ...]:
    """The input of the first layer, the states after each third, and the last: 0, 4, 8 and 12 of 12
    layers, as in DPHuBERT; fewer where they coincide."""
    return tuple(sorted({_scaled(third, 3, layers) for third in range(4)}))


def matching_states(states: Sequence[int], teacher: Stack, student: Stack) -> tuple[int, ...]:
    """The hidden states of a student to compare with those of its teacher.

    Of models that were equally deep at first, these are the states after the same layers: where the
    student has lost one, the state after the last before it that was kept. Of other models, those
    at the same share of the depth.

    Args:
        states: of the teacher, from 0 to its number of layers.
    """
    if teacher.layers_at_first != student.layers_at_first:
        return tuple(_scaled(state, teacher.layers, student.layers) for state in states)
    ends = [0, *(layer + 1 for layer in teacher.kept)]
    return tuple(sum(layer < ends[state] for layer in student.kept) for state in states)


def _scaled(part: int, whole: int, size: int) -> int:
    """``part / whole`` of ``size`` as a whole number, halves rounded up."""
    return (2 * part * size + whole) // (2 * whole)
