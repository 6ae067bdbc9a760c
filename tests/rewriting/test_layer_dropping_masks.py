"""Layers dropped from checkpoints with masks: which masks are left, and what the settings say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import refusal, rewrite
from kinds import Finetuned, model_settings, uneven_masks

from speechprune.masking.masked_site import masked_weight
from speechprune.models.loading import load_finetuned
from speechprune.models.mask_reading import read_checkpoint_masks
from speechprune.rewriting.layer_dropping import drop_layers
from speechprune.rewriting.masks import apply_masks

DROPPED = [1, 3]


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory: pytest.TempPathFactory) -> Finetuned:
    return Finetuned(tmp_path_factory.mktemp("finetuned"))


def moved(site: str) -> str | None:
    """What a site is called without DROPPED."""
    if "layers.1." in site or "layers.3." in site:
        return None
    return site.replace("layers.2.", "layers.1.")


@pytest.mark.parametrize("kind", ["st", "parp", "masked"])
def test_masks_stay_as_they_are(finetuned: Finetuned, tmp_path: Path, kind: str) -> None:
    path, out = finetuned(kind), tmp_path / "short.pt"
    drop_layers(path, DROPPED, out)
    before, after = read_checkpoint_masks(path), read_checkpoint_masks(out)
    expected = {moved(name): mask for name, mask in before.items() if moved(name)}
    assert set(after) == set(expected) and len(after) > 12
    assert all(torch.equal(mask, expected[name]) for name, mask in after.items())
    assert load_finetuned(out).density == pytest.approx(after.density)
    assert kind == "st" or abs(after.density - before.density) > 0.01, "the premise: uneven"


def test_a_folded_model_knows_how_dense_the_rest_is(finetuned: Finetuned, tmp_path: Path) -> None:
    """As one that is folded after its layers were dropped."""
    for kind in ("folded", "parp"):
        drop_layers(finetuned(kind), DROPPED, tmp_path / f"{kind}.pt")
    density = load_finetuned(tmp_path / "parp.pt").density
    assert load_finetuned(tmp_path / "folded.pt").density == pytest.approx(density)
    assert abs(density - load_finetuned(finetuned("folded")).density) > 0.01


def flags_after(path: Path, dropped: list[int], **flags: Any) -> dict[str, Any]:
    """The settings of a masked checkpoint that has lost layers, and loads."""
    copy, out = path.with_name("flags.pt"), path.with_name("short.pt")
    copy.write_bytes(path.read_bytes())
    rewrite(copy, lambda state: state["cfg"]["model"].update(flags))
    drop_layers(copy, dropped, out)
    load_finetuned(out)
    return model_settings(out)


def test_rates_of_layers_go_with_them(finetuned: Finetuned, tmp_path: Path) -> None:
    """Masks that a checkpoint lacks are chosen at the rate that their layer had."""
    rates = [0.2, 0.4, 0.6, 0.8]
    settings = flags_after(finetuned("s3router"), DROPPED, layerwise_prune_rate=rates)
    assert settings["layerwise_prune_rate"] == [0.2, 0.6]
    model: Any = load_finetuned(finetuned("s3router").with_name("short.pt")).model
    for site in model.mask_controller.sites:
        if site.layer is not None:
            share = masked_weight(site).mask.float().mean().item()
            assert share == pytest.approx([0.2, 0.6][site.layer], abs=1e-3), site.name
    assert flags_after(finetuned("st"), DROPPED)["layerwise_prune_rate"] == []


@pytest.mark.parametrize(
    ("before", "dropped", "after"),
    [(None, [0], None), (0, [0], 0), (1, [0], 0), (2, [0], 1), (3, [1, 3], 2), (4, [1, 3], 2)],
)
def test_settings_that_count_layers_count_those_that_are_left(
    finetuned: Finetuned, before: int | None, dropped: list[int], after: int | None
) -> None:
    flags = {"load_mask_only": True, "finetune_from_model": "gone.pt"}
    flags.update(fix_mask_before=before, load_mask_before=before)
    settings = flags_after(finetuned("st"), dropped, **flags)
    assert settings["fix_mask_before"] == after
    assert settings["load_mask_before"] == after


def test_settings_of_the_run_are_at_rest(finetuned: Finetuned) -> None:
    settings = flags_after(finetuned("st"), [0], drop_layers=[5, 6], layer_plan="plan.json")
    assert (settings["drop_layers"], settings["layer_plan"]) == ([], None)


UNEVEN = [0.9, 0.2, 0.6, 0.4]


@pytest.fixture
def uneven(finetuned: Finetuned, tmp_path: Path) -> Path:
    """A checkpoint with fixed masks: each layer has another density, and the rest is whole."""
    path = tmp_path / "fixed.pt"
    apply_masks(finetuned("st"), uneven_masks(finetuned("st"), UNEVEN, outside=1.0), path)
    return path


@pytest.mark.parametrize("rates", [[], [0.5, 0.6, 0.5, 0.5]])
def test_fixed_masks_of_uneven_density_load(uneven: Path, rates: list[float]) -> None:
    """Training is refused to settings that claim another density than their fixed masks have."""
    settings = flags_after(uneven, [1], layerwise_prune_rate=rates)
    density = read_checkpoint_masks(uneven.with_name("short.pt")).density
    assert settings["prune_rate"] == pytest.approx(density)
    assert settings["layerwise_prune_rate"] == []
    assert abs(density - model_settings(uneven)["prune_rate"]) > 0.01


def test_fixed_masks_that_are_as_claimed_leave_the_settings_alone(uneven: Path) -> None:
    settings = flags_after(uneven, [1], layerwise_prune_rate=UNEVEN)
    assert settings["layerwise_prune_rate"] == [0.9, 0.6, 0.4]
    assert settings["prune_rate"] == model_settings(uneven)["prune_rate"]


def test_flags_of_fixed_masks_that_a_model_does_not_read_are_left_alone(
    finetuned: Finetuned,
) -> None:
    settings = flags_after(finetuned("parp"), [0], fix_mask=True)
    assert settings["prune_rate"] == model_settings(finetuned("parp"))["prune_rate"]


def test_masks_that_are_fixed_below_a_layer_load(uneven: Path) -> None:
    lower = {"fix_mask": False, "fix_mask_before": 2, "prune_rate": 0.55}
    settings = flags_after(uneven, [1], **lower)
    assert settings["fix_mask_before"] == 1
    assert settings["layerwise_prune_rate"] == pytest.approx([0.9, 0.6, 0.4], abs=0.02)
    even = {"fix_mask": False, "fix_mask_before": 0}
    assert flags_after(uneven, [1], **even)["layerwise_prune_rate"] == []


def test_masks_that_keep_nothing_are_refused(finetuned: Finetuned, tmp_path: Path) -> None:
    path, out = tmp_path / "fixed.pt", tmp_path / "short.pt"
    apply_masks(finetuned("st"), uneven_masks(finetuned("st"), [0.0, 0.5, 0.5, 0.5]), path)
    lower = {"fix_mask": False, "fix_mask_before": 2, "prune_rate": 0.25}
    rewrite(path, lambda state: state["cfg"]["model"].update(lower))
    assert "keep nothing in the layers" in refusal(drop_layers, path, [1], out)
    assert not out.exists()
