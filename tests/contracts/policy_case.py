"""A mask policy under test, what is measured of it, and the same measured by other processes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from toy import MaskedToy, kept_of, top, train

import speechprune.masking.policies as policies
from speechprune.masking.masked_site import masked_weight, original_weight
from speechprune.masking.policies import POLICIES, MaskPolicy

TESTS = Path(__file__).resolve().parent.parent


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


def bits(tensor: Tensor) -> Tensor:
    """A tensor's bits, so that -0.0 differs from 0.0."""
    return tensor.detach().contiguous().view(torch.int32)


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
