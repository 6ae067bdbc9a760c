"""Settings of dropping layers, and which layers they name."""

from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, List, Mapping, Optional

from omegaconf import OmegaConf

from speechprune.checkpoint.file import PathLike
from speechprune.checkpoint.finetuned import PROVENANCE
from speechprune.errors import UserError
from speechprune.layers.plan import LayerPlan, LayerPlans

#: Where the settings of a saved model's encoder tell what it lost in training.
DROPPED = "dropped_layers"


@dataclass
class LayerFlags:
    """Settings of every model but `wav2vec_ctc`."""

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


def refuse_unread_layers(cfg: Any) -> None:
    """Raise UserError if settings of fairseq's own `wav2vec_ctc`, which reads none, leave out
    layers."""
    names = cfg if isinstance(cfg, Mapping) or OmegaConf.is_config(cfg) else vars(cfg)
    if "drop_layers" in names and drops_layers(cfg):
        raise UserError(
            "fairseq's own wav2vec_ctc leaves no layers out; set model._name=wav2vec_ctc_pruned"
        )


def lost_layers(state: Mapping[str, Any], now: Optional[LayerPlan] = None) -> Optional[LayerPlan]:
    """All layers that a model has lost, by the numbers that they had at first.

    Args:
        state: a pretrained or finetuned checkpoint, which tells what it lost in training or as a
            file.
        now: what it loses besides.

    Returns:
        None if none are known.
    """
    before = _lost_before(state)
    if before is None or now is None:
        return now or before
    return before.then(now)


def refuse_other_layers(path: PathLike, state: Mapping[str, Any], own: Optional[LayerPlan]) -> None:
    """Raise UserError if a checkpoint is as deep as a model, but has lost other layers than it.

    Args:
        path, state: the checkpoint that is to give the model its weights.
        own: what the model has lost, as `lost_layers` tells.
    """
    before = lost_layers(state)
    if own is None or before is None or own.layers != before.layers:
        return
    # Of more layers, some are still to be lost.
    if len(own.kept) == len(before.kept) and own.dropped != before.dropped:
        raise UserError(
            f"{Path(path).absolute()} has lost the layers {list(before.dropped)}, but the settings "
            f"name {list(own.dropped)}; name the same, or begin a new run"
        )


def _lost_before(state: Mapping[str, Any]) -> Optional[LayerPlan]:
    model = _mapping((state.get("cfg") or {}).get("model"))
    told = _mapping(model.get("w2v_args")).get(DROPPED) or state.get(PROVENANCE) or {}
    if "dropped" not in told:
        return None
    return LayerPlan(told["layers"], tuple(told["dropped"]))


def _mapping(settings: Any) -> Mapping[str, Any]:
    """Settings of 2020 are namespaces."""
    return vars(settings) if isinstance(settings, Namespace) else settings or {}


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
