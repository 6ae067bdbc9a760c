"""How scores start: METHODS' names, their distributions, and the masks they give first."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from toy import kept_of, top

from speechprune.errors import UserError
from speechprune.masking.initialisation import check_name, initial_scores, rank_by_mask
from speechprune.masking.policies import POLICIES
from speechprune.masking.selection import select_top_k

NAMES = (
    "kaiming_uniform",
    "kaiming",
    "kaiming_normal",
    "xavier_normal",
    "uniform",
    "normal",
    "weight_rank",
    "weight_rank_with_scale",
    "weight_magnitude_with_scale",
    "weight_magnitude",
    "negative_weight_magnitude",
    "zero",
    "one",
)
LINEAR, CONVOLUTION = (96, 160), (48, 32, 5)
#: Dimensions that share one score.
SHARED = {"row": {2: (1,), 3: (1, 2)}, "column": {2: (0,), 3: (0, 2)}}


def start(
    name: str,
    weight: Tensor,
    shared: tuple[int, ...] = (),
    density: float = 0.5,
    scale: float = 1.0,
    seed: int = 0,
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return initial_scores(name, weight, shared, density, scale, generator)


def random_weight(shape: tuple[int, ...], seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.02


def tied_weight(shape: tuple[int, ...]) -> Tensor:
    """Nine magnitudes only, of either sign, with zeros of either sign."""
    return (random_weight(shape) * 200).round().clamp(-8, 8) / 200


def assert_normal(values: Tensor, deviation: float) -> None:
    """Mean, deviation and tails of a normal distribution (a uniform one has no tails)."""
    assert abs(values.mean()) < 0.05 * deviation
    assert values.std().item() == pytest.approx(deviation, rel=0.03)
    beyond = (values.abs() > 2 * deviation).float().mean().item()
    assert beyond == pytest.approx(0.0455, abs=0.01)


def assert_uniform(values: Tensor, low: float, high: float) -> None:
    """Quartiles of a uniform distribution that reaches its bounds and does not leave them."""
    assert low <= values.min() and values.max() <= high
    width = high - low
    for share in (0.001, 0.25, 0.5, 0.75, 0.999):
        found = values.flatten().quantile(share).item()
        assert found == pytest.approx(low + share * width, abs=0.02 * width)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [LINEAR, CONVOLUTION])
@pytest.mark.parametrize("granularity", ["weight", "row", "column"])
def test_scores_have_their_shape_and_follow_from_the_generator(
    name: str, shape: tuple[int, ...], granularity: str
) -> None:
    weight = random_weight(shape)
    before = weight.clone()
    shared = SHARED[granularity][len(shape)] if granularity != "weight" else ()
    scores = start(name, weight, shared)
    assert scores.shape == tuple(1 if d in shared else size for d, size in enumerate(shape))
    assert scores.dtype == torch.float32
    assert torch.equal(scores, start(name, weight, shared))
    assert torch.equal(weight, before)
    scores.add_(1.0)
    assert torch.equal(weight, before), "scores share the weight's memory"
    policy = POLICIES.build("s3router", init_score=name, granularity=granularity)
    assert policy.score_shape(weight.shape) == scores.shape


@pytest.mark.parametrize("shape,fan_in", [(LINEAR, 160), (CONVOLUTION, 160)])
def test_kaiming_uniform_has_the_bound_of_one_over_root_fan_in(
    shape: tuple[int, ...], fan_in: int
) -> None:
    bound = 1 / math.sqrt(fan_in)
    scores = start("kaiming_uniform", random_weight(shape))
    assert_uniform(scores, -bound, bound)
    assert torch.equal(scores, start("kaiming", random_weight(shape)))
    assert not torch.equal(scores, start("kaiming_uniform", random_weight(shape), seed=1))


@pytest.mark.parametrize("granularity", ["row", "column"])
def test_shared_scores_start_as_torch_starts_tensors_of_their_shape(granularity: str) -> None:
    """One score per row has a fan-in of 1, and so starts within 1 whatever the weight's width."""
    weight = random_weight((4000, 3000))
    shared = SHARED[granularity][2]
    own = torch.empty([1 if d in shared else size for d, size in enumerate(weight.shape)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = {
            "kaiming_uniform": nn.init.kaiming_uniform_(own.clone(), a=math.sqrt(5)),
            "kaiming_normal": nn.init.kaiming_normal_(own.clone()),
            "xavier_normal": nn.init.xavier_normal_(own.clone()),
        }
    for name, values in expected.items():
        assert start(name, weight, shared).std().item() == pytest.approx(
            values.std().item(), rel=0.06
        )
    largest = start("kaiming_uniform", weight, shared).abs().max().item()
    assert largest == pytest.approx(1.0 if granularity == "row" else 3000**-0.5, rel=0.01)


@pytest.mark.parametrize("shape", [LINEAR, CONVOLUTION])
def test_normal_ones_have_the_deviation_that_torch_gives_them(shape: tuple[int, ...]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kaiming = nn.init.kaiming_normal_(torch.empty(shape)).std().item()
        xavier = nn.init.xavier_normal_(torch.empty(shape)).std().item()
    weight = random_weight(shape)
    assert start("kaiming_normal", weight).std().item() == pytest.approx(kaiming, rel=0.04)
    assert start("xavier_normal", weight).std().item() == pytest.approx(xavier, rel=0.04)


def test_distributions_of_a_linear_layer() -> None:
    weight = random_weight(LINEAR)
    assert_normal(start("kaiming_normal", weight), math.sqrt(2 / 160))
    assert_normal(start("xavier_normal", weight), math.sqrt(2 / (160 + 96)))
    assert_normal(start("normal", weight), 1.0)
    assert_uniform(start("uniform", weight), 0.0, 1.0)
    assert not start("zero", weight).any()
    assert (start("one", weight) == 1).all()


@pytest.mark.parametrize("weigh", [random_weight, tied_weight])
@pytest.mark.parametrize("shape", [LINEAR, CONVOLUTION])
@pytest.mark.parametrize("density", [0.9, 0.5, 0.3, 0.07])
def test_weight_rank_gives_the_magnitude_mask_first(weigh, shape, density: float) -> None:
    weight = weigh(shape)
    scores = start("weight_rank", weight, density=density)
    count = kept_of(weight.numel(), density)
    assert torch.equal(top(scores.abs(), count), top(weight.abs(), count))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weight_rank_gives_the_magnitude_mask_where_drawn_values_tie(dtype: torch.dtype) -> None:
    """Drawn values tie: thousands in half precision, some in fp32, here two at the threshold."""
    weight = random_weight((512, 512))
    scores = start("weight_rank", weight, density=0.9, seed=113).to(dtype)
    count = kept_of(weight.numel(), 0.9)
    wrong = top(scores.abs(), count) ^ top(weight.abs(), count)
    assert wrong.nonzero().tolist() == []


def test_weight_rank_deals_out_kaiming_uniform_values() -> None:
    weight = random_weight(LINEAR)
    scores = start("weight_rank", weight)
    bound = 1 / math.sqrt(160)
    assert_uniform(scores, -bound, bound)
    order = weight.abs().flatten().argsort(descending=True, stable=True)
    assert (scores.abs().flatten()[order].diff() <= 0).all()
    agreeing = (scores.sign() == weight.sign()).float().mean().item()
    assert agreeing == pytest.approx(0.5, abs=0.03), "signs are drawn, not the weight's"


def test_scaled_magnitude_is_the_weight_over_the_scale() -> None:
    weight = random_weight(LINEAR)
    found = start("weight_magnitude_with_scale", weight, scale=4.0)
    assert torch.equal(found, weight / 4)


def test_a_scale_of_ranks_is_a_learning_rate_of_scores_alone() -> None:
    """Adam takes scores over a scale as far as scores at a learning rate that many times higher."""
    weight = random_weight(LINEAR)
    gradients = [random_weight(LINEAR, seed) for seed in range(5)]
    scale, rate, moved = 8.0, 0.01, []
    for name, step in (("weight_rank", rate * scale), ("weight_rank_with_scale", rate)):
        scores = start(name, weight, scale=scale).requires_grad_()
        optimizer = torch.optim.Adam([scores], lr=step, eps=0.0)
        for gradient in gradients:
            scores.grad = gradient * scores.detach().sign()
            optimizer.step()
        moved.append(scores.detach())
    torch.testing.assert_close(moved[0], moved[1] * scale)


@pytest.mark.parametrize("weigh", [random_weight, tied_weight])
@pytest.mark.parametrize("density", [0.9, 0.3])
def test_magnitude_scores_are_bits(weigh, density: float) -> None:
    weight = weigh(LINEAR)
    count = kept_of(weight.numel(), density)
    largest = start("weight_magnitude", weight, density=density)
    assert torch.equal(largest, top(weight.abs(), count).float())
    assert torch.equal(top(largest, count), top(weight.abs(), count))
    smallest = start("negative_weight_magnitude", weight, density=density)
    assert torch.equal(smallest, top(-weight.abs(), count).float())


@pytest.mark.parametrize("granularity", ["row", "column"])
@pytest.mark.parametrize("shape", [LINEAR, CONVOLUTION])
def test_shared_scores_start_from_l1_norms(granularity: str, shape: tuple[int, ...]) -> None:
    """Rows (outputs) and columns (inputs) are ranked by the sum of their magnitudes."""
    weight = random_weight(shape)
    own = 0 if granularity == "row" else 1
    norms = torch.stack([part.abs().sum() for part in weight.unbind(own)])
    shared = SHARED[granularity][len(shape)]
    scaled = start("weight_magnitude_with_scale", weight, shared, scale=2.0)
    torch.testing.assert_close(scaled.flatten(), norms / 2)
    count = kept_of(len(norms), 0.4)
    expected = top(norms, count)
    for name in ("weight_rank", "weight_magnitude"):
        scores = start(name, weight, shared, density=0.4)
        assert torch.equal(top(scores.abs(), count).flatten(), expected), name
    lowest = start("negative_weight_magnitude", weight, shared, density=0.4)
    assert torch.equal(lowest.flatten().bool(), top(-norms, count))


def test_names_are_exactly_those_of_the_method() -> None:
    for name in NAMES:
        check_name(name)
    with pytest.raises(UserError) as refused:
        check_name("no such name at all")
    for name in NAMES:
        assert name in str(refused.value)


@pytest.mark.parametrize(
    "wrong,nearest",
    [("weight_rnak", "weight_rank"), ("xavier_norm", "xavier_normal"), ("ones", "one")],
)
def test_an_unknown_name_is_refused_with_the_nearest(wrong: str, nearest: str) -> None:
    for refuse in (check_name, lambda name: POLICIES.build("s3router", init_score=name)):
        with pytest.raises(UserError) as refused:
            refuse(wrong)
        message = str(refused.value)
        assert repr(wrong) in message and repr(nearest) in message
        assert "init_score" in message and "\n" not in message
    with pytest.raises(UserError):
        start(wrong, random_weight(LINEAR))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan])
def test_a_scale_that_cannot_divide_is_refused(scale: float) -> None:
    with pytest.raises(UserError, match="init_score_scale"):
        POLICIES.build("s3router", init_score_scale=scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_scores_ranked_by_a_mask_choose_it(dtype: torch.dtype) -> None:
    scores = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(40, 30, generator=torch.Generator().manual_seed(1)) < 0.3
    dealt = rank_by_mask(scores, mask).to(dtype)
    count = int(mask.sum())
    assert torch.equal(select_top_k(dealt, count, magnitude=True).mask, mask)
    assert torch.equal(dealt.sign(), scores.sign().to(dtype))
    largest = scores.abs().flatten().sort(descending=True).values[:count]
    torch.testing.assert_close(
        dealt[mask].abs().sort(descending=True).values, largest.to(dtype), rtol=0, atol=0
    )
