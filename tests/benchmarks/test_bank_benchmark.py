"""Parts of the benchmark of banks, on a small model: it measures the bank that it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmarks import bank as benchmark
from benchmarks.bank import KINDS, Masks, main, make, show_bytes, switches
from benchmarks.harness import Report
from benchmarks.recognisers import SMALL_ENCODER
from benchmarks.slim_models import FAMILY, dense
from speechprune.masking.overlap import overlap


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_masks_have_the_density_and_are_as_alike_as_is_said(kind: Masks) -> None:
    model = dense(SMALL_ENCODER)
    first, second, third = kind.of_tasks(model, 3)
    assert set(first) == {site.name for site in FAMILY.sites(model, kind.roles)}
    differing = kind.redrawn * 2 * kind.density * (1 - kind.density)
    for masks in (second, third):
        assert masks.density == pytest.approx(kind.density, abs=0.01)
        both = overlap(first, masks)
        # |A and B| of masks of which a share was drawn anew.
        assert both.cosine == pytest.approx(1 - differing / (2 * kind.density), abs=0.01)


def test_a_bank_switches_among_the_tasks_that_it_says(tmp_path: Path) -> None:
    model = dense(SMALL_ENCODER)
    bank = make(tmp_path, KINDS[0], model, 3)
    assert bank.names == ["task0", "task1", "task2"]
    expected = list(KINDS[0].of_tasks(model, 3))
    assert [bank.masks(name) for name in bank.names] == expected
    weights = dense(SMALL_ENCODER)
    taken = switches(bank, weights, "cpu", 7)
    assert len(taken) == 7 and min(taken) > 0
    site = next(iter(expected[0]))
    left = weights.state_dict()[site] != 0
    assert any(torch.equal(left, masks[site]) for masks in expected)


def test_rows_of_bytes_are_those_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "KINDS", [replace(KINDS[1], name="one"), KINDS[3]])
    report = Report()
    banks = show_bytes(report, tmp_path, dense(SMALL_ENCODER))
    assert list(banks) == ["one", KINDS[3].name]
    rows = {line[:20].rstrip(): line for line in report.lines}
    for name, bank in banks.items():
        sizes = [bank.sizes(task).masks for task in bank.names]
        bound = bank.task("task0").entropy_bytes
        assert f"{sizes[0] / 1e6:.2f} MB" in rows[name]
        assert rows[name].endswith(f"{sizes[0] / bound:.3f}")
    alike = banks[KINDS[3].name]
    assert alike.sizes("task1").masks < alike.sizes("task0").masks


@pytest.mark.parametrize("option", [["--switches", "x"], ["--device", "abacus"]])
def test_what_it_cannot_measure_is_refused(option: list[str]) -> None:
    assert CliRunner().invoke(main, option).exit_code == 2
