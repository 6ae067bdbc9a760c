"""What every mask policy promises, as functions over a policy: `CONTRACT` lists them all."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from toy import (
    MaskedToy,
    SignDescent,
    Toy,
    kept_of,
    output,
    top,
    toy_batch,
    toy_loss,
    toy_sites,
    train,
    train_update,
)

import speechprune.masking.policies as policies
from speechprune.masking.controller import masked_weight, original_weight
from speechprune.masking.policies import POLICIES, MaskPolicy

TESTS = Path(__file__).resolve().parent.parent
DENSITIES = (0.9, 0.5, 0.13, 1.0)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
#: How many ties there are: none, those of rounding to a few values, and nothing else.
TIES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x.clone(),
    "many": lambda x: (8 * x / x.abs().max().clamp(min=1e-3)).round() / 8,
    "all": lambda x: torch.full_like(x, 0.25),
}


@dataclass(frozen=True)
class Case:
    """A policy with its options; ``folder`` is searched for policies beside the package's own."""

    policy: str
    options: dict[str, Any] = field(default_factory=dict)
    folder: str | None = None

    def __str__(self) -> str:
        return "-".join([self.policy, *(str(value) for value in self.options.values())])

    def build(self) -> MaskPolicy:
        if self.folder is not None and self.folder not in policies.__path__:
            policies.__path__.append(self.folder)
        return POLICIES.build(self.policy, **self.options)

    def toy(self, density: float = 0.5, **options: Any) -> MaskedToy:
        return MaskedToy(self.build(), density, **options)


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
        importance = policy.importance(weight, scores)
        assert importance.shape == (weight.shape if scores is None else scores.shape)
        assert importance.isfinite().all()
        assert torch.equal(weight, before)


def density_is_exact_per_site(case: Case) -> None:
    for ties in TIES.values():
        for dtype in DTYPES:
            for density in DENSITIES:
                model = tied_toy(case, density, ties, dtype, "site")
                for name, mask in model.masks().items():
                    expected = kept_of(mask.numel(), density)
                    assert int(mask.sum()) == expected, (name, dtype, density)


def density_is_exact_globally(case: Case) -> None:
    for ties in TIES.values():
        for dtype in DTYPES:
            for density in DENSITIES:
                model = tied_toy(case, density, ties, dtype, "global")
                masks = torch.cat([mask.flatten() for mask in model.masks().values()])
                assert int(masks.sum()) == kept_of(masks.numel(), density), (dtype, density)


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
    """What is kept is what a stable sort of the importance ranks first, before and after training."""
    model = case.toy(0.3)
    optimizer = SignDescent(model)
    for update in range(3):
        train_update(model, optimizer, update)
        model.mask_controller.set_num_updates(update + 1)
        assert_masks_rank(model, 0.3)


def assert_masks_rank(model: MaskedToy, density: float) -> None:
    """Masks are the top of the present importance, and weights are read through the masks."""
    for site in model.sites:
        masked, weight = masked_weight(site), original_weight(site)
        policy = model.mask_controller.policy
        importance = policy.importance(weight, masked.scores)
        rank = importance.abs() if policy.by_magnitude else importance
        expected = top(rank, kept_of(rank.numel(), density))
        assert torch.equal(masked.mask, expected), site.name
    assert_masks_apply(model)


def assert_masks_apply(model: MaskedToy) -> None:
    """Whoever reads a weight gets its product with exactly 0 or 1."""
    for site in model.sites:
        weight = original_weight(site).detach()
        expected = torch.where(masked_weight(site).mask, weight, torch.zeros(()).to(weight))
        assert torch.equal(getattr(site.module, site.tensor).detach(), expected), site.name


def training_flips_connections(case: Case) -> None:
    """Unless a policy has neither scores nor trained weights, masks follow what is learnt."""
    model = case.toy(0.5)
    model.mask_controller.set_num_updates(0)
    before = model.masks()
    train(model, 4)
    model.eval()
    if model.scores() or case.build().trains_weights:
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
    assert masked <= trained if case.build().trains_weights else not masked & trained
    scores = {name for name in before if name.endswith(".scores")}
    assert trained <= masked | scores | {"head.weight", "head.bias"}


def bits(tensor: Tensor) -> Tensor:
    """A tensor's bits, so that -0.0 differs from 0.0."""
    return tensor.detach().contiguous().view(torch.int32)


def gradients_reach_scores_and_weights(case: Case) -> None:
    """Scores get gradient; trained weights get the product's, masked unless the policy says dense."""
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
        if not policy.trains_weights:
            assert weight.grad is None
            continue
        removed = ~masked.mask.expand_as(weight)
        assert weight.grad is not None and weight.grad.any(), site.name
        assert bool(weight.grad[removed].any()) == policy.dense_gradient, site.name


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


def assert_equal_tensors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


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
    model.put_masks(case.build(), 0.5)
    expected = output(model)
    fresh = case.toy(seed=3, initialise=False)
    fresh.load_state_dict(model.state_dict())
    fresh.mask_controller.loaded()
    assert torch.equal(output(fresh), expected)


def survives_fairseqs_fp16_optimizer(case: Case) -> None:
    """bf16 training through fp32 master copies: scores learn, frozen weights and counts stay."""
    from fairseq.optim import FP16Optimizer

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
        optimizer.step()
    model.eval()
    assert_masks_rank(model, 0.4)
    for site in model.sites:
        changed = not torch.equal(original_weight(site), before[site.name])
        assert changed == model.mask_controller.policy.trains_weights, site.name
    for name, tensor in model.scores().items():
        assert not torch.equal(tensor, scores[name]), name
    for parameter, master in zip(parameters, optimizer.fp32_params):
        assert torch.equal(parameter, master.to(parameter.dtype))


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
        model.eval()
        assert_masks_rank(model, 0.6)
        validated, logits = model.masks(), output(model)
        model.train()
        model.mask_controller.set_num_updates(update + 1)
        assert_equal_tensors(model.masks(), validated)
        with torch.no_grad():
            assert torch.allclose(model(toy_batch(99)[0]), logits, atol=1e-6)


def state_is_saved_with_what_was_learnt(case: Case) -> None:
    """settle() before saving chooses the masks that evaluation would; a second settle() nothing."""
    model = train(case.toy(0.6), 2)
    model.mask_controller.settle()
    assert_masks_rank(model, 0.6)
    settled = model.masks()
    model.mask_controller.settle()
    model.eval()
    assert_equal_tensors(model.masks(), settled)


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


def masks_rest_between_selections(case: Case) -> None:
    """every=3: masks change at updates divisible by three only; trained weights move at each."""
    model = case.toy(every=3)
    optimizer = SignDescent(model)
    model.mask_controller.set_num_updates(0)
    seen = [model.masks()]
    for update in range(7):
        train_update(model, optimizer, update)
        model.eval()
        assert_masks_apply(model)
        seen.append(model.masks())
    moves = bool(model.scores()) or model.mask_controller.policy.trains_weights
    for update in range(1, 8):
        same = all(torch.equal(seen[update][n], seen[update - 1][n]) for n in seen[0])
        assert same != (moves and update % 3 == 0), update


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
    assert len(gradients[0]) > 2 or not (model.scores() or case.build().trains_weights)
    assert_equal_tensors(gradients[1], gradients[0])


def order_of_sites_does_not_matter(case: Case) -> None:
    """Each site's scores and mask follow from its name, its weight and the seed."""
    first, second = case.toy(), case.toy()
    second.mask_controller.fold()
    second.load_state_dict(Toy().state_dict())
    second.put_masks(case.build(), 0.5, sites=toy_sites(second)[::-1])
    for model in (first, second):
        model.mask_controller.set_num_updates(0)
    assert_equal_tensors(first.masks(), second.masks())


CONTRACT: Sequence[Callable[[Case], None]] = (
    scores_fit_the_weight,
    density_is_exact_per_site,
    density_is_exact_globally,
    selection_is_the_ranking_of_importance,
    training_flips_connections,
    frozen_weights_stay_bit_equal,
    gradients_reach_scores_and_weights,
    penalty_is_a_trainable_scalar_or_nothing,
    reload_gives_equal_output,
    fold_gives_equal_output_and_plain_keys,
    folded_model_takes_masks_again,
    survives_fairseqs_fp16_optimizer,
    micro_batches_share_masks,
    evaluation_uses_what_was_learnt,
    state_is_saved_with_what_was_learnt,
    copies_are_independent,
    masks_rest_between_selections,
    recomputation_reads_the_same_masks,
    order_of_sites_does_not_matter,
)


def digest(case: Case) -> str:
    """A digest of a toy's masks at the start, and after training."""
    found = hashlib.sha256()
    for scope in ("site", "global"):
        model = case.toy(0.4, scope=scope)
        model.mask_controller.set_num_updates(0)
        for _ in range(2):
            for name, mask in sorted(model.masks().items()):
                found.update(name.encode() + mask.numpy().tobytes())
            train(model, 3).eval()
    return found.hexdigest()


def digests_elsewhere(cases: Sequence[Case], hash_seeds: Sequence[int]) -> list[list[str]]:
    """`digest` of each case, from one process per hash seed."""
    program = (
        "import json, sys; sys.modules['fairseq'] = None; "
        "from policy_contract import Case, digest; "
        "print(json.dumps([digest(Case(**case)) for case in json.loads(sys.argv[1])]))"
    )
    command = [sys.executable, "-c", program, json.dumps([asdict(case) for case in cases])]
    folders = [str(TESTS), str(TESTS / "contracts"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    running = [
        subprocess.Popen(
            command,
            env={**environment, "PYTHONHASHSEED": str(seed)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in hash_seeds
    ]
    ended = [(process.communicate(timeout=120), process.returncode) for process in running]
    assert all(code == 0 for _, code in ended), [errors for (_, errors), _ in ended]
    return [json.loads(printed) for (printed, _), _ in ended]
