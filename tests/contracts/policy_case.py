"""A mask policy under test, what is measured of it, and the same measured by other processes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from toy import MaskedToy, kept_of, top, train

import speechprune.masking.policies as policies
from speechprune.masking.masked_site import masked_weight, original_weight
from speechprune.masking.policies import POLICIES, MaskPolicy

TESTS = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Case:
    """A policy with its options; ``folder`` is searched for policies beside the package's own.

    ``frozen`` is for policies that train weights, but can do without.
    """

    policy: str
    options: dict[str, Any] = field(default_factory=dict)
    folder: str | None = None
    frozen: bool = False

    def __str__(self) -> str:
        parts = [self.policy, *(str(value) for value in self.options.values())]
        return "-".join([*parts, *(["frozen"] if self.frozen else [])])

    def build(self) -> MaskPolicy:
        if self.folder is not None and self.folder not in policies.__path__:
            policies.__path__.append(self.folder)
        return POLICIES.build(self.policy, **self.options)

    @property
    def trains_weights(self) -> bool:
        return self.build().trains_weights and not self.frozen

    @property
    def moves(self) -> bool:
        """Whether masks change while training."""
        policy = self.build()
        scored = policy.score_shape(torch.Size((4, 4))) is not None
        return scored or self.trains_weights or policy.redraws or policy.observes

    def density(self, wanted: float) -> float:
        """The density that a policy with a pattern has, or the one that is wanted."""
        pattern = self.build().pattern
        return wanted if pattern is None else pattern[0] / pattern[1]

    def toy(self, density: float = 0.5, **options: Any) -> MaskedToy:
        if self.frozen:
            options["trains_weights"] = False
        return MaskedToy(self.build(), self.density(density), **options)


def bits(tensor: Tensor) -> Tensor:
    """A tensor's bits, so that -0.0 differs from 0.0."""
    return tensor.detach().contiguous().view(torch.int32)


def ranks(model: MaskedToy, update: int) -> dict[str, Tensor]:
    """What the masks of ``update`` are to be the top of, from what has been learnt by now."""
    policy, found = model.mask_controller.policy, {}
    for site in model.sites:
        masked, weight = masked_weight(site), original_weight(site).detach()
        scores = masked.observed if policy.observes else masked.scores
        key = [model.mask_controller.seed, update, zlib.crc32(site.name.encode())]
        seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(seed) // 2)
        rank = policy.importance(weight, scores, generator).detach().clone()
        found[site.name] = rank.abs() if policy.by_magnitude else rank
    return found


def assert_masks_rank(model: MaskedToy, density: float, expected: dict[str, Tensor]) -> None:
    """Masks are the top of the `ranks`, and weights are read through the masks."""
    pattern = model.mask_controller.policy.pattern
    for site in model.sites:
        rank = expected[site.name]
        if pattern is None:
            mask = top(rank, kept_of(rank.numel(), density))
        else:
            rows = rank.reshape(len(rank), -1, pattern[1])
            mask = torch.stack([top(group, pattern[0]) for row in rows for group in row])
            mask = mask.view(rank.shape)
        assert torch.equal(masked_weight(site).mask, mask), site.name
    assert_masks_apply(model)


def assert_masks_apply(model: MaskedToy) -> None:
    """Whoever reads a weight gets its product with exactly 0 or 1.

    In training, policies that mask evaluation only have the weight itself read.
    """
    policy = model.mask_controller.policy
    for site in model.sites:
        weight = original_weight(site).detach()
        if policy.masks_evaluation_only and site.module.training:
            assert torch.equal(getattr(site.module, site.tensor).detach(), weight), site.name
            continue
        expected = torch.where(masked_weight(site).mask, weight, torch.zeros(()).to(weight))
        assert torch.equal(getattr(site.module, site.tensor).detach(), expected), site.name


def assert_equal_tensors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


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
        "from policy_case import Case, digest; "
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
