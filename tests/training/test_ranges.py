"""Settings out of their range are refused by name, and no shipped or default value is."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from fairseq.dataclass.configs import FairseqConfig
from omegaconf import DictConfig, OmegaConf

import speechprune.plugin  # noqa: F401  (registers our models)
from speechprune.errors import UserError
from speechprune.training.command_line import _known_keys
from speechprune.training.ranges import RANGES, Range, check_ranges

ROOT = Path(__file__).resolve().parents[2]

#: Names of registered parts that have the keys of a group between them.
PARTS = {
    "criterion": ["distill_ctc"],
    "lr_scheduler": ["tri_stage", "polynomial_decay"],
    "model": ["wav2vec_ctc"],
    "optimizer": ["adam", "nag"],
    "task": ["audio_finetuning", "audio_labels"],
}


def settings(key: str, value: Any) -> DictConfig:
    """A config of one key."""
    group, name = key.split(".")
    return OmegaConf.create({group: {name: value}})


def told(key: str, value: Any) -> str:
    with pytest.raises(UserError) as error:
        check_ranges(settings(key, value))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("key", RANGES)
def test_each_range_is_of_a_setting_and_has_ends(key: str) -> None:
    group, name = key.split(".")
    assert group in FairseqConfig.__dataclass_fields__
    known = [_known_keys(group, [part]) or set() for part in PARTS.get(group, [""])]
    assert any(name in keys for keys in known)
    allowed = RANGES[key]
    inside = allowed.least + 1e-3 if allowed.above else allowed.least
    many = key == "optimizer.adam_betas"
    check_ranges(settings(key, [inside, inside] if many else [inside]))
    check_ranges(settings(key, None))
    for wrong in (allowed.least - 1, math.nan, math.inf, True):
        assert f"{key}={wrong} is out of range; use " in told(key, [inside, wrong])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optimization.lr", [-1.0], "optimization.lr=-1.0 is out of range; use at least 0"),
        ("optimization.lr", [], "optimization.lr=[] needs values, such as [0.0001]"),
        ("model.mask_prob", 2, "model.mask_prob=2 is out of range; use 0 to 1"),
        ("model.layerdrop", 1, "model.layerdrop=1 is out of range; use 0 to below 1"),
        ("lr_scheduler.final_lr_scale", 0, "use a number above 0"),
        ("common.model_parallel_size", 2, "out of range; use 1"),
        ("common.seed", 2**32, "common.seed=4294967296 is out of range; use 0 to 4294967295"),
        ("model.blank_weight", math.nan, "model.blank_weight=nan is not a finite number"),
        ("lr_scheduler.phase_ratio", [0.5, math.nan], "phase_ratio=nan is not a finite number"),
        ("optimizer.adam_betas", "(0.9,1.0)", "adam_betas=1.0 is out of range; use 0 to below 1"),
        ("optimizer.adam_betas", "abc", "adam_betas=abc must be two numbers, such as '(0.9,0.98)'"),
        ("optimizer.adam_betas", "(0.9,)", "must be two numbers"),
        ("optimizer.adam_betas", 0.9, "must be two numbers"),
        ("optimizer.adam_betas", "('a',0.9)", "adam_betas=a is out of range"),
        ("optimizer.adam_betas", "(0.9,__import__('os').system('true'))", "must be two numbers"),
        ("optimizer.adam_betas", "[" * 10000, "must be two numbers"),
    ],
)
def test_what_is_said(key: str, value: Any, message: str) -> None:
    assert message in told(key, value)


@pytest.mark.parametrize("value", ["(0.9,0.98)", " (0.9, 0.98)", [0.9, 0.98], "[0,0.999]"])
def test_betas_are_text_or_numbers(value: Any) -> None:
    check_ranges(settings("optimizer.adam_betas", value))


@pytest.mark.parametrize(
    ("allowed", "inside", "outside"),
    [
        (Range(0, 1), [0, 1, 0.5], [-0.1, 1.1]),
        (Range(0, 1, above=True), [1, 0.001], [0]),
        (Range(0, 1, below=True), [0, 0.999], [1]),
        (Range(1), [1, 10**12], [0.99, math.inf, "2", None]),
    ],
)
def test_numbers_in_a_range(allowed: Range, inside: list[Any], outside: list[Any]) -> None:
    assert all(value in allowed for value in inside)
    assert not any(value in allowed for value in outside)


@pytest.mark.parametrize("file", sorted(ROOT.glob("config/*/*.yaml")), ids=lambda file: file.stem)
def test_shipped_values_lie_in_their_ranges(file: Path) -> None:
    text = re.sub(r"\?\?\?|\$\{.*\}", "null", file.read_text(encoding="utf-8"))
    cfg = OmegaConf.create(text)
    assert isinstance(cfg, DictConfig)
    check_ranges(cfg)
