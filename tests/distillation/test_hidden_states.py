"""Hidden states are those that the layers were given and gave, and collecting changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from speechprune.distillation.states import collected

LAYERS = 4
ALL = range(LAYERS + 1)


class Layer(nn.Module):
    """Called as fairseq's are: (T, B, C) and options; it gives a tuple."""

    def __init__(self, recompute: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.recompute = recompute
        self.calls = 0

    def forward(self, state: Tensor, need_weights: bool = False) -> tuple[Tensor, Any]:
        if self.recompute:
            return checkpoint(self._run, state, use_reentrant=True), (None, None)
        return self._run(state), (None, None)

    def _run(self, state: Tensor) -> Tensor:
        self.calls += 1
        return torch.tanh(self.linear(state))


def stack(recompute: bool = False) -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList(Layer(recompute) for _ in range(LAYERS))


def run(layers: nn.ModuleList, state: Tensor, skipped: tuple[int, ...] = ()) -> list[Tensor]:
    """The state before each layer and at the end, as the encoder's own loop has them."""
    found = [state]
    for number, layer in enumerate(layers):
        if number not in skipped:
            state = layer(state, need_weights=False)[0]
        found.append(state)
    return found


def start() -> Tensor:
    return torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)


@pytest.mark.parametrize("skipped", [(), (0,), (3,), (1, 2), (0, 1, 3), (2, 3)])
def test_states_are_those_of_the_loop_with_layers_skipped_or_not(skipped: tuple[int, ...]) -> None:
    layers = stack()
    with collected(layers, ALL) as states:
        expected = run(layers, start(), skipped)
    assert sorted(states) == list(ALL)
    for number in ALL:
        assert torch.equal(states[number], expected[number]), number


def test_only_what_is_wanted_is_kept() -> None:
    layers = stack()
    with collected(layers, (1, 4)) as states:
        expected = run(layers, start())
    assert sorted(states) == [1, 4]
    assert states[1] is expected[1] and states[4] is expected[4]


def test_without_a_layer_there_are_no_states() -> None:
    with collected(stack(), ALL) as states:
        run(stack(), start(), tuple(range(LAYERS)))
    assert states == {}


@pytest.mark.parametrize("recompute", [False, True])
def test_collecting_adds_no_call_and_gradients_go_through(recompute: bool) -> None:
    plain, watched = stack(recompute), stack(recompute)
    sum(state.square().sum() for state in run(plain, start())).backward()
    with collected(watched, ALL) as states:
        run(watched, start())
    sum(state.square().sum() for state in states.values()).backward()
    for one, other in zip(plain, watched):
        assert one.calls == other.calls == 1 + recompute
        assert torch.equal(one.linear.weight.grad, other.linear.weight.grad)


def test_hooks_are_gone_afterwards_also_after_a_failure() -> None:
    layers = stack()
    with pytest.raises(RuntimeError, match="in the middle"):
        with collected(layers, ALL) as states:
            run(layers, start())
            raise RuntimeError("in the middle")
    before = dict(states)
    run(layers, 2 * start())
    assert states == before
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)
