"""`speechprune policies`: every registered policy, with its options, on one line each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest
from click.testing import CliRunner
from torch import Tensor

from speechprune.masking.policies import POLICIES, MaskPolicy
from speechprune.registry import option
from speechprune.tools.main import commands


def run(*words: str) -> str:
    result = CliRunner().invoke(commands, ["policies", *words])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that is registered for one test."""
    POLICIES.names()
    monkeypatch.setattr(POLICIES, "_parts", dict(POLICIES._parts))

    @POLICIES.register("mine")
    @dataclass(frozen=True)
    class Mine(MaskPolicy):
        """Keeps what is
        mine.

        More on that.
        """

        needs_trained_weights: ClassVar[bool] = True
        trains_weights: ClassVar[bool] = True

        kind: Literal["one", "two"] = option("Which kind is kept.")
        soft: bool = option("Keep it softly.", False)

        def importance(self, weight: Tensor, *_: Any) -> Tensor:
            return weight


def test_json_says_all_that_a_policy_declares(mine: None) -> None:
    found = {policy["name"]: policy for policy in json.loads(run("--json"))}
    assert list(found) == POLICIES.names()
    assert found["mine"] == {
        "name": "mine",
        "summary": "Keeps what is mine.",
        "trains_weights": True,
        "needs_trained_weights": True,
        "options": [
            {
                "name": "kind",
                "values": "one or two",
                "required": True,
                "default": None,
                "help": "Which kind is kept.",
            },
            {
                "name": "soft",
                "values": "true or false",
                "required": False,
                "default": False,
                "help": "Keep it softly.",
            },
        ],
    }
    assert found["s3router"]["trains_weights"] is False


def test_text_has_a_line_for_each_policy_and_option(mine: None) -> None:
    lines = run().splitlines()
    policies = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert policies == POLICIES.names()
    assert len(lines) == sum(1 + len(POLICIES.options(name)) for name in policies)
    mine_at = next(i for i, line in enumerate(lines) if line.startswith("mine "))
    assert lines[mine_at].endswith("Keeps what is mine. Weights are trained.")
    kind, soft = (line.split(None, 1) for line in lines[mine_at + 1 : mine_at + 3])
    assert kind == ["kind=...", "Which kind is kept. [one or two]"]
    assert soft == ["soft=false", "Keep it softly. [true or false]"]
    (router,) = [line for line in lines if line.startswith("s3router ")]
    assert router.endswith("Weights are frozen, unless the run says otherwise.")


def test_every_policy_and_option_is_described_in_whole_phrases() -> None:
    for policy in json.loads(run("--json")):
        assert policy["summary"].endswith("."), policy["name"]
        for each in policy["options"]:
            assert each["help"][0].isupper() and each["help"].endswith("."), each
