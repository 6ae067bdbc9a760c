"""Settings of dropping layers, and which layers they name."""

from dataclasses import dataclass, field
from typing import Any, List, Optional

from speechprune.errors import UserError
from speechprune.layers.plan import LayerPlan, LayerPlans


@dataclass
class LayerFlags:
    """Settings of every model but fairseq's own."""

    drop_layers: List[int] = field(
        default_factory=list,
        metadata={"help": "layers of model.w2v_path to leave out, 0-based, such as [3,5]"},
    )
    layer_plan: Optional[str] = field(
        default=None,
        metadata={"help": "file of layer plans, of which the first says the layers to leave out"},
    )


def drops_layers(cfg: Any) -> bool:
    """Whether a model's settings leave layers out."""
    return bool(cfg.drop_layers) or bool(cfg.layer_plan)


def plan_of(cfg: Any, layers: int) -> Optional[LayerPlan]:
    """The layers of a model of ``layers`` layers that are left out; None if all stay.

    Raises:
        UserError: layers that do not exist, a plan for another model, or both ways to name them.
    """
    if cfg.drop_layers and cfg.layer_plan:
        raise UserError("model.drop_layers and model.layer_plan both name layers; use one of them")
    if cfg.layer_plan:
        return LayerPlans.load(cfg.layer_plan, layers).plans[0]
    if cfg.drop_layers:
        try:
            return LayerPlan(layers, tuple(cfg.drop_layers))
        except UserError as error:
            raise UserError(f"model.drop_layers={list(cfg.drop_layers)}: {error}") from error
    return None
