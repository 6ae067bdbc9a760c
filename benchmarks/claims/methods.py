"""The ways to adapt a pretrained model that are compared, each with its learning rates to try."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fairseq.utils import import_user_module

from speechprune.models.names import ROUTER, WEIGHTS
from speechprune.recipes.setting import TRAINED_NORMS
from speechprune.training.overrides import quoted

#: A user folder for fairseq, with models that speechprune itself does not have.
FURTHER_MODELS = Path(__file__).parent / "further_models"
#: With two bytes a value, rank 4 takes about as many bytes as masks that remove 10 % of the same
#: weights.
_RANK = 4

#: Learning rates in order, of which a search tries those in the middle first, and five at most.
_HEAD_RATES = (0.01, 0.02, 0.05, 0.1, 0.2)
_WEIGHT_RATES = (0.0002, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)
#: Of scores, and of whatever else is small beside the weights.
SMALL_PART_RATES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)

#: What S3-Router's model leaves as it is; the head trains in all methods.
_FROZEN = (f"model._name={ROUTER}", "model.prune_rate=1.0", "model.fix_mask=true")


@dataclass(frozen=True)
class Method:
    """A way to adapt a model.

    Attributes:
        name: as tables have it.
        overrides: hydra's.
        rates: learning rates to choose from, in ascending order.
        frozen: share of the updates for which only the head trains.
    """

    name: str
    overrides: tuple[str, ...]
    rates: tuple[float, ...]
    frozen: float = 0.0

    @property
    def slug(self) -> str:
        """Its name in paths."""
        return "-".join(re.sub(r"[%,]", "", self.name).replace("/", "-").split())

    def settings(self, updates: int, rate: float) -> tuple[str, ...]:
        """Overrides of a run of so many updates."""
        return (
            *self.overrides,
            f"optimization.lr=[{rate}]",
            f"model.freeze_finetune_updates={round(self.frozen * updates)}",
        )


def masks(percent: int, *overrides: str, everywhere: bool = False) -> tuple[str, ...]:
    """Overrides for masks that remove some percent of the feed-forward weights, or of all of the
    layers', by S3-Router's recipe."""
    return (
        f"model._name={ROUTER}",
        f"model.prune_rate={1 - percent / 100:g}",
        f"model.fix_attn={str(not everywhere).lower()}",
        "model.init_score=weight_rank",
        *overrides,
    )


def make_known() -> None:
    """Let this process know the models whose checkpoints it is to evaluate."""
    import_user_module(argparse.Namespace(user_dir=str(FURTHER_MODELS)))


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method("head alone", _FROZEN, _HEAD_RATES),
        Method("weights", (f"model._name={WEIGHTS}",), _WEIGHT_RATES),
        Method("weights, head first", (f"model._name={WEIGHTS}",), _WEIGHT_RATES, frozen=0.2),
        *(Method(f"masks FFN, {p} %", masks(p), SMALL_PART_RATES) for p in (4, 10, 20, 30)),
        *(
            Method(f"masks everywhere, {p} %", masks(p, everywhere=True), SMALL_PART_RATES)
            for p in (10, 30)
        ),
        Method("masks FFN, 10 %, and norms", masks(10, *TRAINED_NORMS), SMALL_PART_RATES),
        *(
            Method(
                f"masks everywhere, {p} %, and norms",
                masks(p, *TRAINED_NORMS, everywhere=True),
                SMALL_PART_RATES,
            )
            for p in (10, 30)
        ),
        Method("biases and norms", (*_FROZEN, *TRAINED_NORMS), SMALL_PART_RATES),
        Method(
            "LoRA FFN",
            (
                f"common.user_dir={quoted(str(FURTHER_MODELS))}",
                "model._name=wav2vec_ctc_low_rank",
                f"+model.rank={_RANK}",
            ),
            SMALL_PART_RATES,
        ),
    )
}
