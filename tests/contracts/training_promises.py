"""What every mask policy promises of training, saving, copying and folding."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Callable

import torch
from policy_case import Case, assert_equal_tensors, assert_masks_rank, bits, ranks
from torch import nn
from torch.utils.checkpoint import checkpoint
from toy import SignDescent, Toy, output, toy_batch, toy_loss, train, train_update

from speechprune.masking.masked_site import masked_weight, original_weight


def training_flips_connections(case: Case) -> None:
    """Unless nothing that a policy ranks changes, masks follow what is learnt."""
    model = case.toy(0.5)
    model.mask_controller.set_num_updates(0)
    before = model.masks()
    train(model, 4)
    model.eval()
    if case.moves:
        assert any(not torch.equal(before[name], mask) for name, mask in model.masks().items())


def frozen_weights_stay_bit_equal(case: Case) -> None:
    """A policy trains the masked weights or leaves every bit of them alone; others' never move."""
    model = case.toy()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, 3)
    after = dict(model.named_parameters())
    trained = {name for name in before if not torch.equal(bits(before[name]), bits(after[name]))}
    masked = {name for name in before if name.endswith(".original")}
    assert {"head.weight", "head.bias"} <= trained
    assert masked <= trained if case.trains_weights else not masked & trained
    scores = {name for name in before if name.endswith(".scores")}
    assert trained <= masked | scores | {"head.weight", "head.bias"}


def gradients_reach_scores_and_weights(case: Case) -> None:
    """Scores get gradient; trained weights too, masked unless the policy says dense."""
    model = case.toy(0.9)
    policy = model.mask_controller.policy
    model.mask_controller.set_num_updates(0)
    read = {site.name: getattr(site.module, site.tensor) for site in model.sites}
    toy_loss(model).backward()
    for site in model.sites:
        masked, weight = masked_weight(site), original_weight(site)
        assert read[site.name].shape == weight.shape
        if masked.scores is not None:
            assert masked.scores.grad is not None, site.name
            assert masked.scores.grad.shape == masked.scores.shape
            assert masked.scores.grad.isfinite().all()
            assert masked.scores.grad.any(), site.name
        if policy.observes:
            assert masked.pending is not None and masked.pending.any(), site.name
        if not case.trains_weights:
            assert weight.grad is None
            continue
        removed = ~masked.mask.expand_as(weight)
        assert weight.grad is not None and weight.grad.any(), site.name
        assert bool(weight.grad[removed].any()) == policy.dense_gradient, site.name


def validating_and_saving_change_nothing(case: Case) -> None:
    """A run that is validated and saved at each update ends bit-equal to one that never was."""
    quiet, watched = case.toy(every=2), case.toy(every=2)
    optimizers = SignDescent(quiet), SignDescent(watched)
    for update in range(7):
        train_update(quiet, optimizers[0], update)
        train_update(watched, optimizers[1], update)
        counts = [int(model.mask_controller.stats()["flipped"]) for model in (quiet, watched)]
        assert counts[0] == counts[1], update
        output(watched)
        watched.state_dict()
    assert_equal_tensors(quiet.originals(), watched.originals())
    for model in (quiet, watched):
        model.mask_controller.settle()
    assert_equal_tensors(quiet.state_dict(), watched.state_dict())


def penalty_is_a_trainable_scalar_or_nothing(case: Case) -> None:
    model = case.toy()
    penalty = model.mask_controller.penalty()
    if penalty is not None:
        assert penalty.shape == () and penalty.isfinite()
        penalty.backward()
        assert all(scores.grad is not None for scores in model.scores().values())


def reload_gives_equal_output(case: Case) -> None:
    """A saved model, loaded into a fresh one, computes the same and goes on in the same way."""
    model = train(case.toy(seed=1), 3)
    expected = output(model)
    state = copy.deepcopy(model.state_dict())
    assert not any("parametrizations" in key for key in state)
    fresh = case.toy(seed=2, initialise=False)
    assert set(fresh.state_dict()) == set(state)
    fresh.load_state_dict(state)
    fresh.mask_controller.loaded()
    assert_equal_tensors(fresh.masks(), model.masks())
    assert torch.equal(output(fresh), expected)
    for each in (model, fresh):
        train_update(each, SignDescent(each), 3)
    assert torch.equal(output(fresh), output(model))
    assert_equal_tensors(fresh.state_dict(), model.state_dict())


def fold_gives_equal_output_and_plain_keys(case: Case) -> None:
    """A folded model is an ordinary one: its state loads where no mask was ever heard of."""
    model = train(case.toy(0.4), 2)
    expected = output(model)
    masks = {
        site.name: masked_weight(site).mask.expand_as(original_weight(site)).clone()
        for site in model.sites
    }
    model.mask_controller.fold()
    assert torch.equal(output(model), expected)
    plain = Toy(seed=5)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(output(plain), expected)
    parameters = dict(plain.named_parameters())
    for name, mask in masks.items():
        assert not parameters[name][~mask].any(), name
    assert not any(hasattr(module, "parametrizations") for module in model.modules())
    assert type(model.fc1) is nn.Linear


def folded_model_takes_masks_again(case: Case) -> None:
    """Pruning twice: masks on a folded model save and load like the first ones."""
    model = train(case.toy(0.8), 1)
    model.mask_controller.fold()
    model.put_masks(case.build(), case.density(0.5))
    expected = output(model)
    fresh = case.toy(seed=3, initialise=False)
    fresh.load_state_dict(model.state_dict())
    fresh.mask_controller.loaded()
    assert torch.equal(output(fresh), expected)


def survives_fairseqs_fp16_optimizer(case: Case) -> None:
    """bf16 training through fp32 master copies: scores learn, frozen weights and counts stay."""
    from fairseq.optim import FP16Optimizer

    import speechprune.plugin  # noqa: F401  (tells fairseq's optimizer of edits to weights)

    model = case.toy(0.4).to(torch.bfloat16)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = FP16Optimizer.build_optimizer(fp16_settings(), parameters)
    before, scores = model.originals(), {n: s.detach().clone() for n, s in model.scores().items()}
    for update in range(3):
        model.train()
        optimizer.zero_grad()
        for index in range(2):
            model.mask_controller.set_num_updates(update)
            optimizer.backward(toy_loss(model, index))
        optimizer.clip_grad_norm(1.0)
        model.mask_controller.observe()
        optimizer.step()
    expected = ranks(model, 3)
    model.eval()
    assert_masks_rank(model, 0.4, expected)
    for site in model.sites:
        changed = not torch.equal(original_weight(site), before[site.name])
        assert changed == case.trains_weights, site.name
    for name, tensor in model.scores().items():
        assert not torch.equal(tensor, scores[name]), name
    for parameter, master in zip(parameters, optimizer.fp32_params):
        assert torch.equal(parameter, master.to(parameter.dtype))
    model.train()
    model.mask_controller.set_num_updates(3)
    for parameter, master in zip(parameters, optimizer.fp32_params):
        assert torch.equal(parameter, master.to(parameter.dtype)), "an edit missed the fp32 copy"


def fp16_settings() -> Any:
    """The part of fairseq's config that its FP16Optimizer reads, for bf16."""
    from omegaconf import OmegaConf

    return OmegaConf.create(
        {
            "common": {"bf16": True, "fp16_scale_window": None, "model_parallel_size": 1},
            "distributed_training": {"distributed_world_size": 1},
            "optimization": {"update_freq": [2], "lr": [0.05]},
            "optimizer": {
                "_name": "adam",
                "adam_betas": "(0.9, 0.98)",
                "adam_eps": 1e-8,
                "weight_decay": 0.0,
                "use_old_adam": True,
                "fp16_adam_stats": False,
                "tpu": False,
                "lr": [0.05],
            },
        }
    )


def copies_are_independent(case: Case) -> None:
    """A deep copy computes the same, and training or loading it leaves the first model alone."""
    model = train(case.toy(), 2)
    expected = output(model)
    state = copy.deepcopy(model.state_dict())
    twin = copy.deepcopy(model)
    assert torch.equal(output(twin), expected)
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in model.parameters()}
    train(twin, 3)
    twin.eval()
    assert torch.equal(output(model), expected)
    assert_equal_tensors(dict(model.state_dict()), dict(state))
    assert not torch.equal(output(twin), expected)
    twin.load_state_dict(state)
    twin.mask_controller.loaded()
    assert torch.equal(output(twin), expected)
    other = train(case.toy(seed=7), 1)
    expected_of_other = output(other)
    twin.load_state_dict(other.state_dict())
    twin.mask_controller.loaded()
    assert torch.equal(output(twin), expected_of_other)
    assert torch.equal(output(model), expected)


def recomputation_reads_the_same_masks(case: Case) -> None:
    """Activation checkpointing gives the gradients that keeping activations gives."""
    gradients = []
    for recompute in (False, True):
        model = case.toy()
        model.mask_controller.set_num_updates(0)
        audio, target = toy_batch()
        out = checkpoint(model, audio, use_reentrant=False) if recompute else model(audio)
        (out - target).square().mean().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert len(gradients[0]) > 2 or not (model.scores() or case.trains_weights)
    assert_equal_tensors(gradients[1], gradients[0])


TRAINING_PROMISES: Sequence[Callable[[Case], None]] = (
    training_flips_connections,
    frozen_weights_stay_bit_equal,
    gradients_reach_scores_and_weights,
    validating_and_saving_change_nothing,
    penalty_is_a_trainable_scalar_or_nothing,
    reload_gives_equal_output,
    fold_gives_equal_output_and_plain_keys,
    folded_model_takes_masks_again,
    survives_fairseqs_fp16_optimizer,
    copies_are_independent,
    recomputation_reads_the_same_masks,
)
