"""What slimming removes: the heads and feed-forward channels of a transformer layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from speechprune.errors import UserError

#: The two kinds of units, as options and reports call them.
KINDS = ("heads", "channels")


@dataclass(frozen=True)
class LayerUnits:
    """The modules of one layer that its units live in.

    Shapes: C channels of the residual stream, H heads of D channels each, F feed-forward channels.

    Attributes:
        layer: 0-based.
        query, key, value: linear layers of weights (H * D, C); head h owns the rows from h * D to
            (h + 1) * D.
        out: a linear layer of a weight (C, H * D), with the heads' columns in the same order.
        first, second: the linear layers of the feed-forward block, of weights (F, C) and (C, F).
        heads: H.
        head_size: D.
        activation: between the two.
    """

    layer: int
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    out: nn.Linear
    first: nn.Linear
    second: nn.Linear
    heads: int
    head_size: int
    activation: Callable[[Tensor], Tensor]

    @property
    def channels(self) -> int:
        """F."""
        return int(self.second.in_features)

    def count(self, kind: str) -> int:
        """How many units of a kind, of `KINDS`, there are."""
        return self.heads if kind == "heads" else self.channels

    def parameters_of(self, heads: int, channels: int) -> int:
        """Weights and biases that so many heads and channels have."""
        return heads * self.parameters_of_head + channels * self.parameters_of_channel

    @property
    def parameters_of_head(self) -> int:
        """Weights and biases that go with one head: the bias of ``out`` stays."""
        rows = sum(
            linear.in_features + (linear.bias is not None)
            for linear in (self.query, self.key, self.value)
        )
        return self.head_size * (rows + self.out.out_features)

    @property
    def parameters_of_channel(self) -> int:
        """Weights and biases that go with one channel: the bias of ``second`` stays."""
        return int(
            self.first.in_features + (self.first.bias is not None) + self.second.out_features
        )


def numbers_of(chosen: Tensor) -> tuple[int, ...]:
    """The numbers of the units that are True in ``chosen``, bool (N,), ascending."""
    return tuple(chosen.nonzero().flatten().tolist())


def check_multiple(multiple_of: int) -> None:
    """Raise UserError unless numbers of channels can be rounded to a multiple of it."""
    if multiple_of < 1:
        raise UserError(
            f"a number of channels cannot be a multiple of {multiple_of}; give 1 or more"
        )


def rounded_up(count: int, multiple_of: int, most: int) -> int:
    """``count`` as the next multiple, or ``most`` if that is less."""
    return min(-(-count // multiple_of) * multiple_of, most)
