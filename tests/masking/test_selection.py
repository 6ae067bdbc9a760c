"""Selection against a stable sort."""

from __future__ import annotations

import math
import random

import pytest
import torch

from speechprune.errors import UserError
from speechprune.masking import bracket_search
from speechprune.masking.selection import (
    Bracket,
    _select_batched,
    flipped_places,
    keep_count,
    select_each,
    select_n_of_m,
    select_top_k,
    select_top_k_global,
)

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def by_sort(importance: torch.Tensor, k: int) -> torch.Tensor:
    """The definition: descending, stable, first k."""
    flat = importance.detach().flatten().double() + 0.0  # -0.0 becomes 0.0
    mask = torch.zeros(flat.numel(), dtype=torch.bool)
    mask[flat.sort(descending=True, stable=True).indices[:k]] = True
    return mask.view(importance.shape)


def samples(numel: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Importances of the kinds that occur, and of some that should not."""
    uniform = torch.empty(numel).uniform_(-0.036, 0.036, generator=generator)
    few = torch.randint(-3, 4, (numel,), generator=generator).float()
    infinite = uniform.clone()
    infinite[::7], infinite[::11], infinite[::13] = math.inf, -math.inf, -0.0
    rare = torch.where(uniform > 0.035, uniform, 0.5)
    return {
        "uniform": uniform,
        "few values": few,
        "equal": torch.ones(numel),
        "zeros of both signs": few.sign() * 0.0,
        "bits": (few > 0).float(),
        "infinite": infinite,
        "mostly one value": rare,
        "sorted": uniform.sort().values,
        "huge": uniform * 9e39,
        "denormal": uniform * 1e-38,
    }


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many chunks, small samples and both ways of keeping, on small tensors."""
    monkeypatch.setattr(bracket_search, "_CHUNK", 64)
    monkeypatch.setattr(bracket_search, "_SAMPLE", 100)


BRACKETS = [
    None,
    Bracket(0.0, 0.0),
    Bracket(-math.inf, math.inf),
    Bracket(math.inf, math.inf),
    Bracket(0.5, -0.5),
    Bracket(math.nan, 1.0),
    Bracket(1e300, 1e301),
    Bracket(0.01, 0.012),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("numel", [1, 64, 1500])
def test_masks_are_those_of_a_stable_sort(
    dtype: torch.dtype, numel: int, small_chunks: None
) -> None:
    generator = torch.Generator().manual_seed(numel)
    draw = random.Random(numel)
    for name, values in samples(numel, generator).items():
        importance = values.to(dtype)
        for k in sorted({1, numel, draw.randint(0, numel), keep_count(numel, 0.9)}):
            expected, expected_of_magnitude = by_sort(importance, k), by_sort(importance.abs(), k)
            for bracket in BRACKETS if 1 < k < numel else [None]:
                mask = select_top_k(importance, k, bracket).mask
                assert torch.equal(mask, expected), (name, k, bracket)
            mask = select_top_k(importance, k, draw.choice(BRACKETS), magnitude=True).mask
            assert torch.equal(mask, expected_of_magnitude), (name, k)


@pytest.mark.parametrize("drift", [0.0, 5e-5, 1e-2, 10.0])
def test_brackets_carried_along_change_nothing(drift: float) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.empty(300, 511).uniform_(-0.036, 0.036, generator=generator)
    k = keep_count(scores.numel(), 0.7)
    bracket = None
    for _ in range(8):
        selection = select_top_k(scores, k, bracket, magnitude=True)
        assert torch.equal(selection.mask, by_sort(scores.abs(), k))
        bracket = selection.bracket
        scores += torch.empty_like(scores).uniform_(-drift, drift, generator=generator)


def test_the_bracket_holds_after_a_training_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speed rests on it: after a step of the size of Adam's no sample is drawn."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.empty(768, 768).uniform_(-0.036, 0.036, generator=generator) for _ in range(3)]
    counts = [
        keep_count(tensor.numel(), density) for tensor, density in zip(tensors, (0.9, 0.3, 1))
    ]
    selections = select_each(tensors, counts, magnitude=True)
    for _ in range(3):
        for tensor in tensors:
            tensor += torch.empty_like(tensor).uniform_(-5e-5, 5e-5, generator=generator)
        with monkeypatch.context() as patch:
            patch.setattr(bracket_search.BracketSearch, "_estimate", None)
            brackets = [selection.bracket for selection in selections]
            selections = select_each(tensors, counts, brackets, magnitude=True)
    for tensor, k, selection in zip(tensors, counts, selections):
        assert torch.equal(selection.mask, by_sort(tensor.abs(), k))


def test_half_precision_is_exact_where_ties_are_the_rule() -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.empty(768, 768).uniform_(-0.036, 0.036, generator=generator).half()
    assert len(scores.abs().unique()) < 12_000
    k = keep_count(scores.numel(), 0.9)
    first = select_top_k(scores, k, magnitude=True)
    again = select_top_k(scores, k, first.bracket, magnitude=True)
    assert torch.equal(first.mask, by_sort(scores.abs(), k))
    assert torch.equal(first.mask, again.mask)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_global_selection_is_that_of_the_concatenation(
    dtype: torch.dtype, small_chunks: None
) -> None:
    generator = torch.Generator().manual_seed(2)
    shapes = [(40, 30), (1,), (7, 11, 3), (900,)]
    for name in samples(1, generator):
        tensors = [samples(math.prod(s), generator)[name].view(s).to(dtype) for s in shapes]
        joined = torch.cat([tensor.flatten() for tensor in tensors])
        for k in (0, 1, 500, joined.numel() - 1, joined.numel()):
            selection = select_top_k_global(tensors, k, Bracket(0.02, 0.021), magnitude=True)
            flat = torch.cat([mask.flatten() for mask in selection.masks])
            assert torch.equal(flat, by_sort(joined.abs(), k)), (name, k)
            assert [mask.shape for mask in selection.masks] == [t.shape for t in tensors]


def test_strides_and_gradients_do_not_matter() -> None:
    scores = torch.randn(50, 40, generator=torch.Generator().manual_seed(3)).t()
    parameter = torch.nn.Parameter(scores)
    assert not parameter.is_contiguous()
    mask = select_top_k(parameter, 700).mask
    assert torch.equal(mask, by_sort(scores.contiguous(), 700))


def test_importances_are_left_alone() -> None:
    scores = torch.randn(1000)
    before = scores.clone()
    select_each([scores], [10], magnitude=True)
    select_top_k_global([scores], 10, magnitude=True)
    assert torch.equal(scores, before)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_nothing(threads: int) -> None:
    generator = torch.Generator().manual_seed(4)
    tensors = [torch.randn(size, generator=generator) for size in (10, 70_000, 200_000, 1)]
    counts = [3, 6_000, 150_000, 1]
    used = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        selections = select_each(tensors, counts)
    finally:
        torch.set_num_threads(used)
    for tensor, k, selection in zip(tensors, counts, selections):
        assert torch.equal(selection.mask, by_sort(tensor, k))


@pytest.mark.parametrize("place", [0, 500, 999])
@pytest.mark.parametrize("bracket", [None, Bracket(0.9, 1.1), Bracket(0.0, 0.0)])
def test_nan_is_refused(place: int, bracket: Bracket | None, small_chunks: None) -> None:
    importance = torch.randn(1000, generator=torch.Generator().manual_seed(5))
    importance[place] = math.nan
    for k in (1, 150, 1000):
        with pytest.raises(FloatingPointError, match="NaN"):
            select_top_k(importance, k, bracket)
        with pytest.raises(FloatingPointError, match="NaN"):
            _select_batched([importance], [k], magnitude=False)
    with pytest.raises(FloatingPointError, match="NaN"):
        select_n_of_m(importance, 1, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_accelerators_way_gives_the_same_masks(dtype: torch.dtype) -> None:
    """It needs no accelerator to run, only to be fast."""
    generator = torch.Generator().manual_seed(6)
    tensors = [
        values.to(dtype).view(shape)
        for shape in ((60, 20), (25, 8), (1200,))
        for values in samples(math.prod(shape), generator).values()
    ]
    for share in (0.0, 0.001, 0.3, 0.5, 0.9, 1.0):
        counts = [round(share * tensor.numel()) for tensor in tensors]
        for magnitude in (False, True):
            masks = _select_batched(tensors, counts, magnitude)
            expected = select_each(tensors, counts, magnitude=magnitude)
            for mask, selection in zip(masks, expected):
                assert torch.equal(mask, selection.mask)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_cuda_and_processor_agree(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(7)
    tensors = [values.to(dtype) for values in samples(300_000, generator).values()]
    counts = [keep_count(tensor.numel(), 0.9) for tensor in tensors]
    here = select_each(tensors, counts, magnitude=True)
    there = select_each([tensor.cuda() for tensor in tensors], counts, magnitude=True)
    for mine, theirs in zip(here, there):
        assert theirs.mask.is_cuda
        assert torch.equal(mine.mask, theirs.mask.cpu())
    k = keep_count(300_000 * len(tensors), 0.3)
    ours = select_top_k_global(tensors, k, magnitude=True)
    theirs_all = select_top_k_global([tensor.cuda() for tensor in tensors], k, magnitude=True)
    for mask, other in zip(ours.masks, theirs_all.masks):
        assert torch.equal(mask, other.cpu())


@pytest.mark.parametrize("shape", [(0,), (5,), (8,), (31, 9), (64, 100)])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_flipped_places_are_where_masks_differ(shape: tuple[int, ...], share: float) -> None:
    generator = torch.Generator().manual_seed(8)
    before = torch.rand(shape, generator=generator) < 0.7
    after = before ^ (torch.rand(shape, generator=generator) < share)
    places = flipped_places(before, after)
    assert torch.equal(places, (before ^ after).flatten().nonzero().squeeze(1))


@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 4), (4, 4), (1, 1), (3, 8)])
def test_n_of_m_is_top_n_of_each_group(n: int, m: int) -> None:
    generator = torch.Generator().manual_seed(8)
    importance = torch.randint(0, 3, (5, 3, 16), generator=generator).float()
    mask = select_n_of_m(importance, n, m)
    assert mask.shape == importance.shape
    for group, kept in zip(importance.view(-1, m), mask.view(-1, m)):
        assert torch.equal(kept, by_sort(group, n))


def test_n_of_m_refuses_what_does_not_fit() -> None:
    with pytest.raises(UserError, match="not a multiple of 4"):
        select_n_of_m(torch.ones(4, 6), 2, 4)
    for n in (0, 5):
        with pytest.raises(UserError, match="0 < n <= m"):
            select_n_of_m(torch.ones(4, 8), n, 4)


def test_keep_count_is_the_originals_arithmetic() -> None:
    for numel in (1, 3, 768, 589_824, 2_359_296):
        for percent in range(1, 101):
            density = percent / 100
            kept = keep_count(numel, density)
            assert kept == numel - int((1 - density) * numel)
            assert 1 <= kept <= numel
    assert keep_count(10, 0.9) == 10  # (1 - 0.9) * 10 is 0.9999999999999998
    assert keep_count(589_824, 0.9) == 530_842
    for density in (0.0, -0.1, 1.1, math.nan):
        with pytest.raises(UserError, match="share kept"):
            keep_count(10, density)


def test_impossible_requests_are_refused() -> None:
    for k in (-1, 11):
        with pytest.raises(ValueError, match="cannot keep"):
            select_top_k(torch.ones(10), k)
    with pytest.raises(TypeError, match="float"):
        select_top_k(torch.ones(10, dtype=torch.int64), 1)
    with pytest.raises(TypeError, match="float"):
        select_top_k_global([torch.ones(3), torch.ones(3).half()], 1)
