"""One score for each unit: whole units go, exactly as many, from every weight they live in."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from toy import SignDescent, kept_of, top

from speechprune.errors import UserError
from speechprune.masking.bits import pack_bits
from speechprune.masking.controller import MaskController
from speechprune.masking.masked_site import fixed_densities, masked_weight, original_weight
from speechprune.masking.policies import POLICIES
from speechprune.masking.schedule import ConstantSchedule
from speechprune.masking.sites import Site
from speechprune.slimming.unit_views import unit_views
from speechprune.slimming.units import LayerUnits

CHANNELS, HEADS, SIZE, FEED_FORWARD = 10, 5, 3, 7
#: Module -> role, the units that live in it, and the dimension that they lie along.
PARTS = {
    "query": ("attn.q", "heads", 0),
    "key": ("attn.k", "heads", 0),
    "value": ("attn.v", "heads", 0),
    "out": ("attn.out", "heads", 1),
    "first": ("ffn.in", "channels", 0),
    "second": ("ffn.out", "channels", 1),
}
COUNTS = {"heads": (HEADS, SIZE), "channels": (FEED_FORWARD, 1)}


class Layer(nn.Module):
    """Attention and a feed-forward block, (B, T, C) -> (B, T, C), with masks on their weights."""

    def __init__(self, density: float = 0.5, seed: int = 0, **options: Any) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.query, self.key, self.value = (nn.Linear(CHANNELS, HEADS * SIZE) for _ in range(3))
            self.out = nn.Linear(HEADS * SIZE, CHANNELS)
            self.first = nn.Linear(CHANNELS, FEED_FORWARD)
            self.second = nn.Linear(FEED_FORWARD, CHANNELS)
        parts = {name: getattr(self, name) for name in PARTS}
        units = LayerUnits(0, *parts.values(), heads=HEADS, head_size=SIZE, activation=F.gelu)
        sites = [
            Site(f"layers.0.{name}.weight", role, 0, parts[name], "weight")
            for name, (role, _, _) in PARTS.items()
        ]
        policy = {k: options.pop(k) for k in ("init_score", "sigmoid") if k in options}
        schedule = options.pop("schedule", None) or ConstantSchedule(density)
        self.mask_controller = MaskController(
            sites,
            POLICIES.build("s3router", granularity="row", **policy),
            schedule,
            views=unit_views(sites, [units]),
            **options,
        )

    def forward(self, x: Tensor, weights: dict[str, Tensor] | None = None) -> Tensor:
        """With ``weights`` in the place of its own, if they are given."""
        w = weights or {name: getattr(self, name).weight for name in PARTS}
        bias = {name: getattr(self, name).bias for name in PARTS}
        q, k, v = (
            F.linear(x, w[name], bias[name]).unflatten(-1, (HEADS, SIZE)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + F.linear(attended, w["out"], bias["out"])
        hidden = F.gelu(F.linear(x, w["first"], bias["first"]))
        return x + F.linear(hidden, w["second"], bias["second"])

    def scores(self) -> dict[str, nn.Parameter]:
        """The scores of each kind of units."""
        found = {kind: masked_weight(site).scores for site, kind in self.sites_and_kinds()}
        return {kind: scores for kind, scores in found.items() if scores is not None}

    def originals(self) -> dict[str, Tensor]:
        sites = self.mask_controller.sites
        return {n: original_weight(site).detach() for n, site in zip(PARTS, sites)}

    def sites_and_kinds(self) -> list[tuple[Site, str]]:
        kinds = [kind for _, kind, _ in PARTS.values()]
        return list(zip(self.mask_controller.sites, kinds))

    def kept(self) -> dict[str, Tensor]:
        """The units that every weight keeps whole; fails if one keeps a part, or other units."""
        found: dict[str, Tensor] = {}
        masks = self.mask_controller.mask_set()
        for name, (_, kind, axis) in PARTS.items():
            count, size = COUNTS[kind]
            mask = masks[f"layers.0.{name}.weight"]
            by_unit = (mask if axis == 0 else mask.t()).reshape(count, -1)
            units = by_unit.all(1)
            assert torch.equal(units, by_unit.any(1)), f"{name} keeps a part of a unit"
            assert torch.equal(units, found.setdefault(kind, units)), f"{name} keeps other units"
        return found


def audio(seed: int = 0) -> Tensor:
    return torch.randn(2, 6, CHANNELS, generator=torch.Generator().manual_seed(seed))


def train(layer: Layer, updates: range, optimizer: SignDescent) -> None:
    for update in updates:
        layer.train()
        optimizer.zero_grad()
        layer.mask_controller.set_num_updates(update)
        layer(audio(update)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("init_score", ["kaiming_uniform", "one", "weight_magnitude"])
@pytest.mark.parametrize("density", [0.01, 0.3, 0.5, 0.61, 0.99, 1.0])
def test_counts_are_exact_and_ties_go_to_the_lower_unit(init_score: str, density: float) -> None:
    layer = Layer(density, init_score=init_score)
    layer.mask_controller.set_num_updates(0)
    scores = layer.scores()
    for kind, kept in layer.kept().items():
        count = kept_of(COUNTS[kind][0], density)
        assert int(kept.sum()) == count >= 1
        assert torch.equal(kept, top(scores[kind].abs(), count).flatten())
        if init_score == "one":
            assert kept.tolist() == [True] * count + [False] * (len(kept) - count)


def test_there_is_one_score_for_each_unit() -> None:
    layer = Layer()
    trained = [p for name, p in layer.named_parameters() if name.endswith("scores")]
    assert sorted(p.numel() for p in trained) == [HEADS, FEED_FORWARD]
    for site, kind in layer.sites_and_kinds():
        assert masked_weight(site).scores is layer.scores()[kind]


def test_all_weights_keep_the_same_units_at_every_update() -> None:
    layer = Layer(0.5)
    layer.requires_grad_(False)
    for scores in layer.scores().values():
        scores.requires_grad_(True)
    optimizer, kept = SignDescent(layer, lr=0.3), []
    for update in range(12):
        train(layer, range(update, update + 1), optimizer)
        layer.eval()
        kept.append(layer.kept())
    for kind in COUNTS:
        assert len({tuple(k[kind].tolist()) for k in kept}) > 1, "training changes what is kept"


@pytest.mark.parametrize("sigmoid", [False, True])
def test_gradients_are_those_of_a_gate_for_each_unit(sigmoid: bool) -> None:
    """A gate multiplies all that a unit has in every weight; removed units get gradient too."""
    layer = Layer(0.5, sigmoid=sigmoid)
    layer.mask_controller.set_num_updates(0)
    layer(audio()).square().sum().backward()

    gates = {kind: torch.zeros(count, requires_grad=True) for kind, (count, _) in COUNTS.items()}
    kept, weights = layer.kept(), {}
    for name, (_, kind, axis) in PARTS.items():
        gate = (gates[kind] + kept[kind]).repeat_interleave(COUNTS[kind][1])
        weights[name] = layer.originals()[name] * (gate[:, None] if axis == 0 else gate[None])
    layer(audio(), weights).square().sum().backward()
    for kind, scores in layer.scores().items():
        expected = gates[kind].grad * scores.detach().flatten().sign()
        if sigmoid:
            s = scores.detach().flatten().abs().sigmoid()
            expected = expected * s * (1 - s)
        assert expected[~kept[kind]].any()
        torch.testing.assert_close(scores.grad.flatten(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_one_score_for_each_unit(dtype: torch.dtype) -> None:
    wide = Layer(0.5, init_score="weight_rank")
    narrow = copy.deepcopy(wide).to(dtype)
    for layer in (wide, narrow):
        layer.mask_controller.set_num_updates(0)
        scores = [masked_weight(site).scores for site in layer.mask_controller.sites]
        assert len({id(s) for s in scores}) == 2
        layer(audio().to(layer.out.weight.dtype)).float().square().mean().backward()
    assert {kind: k.tolist() for kind, k in wide.kept().items()} == {
        kind: k.tolist() for kind, k in narrow.kept().items()
    }
    for kind, scores in narrow.scores().items():
        expected = wide.scores()[kind].grad
        assert scores.dtype == scores.grad.dtype == dtype
        assert (scores.grad.float() - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("init_score", ["weight_magnitude_with_scale", "weight_rank", "normal"])
def test_scores_start_from_all_that_shares_them(init_score: str) -> None:
    layer = Layer(0.5, init_score=init_score)
    rows = {kind: torch.zeros(count) for kind, (count, _) in COUNTS.items()}
    for name, (_, kind, axis) in PARTS.items():
        weight = layer.originals()[name]
        lines = (weight if axis == 0 else weight.t()).abs().sum(1)
        rows[kind] += lines.reshape(COUNTS[kind]).sum(1)
    for kind, scores in layer.scores().items():
        assert scores.detach().abs().min() > 0
        order = scores.detach().flatten().abs().argsort(descending=True)
        if init_score == "weight_magnitude_with_scale":
            torch.testing.assert_close(scores.detach().flatten(), rows[kind])
        elif init_score == "weight_rank":
            assert torch.equal(order, rows[kind].argsort(descending=True))
    again, other = (
        Layer(0.5, init_score=init_score, seed=0),
        Layer(0.5, init_score=init_score, seed=1),
    )
    for kind, scores in layer.scores().items():
        assert torch.equal(again.scores()[kind], scores)
        if init_score != "normal":
            assert not torch.equal(other.scores()[kind], scores)


def test_a_state_dict_has_scores_and_masks_of_rows_and_columns() -> None:
    layer = Layer(0.5).eval()
    state = layer.state_dict()
    assert len(state) == 4 * len(PARTS)
    for name, (_, kind, axis) in PARTS.items():
        scores = layer.scores()[kind].detach().flatten().repeat_interleave(COUNTS[kind][1])
        found = state[f"{name}.scores"]
        assert torch.equal(found, scores[:, None] if axis == 0 else scores[None])
        mask = layer.kept()[kind].repeat_interleave(COUNTS[kind][1])
        assert torch.equal(state[f"{name}.weight_mask"], pack_bits(mask))
    storages = {tensor.untyped_storage().data_ptr() for tensor in state.values()}
    assert len(storages) == len(state), "a file in which one tensor is another cannot be edited"


@pytest.mark.parametrize("stop", [1, 4])
def test_a_resumed_run_ends_bit_equal(stop: int) -> None:
    ends = []
    for resumes in (False, True):
        layer = Layer(0.5)
        train(layer, range(stop), SignDescent(layer, lr=0.3))
        if resumes:
            saved = copy.deepcopy(layer.eval().state_dict())
            layer = Layer(0.5, seed=3, initialise=False)
            layer.load_state_dict(saved)
            layer.mask_controller.loaded()
        train(layer, range(stop, 8), SignDescent(layer, lr=0.3))
        ends.append(layer.eval().state_dict())
    for name, tensor in ends[0].items():
        assert torch.equal(ends[1][name], tensor), name


@pytest.mark.parametrize("initialise", [False, True])
def test_scores_that_a_checkpoint_lacks_start_from_its_weights(initialise: bool) -> None:
    other = Layer(0.5, init_score="weight_rank", seed=1)
    plain = {k: v for k, v in other.state_dict().items() if k.endswith((".weight", ".bias"))}
    layer = Layer(0.5, init_score="weight_rank", initialise=initialise)
    layer.load_state_dict(plain)
    layer.mask_controller.loaded()
    for kind, scores in other.scores().items():
        assert torch.equal(layer.scores()[kind], scores)
    assert {k: v.tolist() for k, v in layer.kept().items()} == {
        k: v.tolist() for k, v in other.eval().kept().items()
    }


def test_scores_that_a_checkpoint_lacks_agree_with_its_masks() -> None:
    other = Layer(0.5)
    for scores in other.scores().values():
        scores.data = scores.data.flip(0)
    other.eval()
    state = {k: v for k, v in other.state_dict().items() if not k.endswith("scores")}
    layer = Layer(0.5)
    layer.load_state_dict(state)
    layer.mask_controller.loaded()
    for kind, kept in other.kept().items():
        scores = layer.scores()[kind].detach().abs().flatten()
        assert torch.equal(layer.kept()[kind], kept)
        assert scores[kept].min() > scores[~kept].max()


@pytest.mark.parametrize("name", ["value", "out", "second"])
def test_masks_that_disagree_are_refused(name: str) -> None:
    state = Layer(0.5).eval().state_dict()
    count, size = COUNTS[PARTS[name][1]]
    state[f"{name}.weight_mask"] = pack_bits(torch.ones(count, dtype=torch.bool).repeat(size))
    layer = Layer(0.5)
    layer.load_state_dict(state)
    with pytest.raises(UserError, match=rf"damaged: the masks of .*{name}.weight keep") as refused:
        layer.mask_controller.loaded()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["query", "out"])
def test_scores_of_rows_and_columns_are_none_of_units(name: str) -> None:
    state = Layer(0.5).state_dict()
    shape = (HEADS * SIZE, 1) if name == "query" else (1, HEADS * SIZE)
    for scores, message in (
        (torch.arange(HEADS * SIZE).float().view(shape), "one unit differ; set model.linear_st_op"),
        (torch.ones(shape[::-1]), r"have the shape .*: set model.linear_st_op"),
    ):
        with pytest.raises(UserError, match=message):
            Layer(0.5).load_state_dict({**state, f"{name}.scores": scores})


def test_choosing_as_many_keeps_whole_units() -> None:
    layer = Layer(0.6).eval()
    before = layer.kept()
    for scores in layer.scores().values():
        scores.data = torch.arange(scores.numel()).float().view_as(scores)
    layer.mask_controller.choose_as_many()
    for kind, kept in layer.kept().items():
        count = int(before[kind].sum())
        assert kept.tolist() == [False] * (len(kept) - count) + [True] * count


def test_frozen_scores_are_counted_in_whole_units() -> None:
    layer = Layer(0.5)
    layer.requires_grad_(False)
    kept, claimed = fixed_densities(layer.eval().mask_controller.sites, ConstantSchedule(0.5))
    heads, channels = 4 * HEADS * SIZE * CHANNELS, 2 * FEED_FORWARD * CHANNELS
    share = (heads * 3 / HEADS + channels * 4 / FEED_FORWARD) / (heads + channels)
    assert kept == pytest.approx(share) and claimed == pytest.approx(share)
    assert layer.mask_controller.stats()["density"] == pytest.approx(share)


def test_flips_are_counted_in_connections() -> None:
    layer = Layer(0.5)
    layer.mask_controller.set_num_updates(0)
    before = layer.mask_controller.mask_set()
    for scores in layer.scores().values():
        scores.data = scores.data.abs().neg().add(2).flip(0)
    layer.mask_controller.set_num_updates(1)
    after = layer.mask_controller.mask_set()
    flips = sum(int((after[name] ^ mask).sum()) for name, mask in before.items())
    assert int(layer.mask_controller.stats()["flipped"]) == flips > 0


def test_folding_leaves_zeros_where_units_were() -> None:
    layer = Layer(0.5).eval()
    kept, expected = layer.kept(), layer(audio())
    layer.mask_controller.fold()
    assert torch.equal(layer(audio()), expected)
    for name, (_, kind, axis) in PARTS.items():
        weight = getattr(layer, name).weight
        lines = (weight if axis == 0 else weight.t()).reshape(COUNTS[kind][0], -1)
        assert torch.equal(lines.bool().any(1), kept[kind])
    assert sorted(layer.state_dict()) == sorted(
        f"{n}.{t}" for n in PARTS for t in ("weight", "bias")
    )


def test_units_are_ranked_within_their_layer_and_at_one_density() -> None:
    with pytest.raises(UserError, match="within their layer"):
        Layer(0.5, scope="global")
    uneven = ConstantSchedule(0.5, {"layers.0.out.weight": 0.75})
    with pytest.raises(UserError, match=r"heads of layer 0 .* one density, not \[0.5, 0.75\]"):
        Layer(schedule=uneven)
