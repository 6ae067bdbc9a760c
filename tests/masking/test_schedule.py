"""Densities over time."""

from __future__ import annotations

import pytest
from torch import nn

from speechprune.errors import UserError
from speechprune.masking.schedule import ProgressiveSchedule
from speechprune.masking.sites import Site, with_biases

SITE = Site("fc.weight", "ffn.in", 0, nn.Linear(2, 3), "weight")


def test_linear() -> None:
    schedule = ProgressiveSchedule(1.0, 0.2, begin=10, end=50, shape="linear")
    found = [schedule.density(SITE, update) for update in (0, 10, 20, 30, 40, 50, 99)]
    assert found == pytest.approx([1.0, 1.0, 0.8, 0.6, 0.4, 0.2, 0.2])


def test_cubic() -> None:
    """s_t = s_f + (s_i - s_f) (1 - t)^3, equation 1 of arXiv 1710.01878."""
    schedule = ProgressiveSchedule(0.9, 0.1, begin=0, end=100)
    for update in (0, 1, 25, 50, 99, 100):
        sparsity = 0.9 + (0.1 - 0.9) * (1 - update / 100) ** 3
        assert schedule.density(SITE, update) == pytest.approx(1 - sparsity)
    assert schedule.density(SITE, 100) == schedule.density(SITE, 10**6) == 0.1


def test_the_end_is_exact() -> None:
    """Whatever the rounding on the way."""
    for target in (0.1, 0.3, 1 - 0.9, 1 / 3):
        assert ProgressiveSchedule(1.0, target, 3, 10).density(SITE, 10) == target


@pytest.mark.parametrize(
    "settings, message",
    [
        ((0.5, 0.6, 0, 10), "removes more and more"),
        ((1.1, 0.6, 0, 10), "must lie in"),
        ((0.5, 0.0, 0, 10), "must lie in"),
        ((0.5, 0.4, 10, 10), "cannot end at 10"),
        ((0.5, 0.4, 0, 10, "cubc"), "did you mean 'cubic'"),
    ],
)
def test_refused(settings: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ProgressiveSchedule(*settings)


def test_biases_follow_their_weights() -> None:
    without = nn.Linear(2, 3, bias=False)
    sites = [
        SITE,
        Site("conv.weight", "front.conv", None, without, "weight"),
        Site("pos.weight_v", "pos.conv", None, nn.Conv1d(2, 3, 1), "weight_v"),
    ]
    found = with_biases(sites)
    names = ["fc.weight", "fc.bias", "conv.weight", "pos.weight_v"]
    assert [site.name for site in found] == names
    assert (found[1].role, found[1].layer, found[1].tensor) == ("ffn.in", 0, "bias")
    assert getattr(found[1].module, found[1].tensor) is SITE.module.bias
