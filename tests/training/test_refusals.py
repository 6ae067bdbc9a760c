"""What fairseq raises before it trains becomes one line; other mistakes keep their traceback."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.optim.adam import FairseqAdam
from fairseq.optim.lr_scheduler.tri_stage_lr_scheduler import TriStageLRSchedule
from omegaconf import OmegaConf
from torch import nn

from speechprune.errors import UserError
from speechprune.models.sites import maskable_sites
from speechprune.training.refusals import naming_refused_settings

CFG: Any = OmegaConf.create(
    {
        "optimizer": {"adam_betas": "abc", "fp16_adam_stats": True, "use_old_adam": False},
        "lr_scheduler": {"phase_ratio": [0.5, 0.5, 0.5], "init_lr_scale": 1, "final_lr_scale": 1},
        "job": "x",
    }
)
CFG.lr_scheduler.update({"lr": [1.0], "max_update": 10})


def build_adam() -> None:
    FairseqAdam(CFG.optimizer, [])


def adam(betas: str) -> FairseqAdam:
    changed = {"fp16_adam_stats": False, "adam_betas": betas, "lr": 1.0}
    changed |= {"adam_eps": 1e-8, "weight_decay": 0.0}
    return FairseqAdam(OmegaConf.merge(CFG.optimizer, changed), [nn.Parameter(torch.zeros(1))])


def build_adam_without_statistics() -> None:
    adam("abc")


def build_schedule() -> None:
    TriStageLRSchedule(CFG.lr_scheduler, adam("(0.9,0.98)"))


def load_data() -> None:
    raise RuntimeError("Caught in DataLoader worker.\nOriginal Traceback (most recent):\nno file")


def run(build: Callable[[], None], loop: Any) -> None:
    with naming_refused_settings(loop, CFG):
        build()


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (build_adam, "with optimizer.fp16_adam_stats=True: --fp16-adam-stats is only supported"),
        (build_adam_without_statistics, "with optimizer.adam_betas=abc: name 'abc' is not defined"),
        (build_schedule, "with lr_scheduler.phase_ratio=.*: phase ratios must add up to 1"),
        (load_data, "with these settings: no file$"),
    ],
)
def test_the_setting_is_named(build: Callable[[], None], told: str) -> None:
    loop = SimpleNamespace(train=None)
    with pytest.raises(UserError, match=f"^fairseq cannot begin {told}"):
        run(build, loop)
    assert loop.train is None


def test_nothing_is_hidden_once_it_trains() -> None:
    def train() -> None:
        raise KeyError("in training")

    loop = SimpleNamespace(train=train)
    with pytest.raises(KeyError):
        run(lambda: loop.train(), loop)


def test_our_own_mistakes_and_words_stay() -> None:
    with pytest.raises(AttributeError):
        run(lambda: maskable_sites(None), SimpleNamespace(train=None))

    def refuse() -> None:
        raise UserError("in our words")

    with pytest.raises(UserError, match="^in our words$"):
        run(refuse, SimpleNamespace(train=None))
