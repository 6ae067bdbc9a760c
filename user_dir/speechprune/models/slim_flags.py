"""Settings of slimming while finetuning: what they are called, and what they make."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

from omegaconf import OmegaConf
from torch import nn

from speechprune.backbones.cost import encoder_cost
from speechprune.errors import UserError
from speechprune.masking.densities import check_sparsity
from speechprune.models.names import GATES
from speechprune.registry import unknown_name
from speechprune.slimming.cost import unit_costs
from speechprune.slimming.criteria import CRITERIA, Criterion
from speechprune.slimming.schedule import SHAPES, SlimSchedule
from speechprune.slimming.selection import SCOPES, check_bounds
from speechprune.slimming.targets import Budget, ProgressiveTarget, Shares
from speechprune.slimming.units import KINDS, LayerUnits

#: Settings of what is kept a share of, and what `speechprune.slimming.cost.Cost` calls that.
BUDGETS = {"keep_parameters": "parameters", "keep_macs": "multiply_adds"}


def _flag(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class SlimFlags:
    """How many heads and channels go, by which rule, and when."""

    ffn_sparsity: float = _flag(
        0.0, "share of the feed-forward channels that is REMOVED in the end, in [0, 1)"
    )
    head_sparsity: float = _flag(
        0.0, "share of the attention heads that is REMOVED in the end, in [0, 1)"
    )
    keep_parameters: Optional[float] = _flag(
        None, "in place of shares: share of the encoder's parameters that is KEPT"
    )
    keep_macs: Optional[float] = _flag(
        None,
        "in place of shares: share of the multiply-adds that is KEPT, for 10 s of audio or 128 "
        "symbols of text",
    )
    criterion: str = _flag(
        "snip_momentum",
        "rule that scores heads and channels: snip_momentum, snip, gradient or magnitude; or l0, "
        "gates that are learned",
    )
    criterion_options: Optional[Dict[str, Any]] = _flag(None, "options of the criterion")
    slim_scope: str = _flag(
        "local",
        "rank the units of each layer (local), of all layers (global), or of all by scores "
        "relative to their layer's mean (global_normalised), as a budget does unless it is global",
    )
    slim_floor: float = _flag(0.0, "smallest share that each layer loses of a kind of units")
    slim_cap: float = _flag(0.98, "largest share that a layer may lose of a kind of units")
    slim_schedule: str = _flag(
        "cubic", "from nothing removed to all that goes: exp, linear, cos, cubic or intel_cube"
    )
    whole_layers: List[int] = field(
        default_factory=list, metadata={"help": "layers that lose nothing, 0-based"}
    )
    prune_begin: Optional[int] = _flag(
        None, "update at which slimming begins; unset: model.freeze_finetune_updates"
    )
    prune_end: Optional[int] = _flag(
        None, "update of the last choice at the latest; unset: the middle of the run"
    )


def check_slim(cfg: Any) -> None:
    """Refuse what cannot work, before anything is built.

    Raises:
        UserError: shares or bounds outside [0, 1), nothing or two things to remove by, an unknown
            name, or a schedule that does not fit into the run.
    """
    _check_amounts(cfg)
    check_bounds(cfg.slim_floor, cfg.slim_cap)
    for key, known in (("slim_scope", SCOPES), ("slim_schedule", SHAPES)):
        if getattr(cfg, key) not in known:
            raise UserError(unknown_name(f"model.{key}", getattr(cfg, key), list(known)))
    if not kinds_of(cfg):
        raise UserError(
            "nothing is to be removed: set model.ffn_sparsity, model.head_sparsity, "
            "model.keep_parameters or model.keep_macs, and not both model.fix_attn and model.fix_fc"
        )
    if cfg.criterion != GATES:
        _check_scores(cfg)
    elif budget_of(cfg) is None:
        raise UserError(
            f"model.criterion={GATES} shares the cut out among heads and channels by itself: set "
            "model.keep_parameters or model.keep_macs, and leave out the two shares"
        )
    else:
        _check_unread(cfg)
    _check_time(cfg)


def _check_unread(cfg: Any) -> None:
    """Refuse settings that gates do not read."""
    for key in ("criterion_options", "slim_scope", "slim_floor", "slim_cap", "slim_schedule"):
        default = getattr(SlimFlags, key)
        if getattr(cfg, key) not in (default, {}):
            raise UserError(
                f"model.{key}={getattr(cfg, key)} is not read with model.criterion={GATES}; leave "
                "it out"
            )


def check_whole_layers(cfg: Any, layers: int) -> None:
    """Raise UserError if ``model.whole_layers`` does not leave one of so many layers to slim."""
    for layer in cfg.whole_layers:
        if isinstance(layer, bool) or not isinstance(layer, int):
            raise UserError(
                f"model.whole_layers names {layer!r}, which is not the number of a layer"
            )
        if not 0 <= layer < layers:
            raise UserError(
                f"model.whole_layers names layer {layer}, but the model has 0..{layers - 1}"
            )
    if len(set(cfg.whole_layers)) == layers:
        raise UserError("model.whole_layers names every layer: none is left to slim")


def _check_amounts(cfg: Any) -> None:
    for key in ("ffn_sparsity", "head_sparsity"):
        check_sparsity(f"model.{key}", getattr(cfg, key))
    given = [key for key in BUDGETS if getattr(cfg, key) is not None]
    for key in given:
        if not 0.0 < getattr(cfg, key) <= 1.0:
            raise UserError(f"model.{key}={getattr(cfg, key)} must be a share in (0, 1]")
    shares = [key for key in ("ffn_sparsity", "head_sparsity") if getattr(cfg, key)]
    if len(given) > 1 or (given and shares):
        named = " and ".join(f"model.{key}" for key in (*given, *shares))
        raise UserError(f"{named} contradict each other: give one budget, or shares")


def _check_scores(cfg: Any) -> None:
    names = [*CRITERIA.names(), GATES]
    if cfg.criterion not in names:
        raise UserError(unknown_name("model.criterion", cfg.criterion, names))
    criterion_of(cfg)
    for kind in KINDS if budget_of(cfg) is None else ():
        share = _share(cfg, kind)
        if share and not cfg.slim_floor <= share <= cfg.slim_cap:
            raise UserError(
                f"a share of {share} of the {kind} does not lie between model.slim_floor="
                f"{cfg.slim_floor} and model.slim_cap={cfg.slim_cap}"
            )


def _check_time(cfg: Any) -> None:
    if cfg.criterion != GATES or end_of(cfg) <= begin_of(cfg):  # gates move at every update
        schedule_of(cfg, 0.0)
    if begin_of(cfg) < cfg.freeze_finetune_updates:
        raise UserError(
            f"model.prune_begin={begin_of(cfg)} comes before the encoder trains: set it to "
            f"model.freeze_finetune_updates={cfg.freeze_finetune_updates} or later"
        )
    if 0 < cfg.max_update < end_of(cfg):
        raise UserError(
            f"model.prune_end={end_of(cfg)} comes after the run ends, at optimization.max_update="
            f"{cfg.max_update}"
        )


def begin_of(cfg: Any) -> int:
    """The update of event 0."""
    return int(cfg.freeze_finetune_updates if cfg.prune_begin is None else cfg.prune_begin)


def end_of(cfg: Any) -> int:
    """The update at which everything that is to go has gone."""
    return (begin_of(cfg) + cfg.max_update) // 2 if cfg.prune_end is None else int(cfg.prune_end)


def schedule_of(cfg: Any, share: float) -> SlimSchedule:
    """The events of a run that remove a share in the end; raises UserError as `SlimSchedule`."""
    return SlimSchedule(share, begin_of(cfg), end_of(cfg), cfg.prune_every, cfg.slim_schedule)


def criterion_of(cfg: Any) -> Criterion:
    """The criterion that the settings name; raises UserError as `Registry.build`."""
    options = cfg.criterion_options or {}
    plain: Any = OmegaConf.to_container(options) if OmegaConf.is_config(options) else options
    criterion: Criterion = CRITERIA.build(cfg.criterion, **plain)
    return criterion


def budget_of(cfg: Any) -> Optional[str]:
    """The name of the budget that is set, of `BUDGETS`; None if shares are."""
    return next((key for key in BUDGETS if getattr(cfg, key) is not None), None)


def _share(cfg: Any, kind: str) -> float:
    return float(cfg.head_sparsity if kind == "heads" else cfg.ffn_sparsity)


def kinds_of(cfg: Any) -> List[str]:
    """The kinds of units that something is to be removed of."""
    free = {"heads": not cfg.fix_attn, "channels": not cfg.fix_fc}
    has_budget = budget_of(cfg) is not None
    return [kind for kind in KINDS if free[kind] and (has_budget or _share(cfg, kind))]


def target_of(cfg: Any, units: List[LayerUnits], encoder: nn.Module) -> ProgressiveTarget:
    """What is to be kept of an encoder whose layers have ``units``.

    Raises:
        UserError: shares or a budget that cannot be met.
    """
    free = [each for each in units if each.layer not in cfg.whole_layers]
    key = budget_of(cfg)
    if key is None:
        schedules = {kind: schedule_of(cfg, _share(cfg, kind)) for kind in kinds_of(cfg)}
        target: ProgressiveTarget = Shares(schedules, cfg.slim_scope, cfg.slim_floor, cfg.slim_cap)
    else:
        measure, whole, kinds = BUDGETS[key], encoder_cost(encoder), kinds_of(cfg)
        costs = {k: cost for k, cost in unit_costs(free, whole.frames).items() if k[0] in kinds}
        target = Budget(
            measure,
            whole.of(measure),
            {k: cost.of(measure) for k, cost in costs.items()},
            schedule_of(cfg, 1.0 - getattr(cfg, key)),
            cfg.slim_floor,
            cfg.slim_cap,
            {k: cost.parameters for k, cost in costs.items()},
            normalised=cfg.slim_scope != "global",
        )
    target.check({(kind, u.layer): u.count(kind) for kind in target.kinds for u in free})
    return target
