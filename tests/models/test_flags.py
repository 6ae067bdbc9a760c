"""Each of S3-Router's flags does what it says to the model that training would get."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
import torch
from loop import Lab
from nano import write_wav2vec2
from states import keep, top
from torch import Tensor, nn

from speechprune.masking.masked_site import masked_weight

ATTENTION = [f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")]
FEED_FORWARD = ["fc1", "fc2"]
PROJECTIONS = ATTENTION + FEED_FORWARD
LAYERS = (0, 1)
CONVOLUTIONS = {f"feature_extractor.conv_layers.{i}.0.weight" for i in range(7)}
#: fc1 and fc2 have 2048 entries each, the four attention projections 1024.
ENTRIES = {**dict.fromkeys(ATTENTION, 32 * 32), **dict.fromkeys(FEED_FORWARD, 64 * 32)}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("flags"))


def in_layers(parts: list[str], tensor: str, layers: tuple[int, ...] = LAYERS) -> set[str]:
    return {f"encoder.layers.{i}.{part}.{tensor}" for i in layers for part in parts}


def plain_name(name: str) -> str:
    """A parameter's name as checkpoints have it, without the way to the encoder."""
    name = re.sub(r"parametrizations\.(\w+)\.original$", r"\1", name)
    name = re.sub(r"parametrizations\.(\w+)\.original0$", r"\1_g", name)
    name = re.sub(r"parametrizations\.(\w+)\.original1$", r"\1_v", name)
    name = re.sub(r"parametrizations\.(\w+)\.[01]\.scores$", r"\1_scores", name)
    name = name.replace("w2v_encoder.", "").replace("w2v_model.", "")
    return name.replace("weight_scores", "scores")


def trained(model: nn.Module) -> set[str]:
    return {plain_name(name) for name, p in model.named_parameters() if p.requires_grad}


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """The first masks, by site."""
    model.set_num_updates(0)
    return dict(model.mask_controller.mask_set())


def start_of(model: nn.Module) -> dict[str, Tensor]:
    """The scores, by site."""
    return {s.name: masked_weight(s).scores.detach() for s in model.mask_controller.sites}


SCORES = in_layers(FEED_FORWARD, "scores")
HEAD = {"proj.weight", "proj.bias"}
NORMS = {f"encoder.layers.{i}.{n}_layer_norm" for i in LAYERS for n in ("self_attn", "final")}
NORMS |= {"layer_norm", "encoder.layer_norm"}
POSITIONS = {f"encoder.pos_conv.0.{tensor}" for tensor in ("bias", "weight_g", "weight_v")}
FRONT = {"post_extract_proj.weight", "post_extract_proj.bias"}
GROUP_NORM = "feature_extractor.conv_layers.0.2"
#: What is neither a layer's projection nor its mask.
REST = (
    {f"{norm}.{tensor}" for norm in NORMS | {GROUP_NORM} for tensor in ("weight", "bias")}
    | POSITIONS
    | FRONT
    | HEAD
    | CONVOLUTIONS
)
WEIGHTS_OF_LAYERS = in_layers(PROJECTIONS, "weight") | in_layers(PROJECTIONS, "bias")

TRAINED = {
    "nothing": ((), SCORES | {"mask_emb"}),
    "proj": (("model.trainable_proj=true",), SCORES | {"mask_emb"} | HEAD),
    "bias": (
        ("model.trainable_bias=true",),
        SCORES
        | {"mask_emb"}
        | in_layers(PROJECTIONS, "bias")
        | {name for name in REST if name.endswith("bias")},
    ),
    "layer_norm": (
        ("model.trainable_layer_norm=true",),
        SCORES
        | {"mask_emb"}
        | {f"{norm}.{tensor}" for norm in NORMS for tensor in ("weight", "bias")},
    ),
    "pos": (
        ("model.trainable_pos=true",),
        SCORES | {"mask_emb"} | POSITIONS,
    ),
    "masked pos": (
        ("model.trainable_pos=true", "model.no_prune_pos=false"),
        SCORES | {"mask_emb", "encoder.pos_conv.0.scores"},
    ),
    "post_extract_proj": (
        ("model.trainable_post_extract_proj=true",),
        SCORES | {"mask_emb"} | FRONT,
    ),
    "unpruned": (
        ("model.trainable_if_unpruned=true",),
        SCORES | {"mask_emb"} | REST,
    ),
    "unpruned, with a mask on the head": (
        ("model.trainable_if_unpruned=true", "model.no_prune_proj=false"),
        SCORES | {"mask_emb", "proj.scores"} | REST - HEAD,
    ),
    "co_train": (("model.co_train=true",), SCORES | {"mask_emb"} | WEIGHTS_OF_LAYERS | REST),
    "co_train with a mask on the positions": (
        ("model.co_train=true", "model.no_prune_pos=false"),
        SCORES | {"mask_emb", "encoder.pos_conv.0.scores"} | WEIGHTS_OF_LAYERS | REST,
    ),
    "co_train under fixed masks": (
        ("model.co_train=true", "model.fix_mask=true"),
        {"mask_emb"} | WEIGHTS_OF_LAYERS | REST,
    ),
    "fix_mask": (("model.fix_mask=true",), {"mask_emb"}),
    "fix_mask_before": (
        ("model.fix_mask_before=1",),
        {"mask_emb"} | in_layers(FEED_FORWARD, "scores", (1,)),
    ),
}


@pytest.mark.parametrize("case", TRAINED)
def test_what_is_trained(lab: Lab, case: str) -> None:
    flags, expected = TRAINED[case]
    assert trained(lab.build("model.trainable_proj=false", *flags)) == expected


#: How many tensors S3-Router's own code trains of a model of three layers.
COUNTS = {
    "trainable_bias": 49,
    "trainable_if_unpruned": 51,
    "co_train": 87,
    "trainable_layer_norm": 18 + 1 + 16,
    "trainable_pos": 18 + 1 + 3,
    "trainable_proj": 18 + 1 + 2,
    "trainable_post_extract_proj": 18 + 1 + 2,
}


@pytest.mark.parametrize("flag", COUNTS)
def test_as_many_are_trained_as_s3router_trains(lab: Lab, flag: str) -> None:
    deep = write_wav2vec2(lab.folder / "three.pt", layers=3)
    model = lab.build(
        *(f"model.w2v_path={deep}", "model.fix_attn=false", "model.trainable_proj=false"),
        f"model.{flag}=true",
    )
    assert len(trained(model)) == COUNTS[flag]


SITES = {
    "everywhere in the layers": ((), in_layers(PROJECTIONS, "weight")),
    "fix_attn": (("model.fix_attn=true",), in_layers(FEED_FORWARD, "weight")),
    "fix_fc": (("model.fix_fc=true",), in_layers(ATTENTION, "weight")),
    "extractor": (
        ("model.fix_attn=true", "model.no_prune_extractor=false"),
        in_layers(FEED_FORWARD, "weight") | CONVOLUTIONS,
    ),
    "pos": (
        ("model.fix_attn=true", "model.no_prune_pos=false"),
        in_layers(FEED_FORWARD, "weight") | {"encoder.pos_conv.0.weight"},
    ),
    "post_extract_proj": (
        ("model.fix_attn=true", "model.no_prune_post_extract_proj=false"),
        in_layers(FEED_FORWARD, "weight") | {"post_extract_proj.weight"},
    ),
    "proj": (
        ("model.fix_attn=true", "model.no_prune_proj=false"),
        in_layers(FEED_FORWARD, "weight") | {"proj.weight"},
    ),
    "outside the layers only": (
        ("model.fix_attn=true", "model.fix_fc=true", "model.no_prune_proj=false"),
        {"proj.weight"},
    ),
}


@pytest.mark.parametrize("case", SITES)
def test_what_is_masked(lab: Lab, case: str) -> None:
    flags, expected = SITES[case]
    model = lab.build("model.fix_attn=false", "model.prune_rate=0.7", *flags)
    found = masks_of(model)
    assert set(found) == expected
    for name, mask in found.items():
        assert mask.sum() == keep(mask.numel(), 0.7), name
    assert {n for n in trained(model) if n.endswith("scores")} == {
        f"{name}_scores".replace("weight_scores", "scores") for name in expected
    }


@pytest.mark.parametrize("family", ["xlsr", "data2vec"])
def test_what_is_masked_and_trained_in_other_families(lab: Lab, family: str) -> None:
    flags = (
        f"model.w2v_path={getattr(lab, family)}",
        "task.normalize=true",
        "model.fix_attn=false",
        "model.no_prune_pos=false",
        "model.trainable_layer_norm=true",
    )
    model = lab.build(*flags)
    positions = 5 if family == "data2vec" else 1
    found = set(masks_of(model))
    assert len(found) == 12 + positions
    assert in_layers(PROJECTIONS, "weight") < found
    norms = {name for name in trained(model) if "layer_norm" in name}
    assert {f"{where}layer_norm.bias" for where in ("", "encoder.")} < norms
    assert in_layers(["final_layer_norm", "self_attn_layer_norm"], "bias") < norms


DENSITIES = {
    "one": (("model.prune_rate=0.4",), lambda layer, part: 0.4),
    "all": (("model.prune_rate=1.0",), lambda layer, part: 1.0),
    "layerwise": (
        ("model.layerwise_prune_rate=[0.9,0.35]",),
        lambda layer, part: (0.9, 0.35)[layer],
    ),
    "pair": (
        ("model.fc_attn_prune_rate=[0.8,0.15]",),
        lambda layer, part: 0.8 if part in FEED_FORWARD else 0.15,
    ),
    "layerwise before pair": (
        ("model.layerwise_prune_rate=[0.9,0.35]", "model.fc_attn_prune_rate=[0.8,0.15]"),
        lambda layer, part: (0.9, 0.35)[layer],
    ),
}


@pytest.mark.parametrize("case", DENSITIES)
def test_densities(lab: Lab, case: str) -> None:
    flags, density = DENSITIES[case]
    model = lab.build(
        "model.fix_attn=false",
        "model.no_prune_post_extract_proj=false",
        "model.prune_rate=0.6",
        *flags,
    )
    found = masks_of(model)
    for layer in LAYERS:
        for part in PROJECTIONS:
            mask = found[f"encoder.layers.{layer}.{part}.weight"]
            assert mask.sum() == keep(ENTRIES[part], density(layer, part)), (layer, part)
    outside = found["post_extract_proj.weight"]
    rest = {"one": 0.4, "pair": 0.6}.get(case, 1.0)
    assert outside.sum() == keep(outside.numel(), rest)
    kept = sum(int(mask.sum()) for mask in found.values())
    total = sum(mask.numel() for mask in found.values())
    assert model.mask_controller.stats()["density"] == pytest.approx(kept / total)


@pytest.mark.parametrize("operation, axis", [("linear_st_outstr", 1), ("linear_st_instr", 0)])
def test_scores_of_rows_and_columns(lab: Lab, operation: str, axis: int) -> None:
    model = lab.build(
        "model.fix_attn=false", "model.prune_rate=0.75", f"model.linear_st_op={operation}"
    )
    start, found = start_of(model), masks_of(model)
    for name, mask in found.items():
        lines = mask.shape[1 - axis]
        assert start[name].numel() == lines
        whole = mask.all(dim=axis)
        assert torch.equal(whole, mask.any(dim=axis)), "a line is kept whole or not at all"
        assert whole.sum() == keep(lines, 0.75)
        assert (whole.numpy() == top(start[name], keep(lines, 0.75))).all()


def test_sigmoid_scales_the_gradient_of_every_score(lab: Lab) -> None:
    """Attention included, where the original forgets it."""
    gradients = []
    for sigmoid in ("false", "true"):
        model = lab.build(
            f"model.ste_sigmoid={sigmoid}",
            "model.fix_attn=false",
            "model.apply_mask=false",
            "model.layerdrop=0",
            "model.init_score=normal",
            *(f"model.{name}=0" for name in ("dropout", "attention_dropout", "activation_dropout")),
        )
        model.set_num_updates(0)
        source = torch.randn(2, 9000, generator=torch.Generator().manual_seed(0))
        output = model(source=source, padding_mask=torch.zeros(2, 9000, dtype=torch.bool))
        output["encoder_out"].square().sum().backward()
        sites = model.mask_controller.sites
        gradients.append({s.name: masked_weight(s).scores.grad for s in sites})
    assert len(gradients[0]) == 12
    for name, scores in start_of(model).items():
        gate = torch.sigmoid(scores.abs())
        expected = gradients[0][name] * gate * (1 - gate)
        assert expected.any()
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-4, atol=1e-7)


def test_scores_start_from_the_pretrained_weights(lab: Lab) -> None:
    weights = torch.load(lab.wav2vec2, weights_only=True)["model"]
    parts = (weights[f"encoder.pos_conv.0.weight_{part}"] for part in "vg")
    weights["encoder.pos_conv.0.weight"] = torch._weight_norm(*parts, 2)
    scaled = lab.build(
        *("model.init_score=weight_magnitude_with_scale", "model.init_score_scale=4"),
        "model.no_prune_pos=false",
    )
    for name, scores in start_of(scaled).items():
        assert torch.equal(scores, weights[name] / 4), name
    flags = ("model.fix_attn=false", "model.no_prune_pos=false")
    ranked = lab.build("model.init_score=weight_rank", *flags)
    for name, mask in masks_of(ranked).items():
        magnitude = top(weights[name], keep(mask.numel(), 0.9))
        assert (mask.flatten().numpy() == magnitude).all(), name


def test_scores_depend_on_the_seed_only(lab: Lab) -> None:
    first, again, other = (
        start_of(lab.build(f"common.seed={seed}", f"model.prune_rate={rate}"))
        for seed, rate in ((1, 0.9), (1, 0.5), (2, 0.9))
    )
    for name, scores in first.items():
        assert torch.equal(scores, again[name])
        assert not torch.equal(scores, other[name])


def test_weights_are_the_pretrained_ones_whatever_trains(lab: Lab) -> None:
    model = lab.build("model.co_train=true", "model.fix_attn=false", "model.no_prune_pos=false")
    state = model.state_dict()
    for name, weight in torch.load(lab.wav2vec2, weights_only=True)["model"].items():
        if "w2v_encoder.w2v_model." + name in state:
            assert torch.equal(state["w2v_encoder.w2v_model." + name], weight), name


def test_a_frozen_random_head_is_warned_of(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        lab.build("model.trainable_proj=true")
        assert "trainable_proj" not in caplog.text
        lab.build("model.trainable_proj=false")
        assert "trainable_proj=false freezes a randomly initialised" in caplog.text


def test_only_masks_are_loaded_so_the_frozen_head_is_random(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        flags = ("model.trainable_proj=false", f"checkpoint.finetune_from_model={lab.wav2vec2}")
        lab.build(*flags)
        assert "trainable_proj" not in caplog.text
        lab.build(*flags, "model.load_mask_only=true")
        assert "trainable_proj=false freezes a randomly initialised" in caplog.text


def test_learned_masks_of_positions_prune_the_direction(lab: Lab, tmp_path: Path) -> None:
    """A mask after weight norm starts a network whose weights train: the same entries are zero."""
    flags = ("model.no_prune_pos=false", "model.fix_attn=true", "model.prune_rate=0.6")
    learned = lab.build(*flags)
    learned.set_num_updates(0)
    masks = learned.mask_controller.mask_set()
    masks.save(tmp_path / "masks.safetensors")
    pruned = lab.build(
        *flags,
        *("model._name=wav2vec_ctc_masked", "model.prune_biases=false"),
        f"model.mask_file={tmp_path / 'masks.safetensors'}",
    )
    name = "encoder.pos_conv.0.weight"
    assert torch.equal(pruned.mask_controller.mask_set()[f"{name}_v"], masks[name])
    saved = pruned.state_dict()[f"w2v_encoder.w2v_model.{name}_v"]
    assert torch.equal(saved != 0, masks[name])


@pytest.mark.parametrize("flag", ["trainable_proj", "trainable_pos"])
def test_flags_that_free_only_what_has_a_mask_are_warned_of(
    lab: Lab, flag: str, caplog: pytest.LogCaptureFixture
) -> None:
    masked = {"trainable_proj": "no_prune_proj", "trainable_pos": "no_prune_pos"}[flag]
    with caplog.at_level(logging.WARNING):
        lab.build(f"model.{flag}=true")
        assert "frees nothing" not in caplog.text
        lab.build(f"model.{flag}=true", f"model.{masked}=false")
        assert f"model.{flag}=true frees nothing" in caplog.text
