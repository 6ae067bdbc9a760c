"""The contract of Hugging Face's families: every site is live, and every policy works on them."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hugging_face import (
    LAYERS,
    NAMES,
    SETTINGS,
    VARIANTS,
    all_roles,
    all_sites,
    config_of,
    evaluated,
    loss,
    outputs,
    small,
    train,
)
from policy_case import bits
from safetensors.torch import load_file
from toy import kept_of
from transformers import AutoModelForMaskedLM

from speechprune.backbones.base import LAYER_ROLES
from speechprune.errors import UserError
from speechprune.huggingface import FAMILIES, fold, mask, sites_of
from speechprune.masking.masked_site import masked_weight, original_parameters, original_weight
from speechprune.masking.policies import POLICIES
from speechprune.masking.schedule import ConstantSchedule, ProgressiveSchedule

MODELS = [
    pytest.param(name, options, id="-".join([name, *options]))
    for name in NAMES
    for options in ({}, *VARIANTS.get(name, []))
]
POLICY_CASES = [
    *((name, {}) for name in POLICIES.names()),
    ("s3router", {"init_score": "weight_rank"}),
    ("s3router", {"granularity": "row"}),
    ("s3router", {"granularity": "column"}),
]
#: Reads: attention of transformers through PyTorch's own, and through matrix products.
ATTENTIONS = ("sdpa", "eager")


def amount(policy: str, density: float = 0.5) -> dict[str, Any]:
    """How much a policy is asked to keep, in a run of three updates."""
    if POLICIES.get(policy).starts_dense:
        return {"schedule": ProgressiveSchedule(1.0, density, begin=0, end=2)}
    return {} if POLICIES.build(policy).pattern else {"density": density}


@pytest.mark.parametrize(("family", "options"), MODELS)
def test_sites_are_named_as_the_tensors_and_each_is_there_once(
    family: str, options: dict[str, Any]
) -> None:
    model = small(family, **options)
    sites = all_sites(model)
    tensors = [getattr(site.module, site.tensor) for site in sites]
    assert len({site.name for site in sites}) == len(sites)
    assert len({id(site.module) for site in sites if site.tensor == "weight"}) == len(
        [site for site in sites if site.tensor == "weight"]
    )
    for site, tensor in zip(sites, tensors):
        owner, _, name = site.name.rpartition(".")
        assert getattr(model.get_submodule(owner), name) is not None
        assert tensor.dim() >= 2
    of_layers = [site for site in sites if site.layer is not None]
    assert len(of_layers) == LAYERS * len(LAYER_ROLES)
    assert {site.name for site in sites_of(model)} == {site.name for site in of_layers}
    headed = small(family, head=True, **options)
    assert [site.name for site in all_sites(headed)] == [site.name for site in sites]


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize(("family", "options"), MODELS)
def test_every_site_is_live(family: str, options: dict[str, Any], attention: str) -> None:
    """Without the entries of any one site the output is another, in evaluation and in training."""
    if family == "xlnet" and attention == "sdpa":
        pytest.skip("XLNet has einsums of its own")
    model = small(family, **options)
    model.set_attn_implementation(attention)
    whole = evaluated(model)
    masks = mask(model, "s3router", density=1.0, roles=all_roles(model))
    assert_same(evaluated(model), whole)
    for site in masks.sites:
        one = masked_weight(site)
        kept = one.mask
        one.choose(torch.zeros_like(kept))
        for training in (False, True):
            train_without_statistics(model, training)
            with torch.no_grad():
                assert not torch.allclose(outputs(model, 99), whole, atol=1e-6), site.name
        model.eval()
        one.choose(kept)
    assert_same(evaluated(model), whole)


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Outputs of one network: processors round otherwise where tensors lie otherwise in memory."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def train_without_statistics(model: Any, training: bool) -> None:
    """In training mode but for batch norm, whose statistics would change the model."""
    model.train(training)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.eval()


@pytest.mark.parametrize(("policy", "options"), POLICY_CASES, ids=str)
@pytest.mark.parametrize("family", NAMES)
def test_a_policy_keeps_its_promises(
    family: str, policy: str, options: dict[str, Any], tmp_path: Path
) -> None:
    model = small(family, head=True)
    before = {name: p.detach().clone() for name, p in model.base_model.named_parameters()}
    roles = [role for role in all_roles(model) if policy != "n_m" or role in LAYER_ROLES]
    how: dict[str, Any] = {
        **amount(policy),
        "options": options,
        "scope": "site",
        "every": 1,
        "roles": roles,
        "biases": False,
    }
    masks = mask(model, policy, **how)
    gradients_reach_what_learns(model, masks)
    train(model, masks, range(3))
    expected = evaluated(model)
    for site in masks.sites:
        kept, mask_ = masked_weight(site).ranked_mask, masked_weight(site).mask
        density = masks.schedule.density(site, 3)
        assert int(kept.sum()) == kept_of(kept.numel(), density), site.name
        read = getattr(site.module, site.tensor)
        assert torch.equal(read, torch.where(mask_, original_weight(site), 0.0)), site.name
    if not POLICIES.get(policy).trains_weights:
        now = {
            name.replace("parametrizations.weight.original", "weight"): p
            for name, p in model.base_model.named_parameters()
        }
        for site in masks.sites:
            for parameter in original_parameters(site):
                assert not parameter.requires_grad and parameter.grad is None
        for name, value in before.items():
            if name in now:
                assert torch.equal(bits(now[name]), bits(value)), name
    reload_goes_on_in_the_same_way(model, how, policy)
    evaluated(model)
    folds_into_a_plain_model(model, tmp_path)
    assert expected.isfinite().all()


def gradients_reach_what_learns(model: Any, masks: Any) -> None:
    model.train()
    masks.set_num_updates(0)
    loss(model).backward()
    for site in masks.sites:
        masked = masked_weight(site)
        if masked.scores is not None and masked.policy.score_shape(torch.Size((2, 2))) is not None:
            assert masked.scores.grad is not None and masked.scores.grad.any(), site.name
        if masked.policy.trains_weights:
            assert any(p.grad is not None and p.grad.any() for p in original_parameters(site))
        if masked.policy.observes:
            assert masked.pending is not None and masked.pending.any()
            masked.pending = None
    head = [
        p for name, p in model.named_parameters() if not name.startswith(model.base_model_prefix)
    ]
    assert any(p.grad is not None and p.grad.any() for p in head)
    model.zero_grad()


def reload_goes_on_in_the_same_way(model: Any, how: dict[str, Any], policy: str) -> None:
    state = copy.deepcopy(model.state_dict())
    fresh = small(model.config.model_type, head=True, seed=5)
    masks = mask(fresh, policy, **how, seed=7)
    masks.seed = model.mask_controller.seed
    assert set(fresh.state_dict()) == set(state)
    fresh.load_state_dict(state)
    assert_same(evaluated(fresh), evaluated(model))
    for each in (model, fresh):
        train(each, each.mask_controller, range(3, 5))
    assert_same(evaluated(fresh), evaluated(model))
    for key, value in fresh.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key


def folds_into_a_plain_model(model: Any, folder: Path) -> None:
    expected, found = evaluated(model), model.mask_controller.mask_set()
    fold(model)
    assert_same(evaluated(model), expected)
    plain = small(model.config.model_type, head=True)
    assert set(model.state_dict()) == set(plain.state_dict())
    # By name: PyTorch's weight norm makes a class for each module.
    kinds = [[type(m).__name__ for m in each.modules()] for each in (model, plain)]
    assert kinds[0] == kinds[1]
    assert not any(m._forward_pre_hooks for m in model.modules())
    model.save_pretrained(folder)
    again = type(model).from_pretrained(folder)
    assert_same(evaluated(again), expected)
    for site in all_sites(again):
        if site.name in found:
            assert not getattr(site.module, site.tensor)[~found[site.name]].any(), site.name


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("family", [name for name in NAMES if name != "xlnet"])
def test_scores_learn_where_layers_are_computed_anew(family: str, reentrant: bool) -> None:
    """Gradient checkpointing gives the same gradients, though everything before is frozen."""
    if family == "wavlm" and reentrant:
        pytest.skip("transformers' own WavLM never ends such a backward pass")
    gradients = []
    for checkpointing in (False, True):
        model = small(family, head=True)
        masks = mask(model, "s3router", density=0.5)
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
        model.train()
        masks.set_num_updates(0)
        loss(model).backward()
        scores = [masked_weight(site).scores for site in masks.sites]
        gradients.append([s.grad for s in scores if s is not None])
    for plain, anew in zip(*gradients):
        assert plain is not None and plain.any()
        torch.testing.assert_close(anew, plain)


@pytest.mark.parametrize("family", NAMES)
def test_masks_go_from_one_task_to_another(family: str) -> None:
    """With a head for three classes, or without any, the sites have the same names."""
    source = small(family, head=True)
    found = mask(source, "s3router", density=0.3).mask_set()
    target = small(family, seed=1)
    masks = mask(target, masks=found)
    assert masks.mask_set() == found
    for site in masks.sites:
        read = getattr(site.module, site.tensor)
        assert not read[~found[site.name]].any() and read[found[site.name]].any()


def test_a_copy_of_a_model_has_masks_of_its_own() -> None:
    model = small("bert", head=True)
    masks = mask(model, "s3router", density=0.5)
    twin = copy.deepcopy(model)
    train(twin, twin.mask_controller, range(2))
    assert twin.mask_controller is not masks
    assert twin.mask_controller.mask_set() != masks.mask_set()
    fold(twin)
    assert masks.sites and model.state_dict().keys() != twin.state_dict().keys()


def test_one_density_for_all_updates_is_what_is_asked() -> None:
    model = small("bert")
    masks = mask(model, "parp", sparsity=0.7, every=1)
    assert isinstance(masks.schedule, ConstantSchedule)
    total = sum(masked_weight(site).mask.numel() for site in masks.sites)
    assert sum(int(masked_weight(site).mask.sum()) for site in masks.sites) == kept_of(total, 0.3)


def test_weights_that_are_tied_stay_so(tmp_path: Path) -> None:
    """A head whose weights are the embeddings: saved with its masks on, and folded."""
    model = AutoModelForMaskedLM.from_config(config_of("bert")).eval()
    embedding = model.get_input_embeddings().weight
    masks = mask(model, "parp", density=0.5)
    train(model, masks, range(2))
    expected = evaluated(model)
    model.save_pretrained(tmp_path / "masked")
    again = AutoModelForMaskedLM.from_config(config_of("bert")).eval()
    mask(again, "parp", density=0.5)
    again.load_state_dict(load_file(tmp_path / "masked" / "model.safetensors"), strict=False)
    assert_same(evaluated(again), expected)
    fold(model)
    assert model.get_output_embeddings().weight is embedding
    model.save_pretrained(tmp_path / "folded")
    plain = AutoModelForMaskedLM.from_pretrained(tmp_path / "folded")
    assert_same(evaluated(plain), expected)


def test_a_further_family_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: Any = FAMILIES
    monkeypatch.setitem(rows, "xlm-roberta", replace(FAMILIES["roberta"], model_type="xlm-roberta"))
    monkeypatch.setitem(SETTINGS, "xlm-roberta", SETTINGS["roberta"])
    test_every_site_is_live("xlm-roberta", {}, "sdpa")


def test_a_model_in_a_wrapper_is_refused_by_name() -> None:
    model = small("bert")
    del model.encoder.layer
    with pytest.raises(UserError, match="BertModel has no encoder.layer.*without adapters"):
        sites_of(model)
