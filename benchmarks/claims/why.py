"""Which ingredient of choosing connections matters: one panel of the map, one change at a time.

    python -m benchmarks.claims.why --archive digits.tar --out claims --minutes 3 --updates 500

Masks that remove 10 % of the feed-forward weights, as on the map, and the same with one thing
changed. Each chooses its learning rate as all methods of the map do. Interrupted, the same command
goes on, and it shares trainings with the map.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.claims.command import panel_command
from benchmarks.claims.methods import FURTHER_MODELS, METHODS, SMALL_PART_RATES, Method, masks
from speechprune.models.names import POLICY
from speechprune.training.overrides import quoted

_SHARE = 10
_DENSE_AT_FIRST = (
    f"model._name={POLICY}",
    "model.policy=s3router",
    "model.policy_options={init_score:weight_rank}",
    f"model.sparsity={_SHARE / 100:g}",
    "model.start_sparsity=0",
    "model.prune_every=1",
    "model.fix_attn=true",
)
_DROPOUT = (
    f"common.user_dir={quoted(str(FURTHER_MODELS))}",
    "model._name=wav2vec_ctc_mask_dropout",
)


def _changed(name: str, *overrides: str, frozen: float = 0.0) -> Method:
    """The masks of the map with further overrides."""
    return Method(name, masks(_SHARE, *overrides), SMALL_PART_RATES, frozen)


def _start(name: str, scale: float = 1.0) -> tuple[str, ...]:
    return f"model.init_score={name}", f"model.init_score_scale={scale:g}"


INGREDIENTS: Mapping[str, Method] = {
    method.name: method
    for method in (
        METHODS[f"masks FFN, {_SHARE} %"],
        _changed("random start", *_start("kaiming_uniform")),
        _changed("weights as start", *_start("weight_magnitude_with_scale")),
        _changed("scores 1/10 as fast", *_start("weight_rank_with_scale", 0.1)),
        _changed("scores 10 times as fast", *_start("weight_rank_with_scale", 10)),
        _changed("head first", frozen=0.2),
        _changed("mask dropout", *_DROPOUT),
        Method("dense at first", _DENSE_AT_FIRST, SMALL_PART_RATES),
        METHODS[f"masks FFN, {_SHARE} %, and norms"],
    )
}


main = panel_command(INGREDIENTS, __doc__, "why-")

if __name__ == "__main__":
    main()
