"""The ways to adapt a pretrained model that are compared, each with its learning rates to try."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from speechprune.models.names import ROUTER, WEIGHTS

#: Of all that is not a score, as many as for scores: equal budgets.
_WEIGHT_RATES = (0.001, 0.002, 0.004)
#: Scores that only rank weights move by larger steps.
_SCORE_RATES = (0.005, 0.02, 0.08)
#: What S3-Router's model leaves as it is; the head trains in all methods.
_FROZEN = ("model.prune_rate=1.0", "model.fix_mask=true")
_SCORES = ("model.init_score=weight_rank", "model.init_score_scale=1.0")


@dataclass(frozen=True)
class Method:
    """A way to adapt a model.

    Attributes:
        name: as tables have it.
        overrides: hydra's.
        rates: learning rates to choose from.
        frozen: share of the updates for which only the head trains.
    """

    name: str
    overrides: tuple[str, ...]
    rates: tuple[float, ...]
    frozen: float = 0.0

    @property
    def slug(self) -> str:
        """Its name in paths."""
        return "-".join(self.name.replace("%", "").replace(",", "").split())

    def settings(self, updates: int, rate: float) -> tuple[str, ...]:
        """Overrides of a run of so many updates."""
        frozen = round(self.frozen * updates)
        return (
            *self.overrides,
            f"optimization.lr=[{rate}]",
            f"model.freeze_finetune_updates={frozen}",
        )


def _masks(percent: int, *, everywhere: bool) -> Method:
    """Masks that remove some percent of the feed-forward weights, or of all of the layers'."""
    return Method(
        f"masks {'everywhere' if everywhere else 'FFN'}, {percent} %",
        (
            f"model._name={ROUTER}",
            f"model.prune_rate={1 - percent / 100:g}",
            f"model.fix_attn={str(not everywhere).lower()}",
            *_SCORES,
        ),
        _SCORE_RATES,
    )


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method("head alone", (f"model._name={ROUTER}", *_FROZEN), _WEIGHT_RATES),
        Method("weights", (f"model._name={WEIGHTS}",), _WEIGHT_RATES),
        Method("weights, frozen at first", (f"model._name={WEIGHTS}",), _WEIGHT_RATES, frozen=0.2),
        *(_masks(percent, everywhere=False) for percent in (4, 10, 20, 30)),
        *(_masks(percent, everywhere=True) for percent in (10, 30)),
        Method(
            "biases and norms",
            (
                f"model._name={ROUTER}",
                *_FROZEN,
                "model.trainable_bias=true",
                "model.trainable_layer_norm=true",
            ),
            (0.002, 0.005, 0.02),
        ),
    )
}
