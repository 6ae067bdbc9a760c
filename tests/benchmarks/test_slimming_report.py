"""What smaller models of one size are compared by: how much goes, and the table and figure."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.slimming_figure import Point, draw, side_by_side
from benchmarks.slimming_report import Measured, spread, write_report
from benchmarks.slimming_work import size_without_layers
from speechprune.backbones import find_backbone
from speechprune.checksums import write_json
from speechprune.models.loading import load_encoder
from speechprune.recipes.nano import ASSET
from speechprune.slimming.plan import KeptUnits


def test_shares_leave_as_many_parameters_as_dropped_layers() -> None:
    size = size_without_layers(ASSET, 2)
    encoder = load_encoder(ASSET)
    family = find_backbone(encoder)
    units = family.units(encoder)
    kept = [
        KeptUnits.all(
            round((1 - size.heads) * each.heads), round((1 - size.channels) * each.channels)
        )
        for each in units
    ]
    family.slim(encoder, kept)
    left = sum(parameter.numel() for parameter in encoder.parameters())
    one_channel_each = len(units) * units[0].parameters_of_channel
    assert abs(left - size.kept) <= one_channel_each / 2


def test_parp_keeps_as_many_parameters_as_dropped_layers() -> None:
    size = size_without_layers(ASSET, 2)
    encoder = load_encoder(ASSET)
    of_layers = 0
    for layer in find_backbone(encoder).layers(encoder):
        of_norms = sum(
            parameter.numel() for name, parameter in layer.named_parameters() if "norm" in name
        )
        of_layers += sum(parameter.numel() for parameter in layer.parameters()) - of_norms
    assert size.whole - size.sparsity * of_layers == pytest.approx(size.kept)


def test_several_values_are_told_from_the_smallest_to_the_largest() -> None:
    assert spread([3.0, 1.04, 2.0]) == "1.0/2.0/3.0"
    assert spread([2.0]) == "2.0"
    assert spread([]) == "-"


def test_methods_of_one_size_do_not_hide_each_other() -> None:
    sizes = {"dense": 1.8, "a": 1.19, "b": 1.19, "c": 1.18}
    places, together = side_by_side({name: Point([x], [10.0]) for name, x in sizes.items()})
    assert places["dense"] == 1.8
    assert together == pytest.approx(1.19)
    assert places["a"] < places["b"] < places["c"] < 1.8
    assert (places["a"] + places["c"]) / 2 == pytest.approx(1.19)


def _model(wer: float, parameters: int) -> dict[str, object]:
    return {
        "wer": wer,
        "cer": wer / 2,
        "parameters": parameters,
        "multiply_adds": 10**9,
        "bytes": 4 * parameters,
        "units": [[4, 640]],
    }


def test_the_table_is_made_of_what_there_is(tmp_path: Path) -> None:
    """Of one method one seed is missing, another has not been measured at all."""
    measured = Measured(tmp_path / "measured", ("dense", "slim, by gates", "PARP"))
    facts = {"seeds": [1, 2], "dense_updates": 400, "updates": 250, "dropped": 2}
    size = {"whole": 2_000_000, "kept": 1_000_000, "heads": 0.5, "channels": 0.4, "sparsity": 0.4}
    measured.folder.mkdir()
    write_json(measured.facts, {**facts, **size})
    for seed, wer in ((1, 0.1), (2, 0.3)):
        write_json(measured.model("dense", seed, "after"), _model(wer, 2_000_000))
    write_json(measured.model("slim, by gates", 2, "after"), _model(0.5, 1_000_000))
    seconds = {"dense": 0.010, "slim, by gates": 0.005}
    write_json(measured.speed(2), {"machine": "a machine", "seconds": seconds})
    write_report(measured, tmp_path)
    lines = (tmp_path / "slimming_digits.txt").read_text().splitlines()
    rows = [line.split() for line in lines if line.startswith(("dense", "slim,"))]
    assert rows[0][1:5] == ["-", "-", "10.0/20.0/30.0", "5.0/10.0/15.0"]
    assert rows[0][5:] == ["2.000", "M", "1.000", "G", "8.0", "10.00", "1.00"]
    assert rows[1][3:] == [*"--", "50.0", "25.0", "1.000", "M", "1.000", "G", "4.0", "5.00", "2.00"]
    assert not any(line.startswith("PARP") for line in lines)
    assert (tmp_path / "slimming_digits.png").stat().st_size > 0


def test_intervals_end_at_the_smallest_and_the_largest_value(tmp_path: Path) -> None:
    """The figure of other seeds with the same three values is the same file; of others, not."""
    places = {"dense": Point([2.0], [50.0])}
    for name, errors in (("a", [10, 20, 30]), ("b", [30, 10, 20]), ("c", [10, 20, 31])):
        draw({**places, "slim": Point([1.0], errors)}, places, tmp_path / f"{name}.png")
    drawn = {name: (tmp_path / f"{name}.png").read_bytes() for name in "abc"}
    assert drawn["a"] == drawn["b"] != drawn["c"]
