"""What every mask policy promises of its masks: how many are kept, which, and when they change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable

import torch
from policy_case import Case, assert_equal_tensors, assert_masks_apply, assert_masks_rank, ranks
from torch import Tensor
from toy import (
    MaskedToy,
    SignDescent,
    Toy,
    kept_of,
    output,
    toy_batch,
    toy_loss,
    toy_sites,
    train,
    train_update,
)

from speechprune.masking.masked_site import masked_weight, original_weight

DENSITIES = (0.9, 0.5, 0.13, 1.0)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
#: How many ties there are: none, those of rounding to a few values, and nothing else.
TIES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x.clone(),
    "many": lambda x: (8 * x / x.abs().max().clamp(min=1e-3)).round() / 8,
    "all": lambda x: torch.full_like(x, 0.25),
}


def scores_fit_the_weight(case: Case) -> None:
    """Scores have the announced shape, depend on the generator alone, and give a finite rank."""
    policy = case.build()
    for shape in ((6, 4), (5, 3, 2)):
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        before = weight.clone()
        scores, again = (
            policy.init_scores(weight, 0.5, torch.Generator().manual_seed(2)) for _ in range(2)
        )
        announced = policy.score_shape(weight.shape)
        assert (scores is None) == (announced is None)
        if scores is not None:
            assert scores.shape == announced
            assert scores.dtype == torch.float32
            assert torch.equal(scores, again)
            assert torch.broadcast_shapes(scores.shape, weight.shape) == weight.shape
        given = torch.rand(shape) if policy.observes else scores
        importance = policy.importance(weight, given, torch.Generator().manual_seed(3))
        again = policy.importance(weight, given, torch.Generator().manual_seed(3))
        assert torch.equal(importance, again)
        assert importance.shape == (weight.shape if scores is None else scores.shape)
        assert importance.isfinite().all()
        assert torch.equal(weight, before)


def density_is_exact_per_site(case: Case) -> None:
    for ties in TIES.values():
        for dtype in DTYPES:
            for density in DENSITIES:
                model = tied_toy(case, density, ties, dtype, "site")
                for name, mask in model.masks().items():
                    expected = kept_of(mask.numel(), case.density(density))
                    assert int(mask.sum()) == expected, (name, dtype, density)


def density_is_exact_globally(case: Case) -> None:
    for ties in TIES.values():
        for dtype in DTYPES:
            for density in DENSITIES:
                model = tied_toy(case, density, ties, dtype, "global")
                masks = torch.cat([mask.flatten() for mask in model.masks().values()])
                expected = kept_of(masks.numel(), case.density(density))
                assert int(masks.sum()) == expected, (dtype, density)


def tied_toy(
    case: Case, density: float, ties: Callable[[Tensor], Tensor], dtype: torch.dtype, scope: str
) -> MaskedToy:
    """A toy whose weights and scores have ties, and masks chosen in ``dtype``."""
    model = case.toy(density, weights=ties, scope=scope).to(dtype)
    with torch.no_grad():
        for scores in model.scores().values():
            scores.copy_(ties(scores))
    model.mask_controller.set_num_updates(0)
    return model


def selection_is_the_ranking_of_importance(case: Case) -> None:
    """What is kept is what a stable sort of the importance ranks first, at every update."""
    model = case.toy(0.3)
    optimizer = SignDescent(model)
    for update in range(3):
        train_update(model, optimizer, update)
        expected = ranks(model, update + 1)
        model.mask_controller.set_num_updates(update + 1)
        assert_masks_rank(model, 0.3, expected)


def micro_batches_share_masks(case: Case) -> None:
    """A second call with the same number does nothing, even when scores and weights have moved."""
    model = case.toy()
    controller = model.mask_controller
    controller.set_num_updates(4)
    masks = {site.name: masked_weight(site).mask for site in model.sites}
    values = model.masks()
    toy_loss(model).backward()
    with torch.no_grad():
        for tensor in [*model.scores().values(), *map(original_weight, model.sites)]:
            tensor.copy_(tensor.flip(0).roll(1, 1) * 1.5)
    controller.set_num_updates(4)
    for site in model.sites:
        assert masked_weight(site).mask is masks[site.name], site.name
    assert_equal_tensors(model.masks(), values)
    toy_loss(model, 1).backward()


def evaluation_uses_what_was_learnt(case: Case) -> None:
    """After a step, eval() is the network of the next update; that update then changes nothing."""
    model = case.toy(0.6)
    optimizer = SignDescent(model)
    for update in range(3):
        train_update(model, optimizer, update)
        expected = ranks(model, update + 1)
        model.eval()
        assert_masks_rank(model, 0.6, expected)
        validated, logits = model.masks(), output(model)
        model.train()
        model.mask_controller.set_num_updates(update + 1)
        assert_equal_tensors(model.masks(), validated)
        with torch.no_grad():
            assert torch.allclose(model(toy_batch(99)[0]), logits, atol=1e-6)


def state_is_saved_with_what_was_learnt(case: Case) -> None:
    """settle() before saving chooses the masks that evaluation would; a second settle() nothing."""
    model = train(case.toy(0.6), 2)
    expected = ranks(model, 2)
    model.mask_controller.settle()
    assert_masks_rank(model, 0.6, expected)
    settled = model.masks()
    model.mask_controller.settle()
    model.eval()
    assert_equal_tensors(model.masks(), settled)


def masks_rest_between_selections(case: Case) -> None:
    """every=3: masks change at updates divisible by three only; trained weights move at each.

    Where masks do not take part in training, each validation sees those of the present weights.
    """
    model = case.toy(every=3)
    policy = model.mask_controller.policy
    optimizer = SignDescent(model)
    model.mask_controller.set_num_updates(0)
    seen = [model.masks()]
    for update in range(7):
        train_update(model, optimizer, update)
        model.eval()
        assert_masks_apply(model)
        seen.append(model.masks())
        if policy.masks_evaluation_only:
            assert_masks_rank(model, 0.5, ranks(model, update + 1))
    if policy.masks_evaluation_only:
        return
    for update in range(1, 8):
        same = all(torch.equal(seen[update][n], seen[update - 1][n]) for n in seen[0])
        assert same != (case.moves and update % 3 == 0), update


def order_of_sites_does_not_matter(case: Case) -> None:
    """Each site's scores and mask follow from its name, its weight and the seed."""
    first, second = case.toy(), case.toy()
    second.mask_controller.fold()
    second.load_state_dict(Toy().state_dict())
    second.put_masks(case.build(), case.density(0.5), sites=toy_sites(second)[::-1])
    for model in (first, second):
        model.mask_controller.set_num_updates(0)
    assert_equal_tensors(first.masks(), second.masks())


MASK_PROMISES: Sequence[Callable[[Case], None]] = (
    scores_fit_the_weight,
    density_is_exact_per_site,
    density_is_exact_globally,
    selection_is_the_ranking_of_importance,
    micro_batches_share_masks,
    evaluation_uses_what_was_learnt,
    state_is_saved_with_what_was_learnt,
    masks_rest_between_selections,
    order_of_sites_does_not_matter,
)
