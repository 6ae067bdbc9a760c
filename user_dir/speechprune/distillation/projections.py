"""What a student's hidden states go through before they are compared with its teacher's."""

from __future__ import annotations

from torch import Tensor, nn


class Projections(nn.Module):
    """One linear layer for hidden state 0, and one that all other states share.

    Both begin as the identity. Source: DPHuBERT (Peng et al., Interspeech 2023).

    Args:
        channels: C, of the states.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _identity(channels)
        self.others = _identity(channels)

    def forward(self, number: int, state: Tensor) -> Tensor:
        """The student's state to compare with the teacher's state ``number``: (..., C) both, in the
        precision of the weights."""
        linear = self.first if number == 0 else self.others
        projected: Tensor = linear(state.to(linear.weight.dtype))
        return projected


def _identity(channels: int) -> nn.Linear:
    # Nothing is drawn: what is random elsewhere stays as it is without a teacher.
    linear: nn.Linear = nn.utils.skip_init(nn.Linear, channels, channels)
    nn.init.eye_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
