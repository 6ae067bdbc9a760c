"""`model.linear_st_op=linear_st_head`: S3-Router's masks of whole heads and channels, which can be
cut out afterwards."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import logits
from loop import Lab, Run
from mishaps import kill_after_update
from states import assert_ends_equal, keep
from torch import Tensor, nn

from speechprune.backbones import find_backbone
from speechprune.checkpoint import read
from speechprune.decoding.inference import count_parameters
from speechprune.masking.mask_set import MaskSet
from speechprune.masking.masked_site import masked_weight
from speechprune.models.loading import load_finetuned
from speechprune.models.mask_reading import read_mask_set
from speechprune.models.sites import encoder_of_model
from speechprune.rewriting.averaging import average
from speechprune.rewriting.folding import fold
from speechprune.rewriting.layer_dropping import drop_layers
from speechprune.slimming.plan import KeptUnits

HEADS, SIZE, CHANNELS = 4, 8, 64
LAYERS = (0, 1)
#: Weight -> kind of its units, and the dimension that they lie along.
PARTS = {
    **{f"self_attn.{name}_proj": ("heads", 0) for name in "qkv"},
    "self_attn.out_proj": ("heads", 1),
    "fc1": ("channels", 0),
    "fc2": ("channels", 1),
}
COUNTS = {"heads": HEADS, "channels": CHANNELS}
PER_UNIT = ("model.linear_st_op=linear_st_head", "model.fix_attn=false", "model.prune_rate=0.6")
#: Scores of units start far apart: steps have to be long for ranks to change in a few of them.
NOISY = (
    *PER_UNIT,
    *("model.layerdrop=0.3", "model.mask_prob=0.5"),
    *("optimization.update_freq=[2]", "optimization.lr=[0.3]"),
)
KEPT = ("checkpoint.save_interval_updates=1", "checkpoint.keep_interval_updates=-1")
UPDATES = 6


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("structured"))


@pytest.fixture(scope="module")
def trained(lab: Lab) -> Run:
    return lab.train("trained", *NOISY, *KEPT, updates=UPDATES).succeeded()


def kept_units(masks: MaskSet, layer: int, kind: str) -> Tensor:
    """The units that all weights of a layer keep, bool (N,); fails if they disagree, or if one of
    them keeps a part of a unit."""
    found = []
    for part, (own, axis) in PARTS.items():
        if own == kind:
            mask = masks[f"encoder.layers.{layer}.{part}.weight"]
            by_unit = (mask if axis == 0 else mask.t()).reshape(COUNTS[kind], -1)
            assert torch.equal(by_unit.all(1), by_unit.any(1)), part
            found.append(by_unit.all(1))
    assert all(torch.equal(units, found[0]) for units in found), (layer, kind)
    return found[0]


def first_masks(model: Any) -> MaskSet:
    model.set_num_updates(0)
    return model.mask_controller.mask_set()


DENSITIES = {
    "one": (("model.prune_rate=0.3",), lambda layer, kind: 0.3),
    "few": (("model.prune_rate=0.001",), lambda layer, kind: 0.001),
    "layerwise": (("model.layerwise_prune_rate=[0.9,0.3]",), lambda layer, kind: (0.9, 0.3)[layer]),
    "pair": (
        ("model.fc_attn_prune_rate=[0.15,0.6]",),
        lambda layer, kind: {"channels": 0.15, "heads": 0.6}[kind],
    ),
}


@pytest.mark.parametrize("init_score", ["kaiming_uniform", "zero"])
@pytest.mark.parametrize("case", DENSITIES)
def test_shares_count_whole_units(lab: Lab, case: str, init_score: str) -> None:
    flags, density = DENSITIES[case]
    masks = first_masks(lab.build(*PER_UNIT, *flags, f"model.init_score={init_score}"))
    for layer in LAYERS:
        for kind, count in COUNTS.items():
            kept = kept_units(masks, layer, kind)
            expected = keep(count, density(layer, kind))
            assert int(kept.sum()) == expected >= 1
            if init_score == "zero":
                assert kept.tolist() == [True] * expected + [False] * (count - expected)


@pytest.mark.parametrize("family", ["wav2vec2", "xlsr", "data2vec", "hubert"])
def test_every_family_has_units(lab: Lab, family: str) -> None:
    model = lab.build(
        *PER_UNIT,
        f"model.w2v_path={getattr(lab, family)}",
        f"task.normalize={str(family in ('xlsr', 'data2vec')).lower()}",
    )
    masks = first_masks(model)
    assert [int(kept_units(masks, 1, kind).sum()) for kind in COUNTS] == [3, 39]
    scores = [p for name, p in model.named_parameters() if name.endswith("scores")]
    inside = [p for p in scores if p.numel() in COUNTS.values()]
    assert len(inside) == 2 * len(LAYERS) and all(p.requires_grad for p in inside)


@pytest.mark.parametrize("masked, unmasked", [("heads", "fix_fc"), ("channels", "fix_attn")])
def test_one_kind_of_units_alone(lab: Lab, masked: str, unmasked: str) -> None:
    masks = first_masks(lab.build(*PER_UNIT, f"model.{unmasked}=true"))
    parts = [part for part, (kind, _) in PARTS.items() if kind == masked]
    expected = {f"encoder.layers.{layer}.{part}.weight" for layer in LAYERS for part in parts}
    assert expected == {name for name in masks if "layers" in name and "conv_layers" not in name}
    assert int(kept_units(masks, 0, masked).sum()) == keep(COUNTS[masked], 0.6)


def test_what_is_outside_the_layers_has_one_score_per_weight(lab: Lab) -> None:
    flags = ("post_extract_proj", "extractor", "pos", "proj")
    model = lab.build(*PER_UNIT, *(f"model.no_prune_{flag}=false" for flag in flags))
    first_masks(model)
    outside = [site for site in model.mask_controller.sites if site.layer is None]
    assert {site.role for site in outside} == {"front.proj", "front.conv", "pos.conv", "head"}
    for site in outside:
        weight = getattr(site.module, site.tensor)
        assert masked_weight(site).scores.shape == weight.shape
        assert int(masked_weight(site).mask.sum()) == keep(weight.numel(), 0.6)


def test_scores_start_from_the_norms_of_units(lab: Lab) -> None:
    weights = torch.load(lab.wav2vec2, weights_only=True)["model"]
    model = lab.build(*PER_UNIT, "model.init_score=weight_magnitude_with_scale")
    norms = {(layer, kind): torch.zeros(n) for layer in LAYERS for kind, n in COUNTS.items()}
    for layer, kind in norms:
        for part, (own, axis) in PARTS.items():
            if own == kind:
                weight = weights[f"encoder.layers.{layer}.{part}.weight"].abs()
                by_unit = (weight if axis == 0 else weight.t()).reshape(COUNTS[kind], -1)
                norms[layer, kind] += by_unit.sum(1)
    for site in model.mask_controller.sites:
        if site.layer is not None:
            kind = "heads" if site.role.startswith("attn") else "channels"
            scores = masked_weight(site).scores.detach().flatten()
            torch.testing.assert_close(scores, norms[site.layer, kind])


def test_parameters_of_shared_scores_are_not_counted(lab: Lab) -> None:
    per_unit, per_weight = lab.build(*PER_UNIT), lab.build("model.fix_attn=false")
    assert count_parameters(per_unit) == count_parameters(per_weight)


def test_training_changes_which_whole_units_are_kept(trained: Run) -> None:
    kept, paths = [], sorted(trained.path().parent.glob("checkpoint_[12]_?.pt"))
    assert len(paths) >= UPDATES - 1, "one may be of the end of an epoch"
    for path in paths:
        masks = read_mask_set(path)
        kept.append({(n, kind): kept_units(masks, n, kind) for n in LAYERS for kind in COUNTS})
        for (_, kind), units in kept[-1].items():
            assert int(units.sum()) == keep(COUNTS[kind], 0.6)
    for key, before in kept[0].items():
        changes = [not torch.equal(before, later[key]) for later in kept[1:]]
        assert any(changes) or key[1] == "heads", key
    assert any(
        not torch.equal(kept[0][n, "heads"], later[n, "heads"]) for later in kept for n in LAYERS
    )
    assert any(float(record["flipped"]) > 0 for record in trained.records("train_inner"))


def test_a_killed_run_ends_as_if_it_had_never_been_killed(lab: Lab, trained: Run) -> None:
    options = (*NOISY, "checkpoint.save_interval_updates=2")
    kill = partial(kill_after_update, 5)
    killed = lab.train("killed", *options, updates=UPDATES, prepare=kill)
    assert killed.exit_code < 0, killed.output[-3000:]
    resumed = lab.train("killed", *options, updates=UPDATES).succeeded()
    assert resumed.records("train_inner")[0]["num_updates"] == "5"
    assert_ends_equal(resumed, trained, UPDATES)


def test_half_precision_trains_whole_units(lab: Lab) -> None:
    run = lab.train("bf16", *NOISY, "common.bf16=true", updates=3).succeeded()
    masks = read_mask_set(run.path())
    for layer in LAYERS:
        for kind, count in COUNTS.items():
            assert int(kept_units(masks, layer, kind).sum()) == keep(count, 0.6)


def test_what_is_loaded_is_what_was_saved(trained: Run) -> None:
    loaded = load_finetuned(trained.path())
    assert loaded.model.mask_controller.mask_set() == read_mask_set(trained.path())
    saved = trained.model()
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, saved[name]), name


def test_folding_leaves_units_that_can_be_cut_out(trained: Run, tmp_path: Path) -> None:
    """Removed units write nothing, so that the network without them is the same."""
    masks, before = read_mask_set(trained.path()), load_finetuned(trained.path()).model
    fold(trained.path(), tmp_path / "folded.pt")
    model = load_finetuned(tmp_path / "folded.pt").model
    kept = [
        KeptUnits(*(tuple(kept_units(masks, n, k).nonzero().flatten().tolist()) for k in COUNTS))
        for n in LAYERS
    ]
    encoder: nn.Module = encoder_of_model(model)
    family = find_backbone(encoder)
    for units, keeps in zip(family.units(encoder), kept):
        gone = sorted(set(range(HEADS)) - set(keeps.heads))
        assert gone and not units.out.weight.unflatten(1, (HEADS, SIZE))[:, gone].any()
        assert not units.value.weight.unflatten(0, (HEADS, SIZE))[gone].any()
    expected = logits(before)
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-6)
    family.slim(encoder, kept)
    assert [units.heads for units in family.units(encoder)] == [3, 3]
    assert [units.channels for units in family.units(encoder)] == [39, 39]
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-5)


def test_averages_and_dropped_layers_keep_whole_units(trained: Run, tmp_path: Path) -> None:
    average(trained.folder, tmp_path / "mean.pt", by="last", num=4)
    drop_layers(trained.path(), [0], tmp_path / "dropped.pt")
    mean, dropped = (read_mask_set(tmp_path / f"{name}.pt") for name in ("mean", "dropped"))
    for kind, count in COUNTS.items():
        for layer in LAYERS:
            assert int(kept_units(mean, layer, kind).sum()) == keep(count, 0.6)
        before = kept_units(read_mask_set(trained.path()), 1, kind)
        assert torch.equal(kept_units(dropped, 0, kind), before)
    for name in ("mean", "dropped"):
        found = load_finetuned(tmp_path / f"{name}.pt").model.mask_controller.mask_set()
        assert found == read_mask_set(tmp_path / f"{name}.pt")


def test_scores_of_rows_are_none_of_units(lab: Lab, trained: Run) -> None:
    start = f"checkpoint.finetune_from_model={trained.path()}"
    refused = lab.train("rows", *PER_UNIT, "model.linear_st_op=linear_st_outstr", start)
    assert refused.exit_code != 0
    assert re.search(r"have the shape .*: set model.linear_st_op", refused.output)


def test_finetuning_goes_on_from_masks_of_units(lab: Lab, trained: Run) -> None:
    start = f"checkpoint.finetune_from_model={trained.path()}"
    further = lab.train("further", *PER_UNIT, "model.fix_mask=true", start).succeeded()
    assert read_mask_set(further.path()) == read_mask_set(trained.path())
    saved, first = further.model(), read(trained.path())["model"]
    scores = [key for key in saved if key.endswith(".scores") and ".layers." in key]
    assert len(scores) == 12
    for key in scores:
        assert torch.equal(saved[key], first[key]), key
