"""`speechprune masks`: every subcommand on checkpoints as fairseq saves them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import checkpoint_utils
from mask_files import ENCODER, MASKED, Files, run, succeed
from nano import write_data2vec, write_finetuned
from states import masks as masks_in
from torch import Tensor

from speechprune.checkpoint import read, write
from speechprune.masking.mask_set import MaskSet
from speechprune.models.loading import load_finetuned
from speechprune.reports.masks import short_names


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("masks"))


def unpacked(path: Path) -> dict[str, Tensor]:
    """The masks of a checkpoint by site, unpacked by the tests' own code: bool, (entries,)."""
    found = masks_in(read(path)["model"])
    return {key[len(ENCODER) :]: torch.from_numpy(mask) for key, mask in found.items()}


def logits(model: torch.nn.Module) -> Tensor:
    source = torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.eval()(source=source, padding_mask=None)["encoder_out"]


def masked_by_hand(path: Path, masks: MaskSet) -> torch.nn.Module:
    """A plain model whose weights were multiplied with masks."""
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(path)])
    for site, mask in masks.items():
        owner = model.get_submodule((ENCODER + site).rpartition(".")[0])
        if hasattr(owner, "weight_v"):
            torch.nn.utils.remove_weight_norm(owner)
        owner.weight.data *= mask
    return model


def test_stats_are_those_of_the_masks(files: Files, tmp_path: Path) -> None:
    exported = tmp_path / "masks.safetensors"
    succeed("export", files.spanish, exported)
    expected = unpacked(files.spanish)
    for path in (files.spanish, exported):
        found = json.loads(succeed("stats", path, "--json"))
        kept, weights = (sum(map(f, expected.values())) for f in (torch.sum, torch.numel))
        assert (found["kept"], found["weights"]) == (kept, weights)
        assert found["density"] == pytest.approx(kept.item() / weights)
        assert found["bytes"] == weights / 8
        assert set(found["densities"]) == set(expected)
        assert set(found["layers"]) == {"0", "1"}
        assert set(found["roles"]) == {"fc1", "fc2", "post_extract_proj"}
        lines = succeed("stats", path).splitlines()
        assert f"{found['density']:.4f}" in lines[0]
        rows = [line.split()[0] for line in lines[2:7]]
        assert rows == ["density", "layer", "layer", "post_extract_proj", "all"]


def test_export_writes_masks_with_their_provenance(files: Files, tmp_path: Path) -> None:
    exported = tmp_path / "masks.safetensors"
    assert "5 masks, density 0.7" in succeed("export", files.spanish, exported)
    masks = MaskSet.load(exported)
    expected = unpacked(files.spanish)
    assert set(masks) == set(expected)
    assert all(torch.equal(masks[site].flatten(), mask) for site, mask in expected.items())
    digest = hashlib.sha256(files.spanish.read_bytes()).hexdigest()
    assert masks.provenance["checkpoint"] == f"sha256:{digest}"
    assert masks.provenance["backbone"] == "wav2vec2"
    assert masks.provenance["pretrained"] == "pretrained.pt"
    assert masks.provenance["settings"] == "prune_rate=0.7 trainable_proj=true fix_attn=true"


@pytest.mark.parametrize("kind, dimension", [("linear_st_outstr", 1), ("linear_st_instr", 0)])
def test_masks_of_rows_and_columns_are_exported_in_full(
    files: Files, tmp_path: Path, kind: str, dimension: int
) -> None:
    path = files.finetuned(kind, {**MASKED, "linear_st_op": kind})
    exported, applied = tmp_path / "masks.safetensors", tmp_path / "applied.pt"
    succeed("export", path, exported)
    masks = MaskSet.load(exported)
    assert masks.shapes["encoder.layers.0.fc1.weight"] == (64, 32)
    for mask in masks.values():
        assert torch.equal(mask.any(dimension), mask.all(dimension))
    succeed("apply", path, exported, applied)
    assert torch.equal(logits(load_finetuned(applied).model), logits(load_finetuned(path).model))


def test_scores_without_masks_are_what_s3router_saves(files: Files, tmp_path: Path) -> None:
    state = read(files.spanish)
    state["model"] = {k: v for k, v in state["model"].items() if not k.endswith("_mask")}
    path = tmp_path / "s3router.pt"
    write(state, path)
    succeed("export", path, tmp_path / "a.safetensors")
    succeed("export", files.spanish, tmp_path / "b.safetensors")
    assert MaskSet.load(tmp_path / "a.safetensors") == MaskSet.load(tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"fix_attn": False},
        {"fix_attn": False, "fix_fc": True},
        {"no_prune_extractor": False, "no_prune_pos": False, "no_prune_post_extract_proj": True},
    ],
)
def test_masks_on_a_plain_checkpoint_are_a_product(
    files: Files, tmp_path: Path, flags: dict[str, bool]
) -> None:
    source = files.finetuned("source", {**MASKED, **flags}, seed=3)
    exported, applied = tmp_path / "masks.safetensors", tmp_path / "applied.pt"
    succeed("export", source, exported)
    succeed("apply", files.plain, exported, applied)
    masks = MaskSet.load(exported)
    loaded = load_finetuned(applied)
    assert loaded.model.mask_controller.mask_set() == masks
    assert loaded.density == pytest.approx(masks.density)
    assert torch.equal(logits(loaded.model), logits(masked_by_hand(files.plain, masks)))


def test_the_head_can_have_a_mask(files: Files, tmp_path: Path) -> None:
    source = files.finetuned("head", {**MASKED, "no_prune_proj": False})
    exported, applied = tmp_path / "masks.safetensors", tmp_path / "applied.pt"
    succeed("export", source, exported)
    succeed("apply", files.plain, exported, applied)
    head = MaskSet.load(exported)["proj.weight"]
    assert torch.equal(load_finetuned(applied).model.w2v_encoder.proj.weight != 0, head)


def test_masks_take_the_place_of_others(files: Files, tmp_path: Path) -> None:
    applied = tmp_path / "applied.pt"
    succeed("apply", files.spanish, files.french, applied)
    before, after = read(files.spanish), read(applied)
    french = MaskSet(
        {site: mask.reshape(_shape(before, site)) for site, mask in unpacked(files.french).items()}
    )
    loaded = load_finetuned(applied)
    loaded.model.train()
    for update in (1, 2):
        loaded.model.set_num_updates(update)
        assert loaded.model.mask_controller.mask_set() == french
    assert json.loads(succeed("stats", applied, "--json"))["kept"] == french.tally.kept
    assert not any("scores" in key for key in after["model"])
    for key, tensor in after["model"].items():
        if not key.endswith("_mask"):
            assert torch.equal(tensor, before["model"][key])
    model = after["cfg"]["model"]
    assert (model["fix_mask"], model["trainable_proj"]) == (True, True)
    assert after["last_optimizer_state"] is None
    assert after["speechprune"]["masks"]["checkpoint"].startswith("sha256:")


def _shape(state: dict[str, Any], site: str) -> torch.Size:
    return state["model"][ENCODER + site].shape


def test_masks_fit_another_kind_of_backbone_with_the_same_sites(
    files: Files, tmp_path: Path
) -> None:
    """The sites decide: data2vec's layers are named as wav2vec 2.0's."""
    pretrained = write_data2vec(tmp_path / "data2vec.pt")
    plain = write_finetuned(tmp_path / "plain.pt", pretrained, files.data)
    succeed("apply", plain, files.spanish, tmp_path / "applied.pt")
    masked = load_finetuned(tmp_path / "applied.pt").model
    assert masked.mask_controller.stats()["density"] == pytest.approx(0.7, abs=1e-3)


def test_folding_multiplies_and_leaves_a_plain_checkpoint(files: Files, tmp_path: Path) -> None:
    folded = tmp_path / "folded.pt"
    succeed("fold", files.spanish, folded)
    before, after = read(files.spanish)["model"], read(folded)["model"]
    assert set(after) == set(read(files.plain)["model"])
    for site, mask in unpacked(files.spanish).items():
        expected = before[ENCODER + site] * mask.reshape(before[ENCODER + site].shape)
        assert torch.equal(after[ENCODER + site], expected)
    assert "holds no masks" in run("stats", folded).stderr
    succeed("apply", folded, files.spanish, tmp_path / "again.pt")
    again = load_finetuned(tmp_path / "again.pt").model
    assert torch.equal(logits(again), logits(load_finetuned(files.spanish).model))


def test_two_masks_are_compared_as_a_whole_and_in_parts(files: Files, tmp_path: Path) -> None:
    exported = tmp_path / "french.safetensors"
    succeed("export", files.french, exported)
    found = json.loads(succeed("compare", files.spanish, exported, "--json"))
    first, second = unpacked(files.spanish), unpacked(files.french)
    a, b = (torch.cat([masks[site] for site in first]) for masks in (first, second))
    densities = [a.double().mean().item(), b.double().mean().item()]
    (pair,) = found["pairs"]
    both, either = (a & b).sum().item(), (a | b).sum().item()
    assert pair["iou"] == pytest.approx(both / either)
    assert pair["cosine"] == pytest.approx(torch.cosine_similarity(a.double(), b.double(), 0))
    product = densities[0] * densities[1]
    assert pair["iou_by_chance"] == pytest.approx(product / (sum(densities) - product))
    assert pair["cosine_by_chance"] == pytest.approx(product**0.5)
    assert [m["density"] for m in found["masks"]] == pytest.approx(densities)
    assert set(found["sites"]) == set(first)
    text = succeed("compare", files.spanish, exported)
    last = text.splitlines()[-1].split()
    assert last[0] == "all"
    assert [float(value) for value in last[1:]] == pytest.approx(
        [pair[key] for key in ("iou", "iou_by_chance", "cosine", "cosine_by_chance")], abs=1e-4
    )


def test_more_masks_are_compared_pair_by_pair_and_drawn(files: Files, tmp_path: Path) -> None:
    german = files.finetuned("german", MASKED, seed=4)
    picture = tmp_path / "map.png"
    paths = (files.spanish, files.french, german)
    text = succeed("compare", *paths, "--heat-map", picture, "--measure", "cosine")
    pairs = [line.split("  ")[0] for line in text.splitlines()[-3:]]
    assert pairs == ["spanish, french", "spanish, german", "french, german"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert len(json.loads(succeed("compare", *paths, "--json"))["pairs"]) == 3
    one = succeed("compare", files.spanish, files.spanish).splitlines()[-1].split()
    assert (one[1], one[3]) == ("1.0000", "1.0000")


@pytest.mark.parametrize(
    "paths, names",
    [
        (["es/checkpoint_best.pt", "fr/checkpoint_best.pt"], ["es", "fr"]),
        (["runs/es/a.pt", "runs/es/b.pt"], ["a", "b"]),
        (["x/es/a.pt", "y/es/a.safetensors"], ["x", "y"]),
        (["es/a.pt", "fr/b.pt"], ["es/a", "fr/b"]),
        (["a.pt", "a.safetensors"], ["a.pt", "a.safetensors"]),
        (["runs/a.pt", "runs/sub/a.pt"], ["a", "sub/a"]),
        (["runs.pt", "runs/a.pt"], ["runs", "runs/a"]),
        (["es/checkpoints/checkpoint_best.pt", "fr/checkpoints/checkpoint_last.pt"], ["es", "fr"]),
        (["runs/es/checkpoints/checkpoint_best.pt", "runs/fr.safetensors"], ["es", "fr"]),
        (
            ["es/checkpoints/checkpoint_best.pt", "es/checkpoints/checkpoint_last.pt"],
            ["checkpoint_best", "checkpoint_last"],
        ),
        (
            [
                "es/checkpoints/checkpoint_best.pt",
                "es/checkpoints/checkpoint_last.pt",
                "fr/checkpoints/checkpoint_last.pt",
            ],
            ["es/checkpoint_best", "es/checkpoint_last", "fr"],
        ),
        (
            [
                "runs/es/checkpoints/checkpoint_best.pt",
                "runs/es.safetensors",
                "runs/fr.safetensors",
            ],
            ["es/checkpoint_best", "es.safetensors", "fr"],
        ),
        (
            ["a/checkpoints/checkpoint_1.pt", "a/checkpoints/checkpoint_1.safetensors"],
            ["checkpoint_1.pt", "checkpoint_1.safetensors"],
        ),
        (["masks_0.5", "masks_0.7"], ["masks_0.5", "masks_0.7"]),
    ],
)
def test_names_are_what_tells_files_apart(paths: list[str], names: list[str]) -> None:
    assert short_names(paths) == names
