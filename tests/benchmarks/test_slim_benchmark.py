"""What slim models are measured beside: predictions by hand, and models that lost what is said."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from benchmarks.recognisers import SMALL_ENCODER
from benchmarks.slim import main
from benchmarks.slim_models import DENSE, FAMILY, KEPT, Kept, cut, dense, write
from benchmarks.slim_speed import Parts, measure
from speechprune.models.loading import load_encoder

HALF = Fraction(1, 2)


def audio() -> Tensor:
    return torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("kept", "left"),
    [
        (Kept(), 100),
        (Kept(channels=HALF), 100 - 20),
        (Kept(channels=Fraction(1, 4)), 100 - 30),
        (Kept(heads=HALF), 100 - 10),
        (Kept(layers=HALF), 100 - 35),
        (Kept(HALF, HALF, HALF), 30 + (70 - 10 - 20) / 2),
    ],
)
def test_a_prediction_takes_away_the_time_of_what_is_gone(kept: Kept, left: float) -> None:
    """Of 100 ms layers take 70, in them attention 20 and the feed-forward block 40."""
    parts = Parts(attention=0.2, ffn=0.4, layers=0.7)
    assert parts.speed_up(kept) == pytest.approx(100 / left)


@pytest.mark.parametrize("name", KEPT)
def test_a_file_gives_the_model_that_was_built(tmp_path: Path, name: str) -> None:
    kept, path = KEPT[name], tmp_path / "model.pt"
    model = cut(dense(SMALL_ENCODER), kept)
    write(model, path)
    loaded = load_encoder(path)
    units = FAMILY.units(loaded)
    assert len(units) == 6 * kept.layers
    assert {(u.heads, u.channels) for u in units} == {(4 * kept.heads, 64 * kept.channels)}
    own, theirs = (FAMILY.features(each, audio(), None)[0] for each in (model, loaded))
    assert torch.equal(own, theirs)


def test_parts_are_of_the_whole_and_leave_no_hooks() -> None:
    whole = dense(SMALL_ENCODER)
    models = {name: cut(whole, KEPT[name]) for name in (DENSE, "FFN half")}
    parts, speeds = measure(models, KEPT, audio(), repeats=2)
    assert 0 < parts.attention and 0 < parts.ffn
    assert parts.attention + parts.ffn < parts.layers < 1
    assert speeds[DENSE].speed_up == speeds[DENSE].predicted == 1
    assert speeds["FFN half"].predicted == pytest.approx(1 / (1 - parts.ffn / 2))
    hooks = [m._forward_hooks or m._forward_pre_hooks for m in models[DENSE].encoder.modules()]
    assert sum(map(len, hooks)) == 1  # that of weight norm


@pytest.mark.parametrize("option", [["--precision", "fp16"], ["--batch", "0"]])
def test_what_cannot_be_measured_is_refused(option: list[str]) -> None:
    result = CliRunner().invoke(main, ["--device", "cpu", *option])
    assert result.exit_code == 2
