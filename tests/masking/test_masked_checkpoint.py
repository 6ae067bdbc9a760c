"""Masked tensors in checkpoints: plain keys, S3-Router's, and ours with the bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from toy import MaskedToy, Toy, kept_of, output, top, train

from speechprune.errors import UserError
from speechprune.masking.bits import pack_bits
from speechprune.masking.masked_site import masked_weight, original_weight
from speechprune.masking.policies import POLICIES

#: Initialisations that read the weight: the ones that a re-initialisation would betray.
FROM_WEIGHTS = ("weight_rank", "weight_magnitude_with_scale", "weight_magnitude")


def random_mask(seed: int, shape: tuple[int, ...] = (4, 6)) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) > 0.5


def masked_toy(init_score: str = "kaiming_uniform", seed: int = 0, **options: Any) -> MaskedToy:
    return MaskedToy(POLICIES.build("s3router", init_score=init_score), seed=seed, **options)


def test_keys_are_plain_ones_and_those_of_s3_router() -> None:
    plain = set(Toy().state_dict())
    model = masked_toy()
    scores = {"conv.scores", "attention.out_proj.scores", "gate.scores", "fc1.scores", "fc2.scores"}
    masks = {site.name + "_mask" for site in model.sites}
    added = scores | {"attention.in_proj_weight_scores"} | masks
    state = model.state_dict()
    assert set(state) == plain | added
    for name, mask in model.masks().items():
        assert state[name + "_mask"].dtype == torch.uint8
        assert state[name + "_mask"].numel() == (mask.numel() + 7) // 8
    assert state["fc1.weight"].shape == state["fc1.scores"].shape
    assert torch.equal(state["fc1.weight"], original_weight(model.sites[4]))


@pytest.mark.parametrize("init_score", FROM_WEIGHTS)
def test_s3_routers_checkpoint_loads_with_its_scores_as_they_are(init_score: str) -> None:
    """Weights and scores but no bits: masks are chosen from the scores, never initialised anew."""
    source = train(masked_toy(seed=1), 2)
    expected = output(source)
    state = {key: value for key, value in source.state_dict().items() if "_mask" not in key}
    model = masked_toy(init_score, seed=2)
    model.load_state_dict(state)
    model.mask_controller.loaded()
    for name, scores in model.scores().items():
        assert torch.equal(scores, source.scores()[name]), name
        count = kept_of(scores.numel(), 0.5)
        assert torch.equal(model.masks()[name], top(scores.abs(), count)), name
    assert torch.equal(output(model), expected)


@pytest.mark.parametrize("init_score", FROM_WEIGHTS)
def test_plain_checkpoint_starts_scores_from_the_loaded_weights(init_score: str) -> None:
    """Third use of the method: weights were finetuned first, masks are learnt on what came out."""
    finetuned = Toy(seed=5)
    model = masked_toy(init_score, seed=2)
    model.load_state_dict(finetuned.state_dict())
    model.mask_controller.loaded()
    fresh = masked_toy(init_score, seed=5)
    weights = dict(finetuned.named_parameters())
    for name, scores in model.scores().items():
        assert torch.equal(scores, fresh.scores()[name]), name
        count = kept_of(scores.numel(), 0.5)
        assert torch.equal(model.masks()[name], top(weights[name].abs(), count)), name
    if init_score == "weight_magnitude_with_scale":
        assert torch.equal(model.scores()["fc1.weight"], finetuned.fc1.weight)


@pytest.mark.parametrize("init_score", FROM_WEIGHTS)
def test_own_checkpoint_loads_its_bits_not_a_new_selection(init_score: str) -> None:
    """In half precision scores alone would not say which of many equal ones were kept."""
    source = masked_toy(seed=1)
    chosen = {}
    for index, site in enumerate(source.sites):
        chosen[site.name] = random_mask(index, tuple(original_weight(site).shape))
        masked_weight(site).choose(chosen[site.name])
    expected = output(source)
    model = masked_toy(init_score, seed=2)
    model.load_state_dict(source.state_dict())
    model.mask_controller.loaded()
    for name, mask in model.masks().items():
        assert torch.equal(mask, chosen[name]), name
    assert torch.equal(output(model), expected)
    assert torch.equal(model.scores()["fc1.weight"], source.scores()["fc1.weight"])


def test_a_checkpoint_with_some_masks_keeps_those_and_chooses_the_others() -> None:
    source = masked_toy(seed=1)
    source.eval()
    masked_weight(source.sites[4]).choose(random_mask(0, (24, 12)))
    state = source.state_dict()
    del state["fc2.weight_mask"], state["fc2.scores"]
    model = masked_toy("weight_rank", seed=2)
    model.load_state_dict(state)
    model.mask_controller.loaded()
    assert torch.equal(model.masks()["fc1.weight"], random_mask(0, (24, 12)))
    weight = state["fc2.weight"]
    expected = top(weight.abs(), kept_of(weight.numel(), 0.5))
    assert torch.equal(model.masks()["fc2.weight"], expected)


def test_loading_does_not_touch_the_state_that_it_is_given() -> None:
    source = train(masked_toy(), 1)
    state = source.state_dict()
    keys, values = list(state), [value.clone() for value in state.values()]
    model = masked_toy(seed=3)
    model.load_state_dict(state)
    train(model, 1)
    assert list(state) == keys
    assert all(torch.equal(a, b) for a, b in zip(state.values(), values))


def test_half_precision_checkpoint_keeps_its_precision_and_masks() -> None:
    source = train(masked_toy().to(torch.bfloat16), 2)
    expected = output(source)
    model = masked_toy(seed=3).to(torch.bfloat16)
    model.load_state_dict(source.state_dict())
    model.mask_controller.loaded()
    assert model.scores()["fc1.weight"].dtype == torch.bfloat16
    assert torch.equal(output(model), expected)


def test_a_state_is_complete_or_named() -> None:
    state = masked_toy().state_dict()
    del state["fc1.weight"]
    with pytest.raises(RuntimeError, match="fc1.*weight"):
        masked_toy().load_state_dict(state)
    with pytest.raises(RuntimeError, match="fc1.unknown"):
        masked_toy().load_state_dict({**masked_toy().state_dict(), "fc1.unknown": torch.ones(1)})


@pytest.mark.parametrize(
    "damaged", [torch.zeros(3, dtype=torch.uint8), torch.zeros(36), pack_bits(torch.ones(300) > 0)]
)
def test_bits_of_another_shape_are_refused(damaged: Tensor) -> None:
    state = masked_toy().state_dict()
    state["fc1.weight_mask"] = damaged
    with pytest.raises(UserError):
        masked_toy().load_state_dict(state)
