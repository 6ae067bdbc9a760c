"""Settings of pruning while finetuning: what they are called, and what they make."""

from dataclasses import dataclass, field
from typing import Any, Dict, Optional

from omegaconf import II, OmegaConf

from speechprune.errors import UserError
from speechprune.masking.densities import check_sparsity
from speechprune.masking.policies import POLICIES, MaskPolicy
from speechprune.masking.schedule import (
    SHAPES,
    ConstantSchedule,
    ProgressiveSchedule,
    Schedule,
)
from speechprune.registry import unknown_name

#: model.prune_scope -> scope of the controller.
SCOPES = {"global": "global", "tensor": "site"}


def _flag(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class PruningFlags:
    """By which rule masks are chosen, how many connections they remove, and when."""

    policy: str = _flag("parp", "rule that chooses masks; `speechprune policies` lists them")
    # None, since hydra adds no keys to a mapping of a config.
    policy_options: Optional[Dict[str, Any]] = _flag(
        None, "options of the policy, such as {n:2,m:4}; `speechprune policies` lists them"
    )
    train_weights: Optional[bool] = _flag(
        None, "train the masked weights, or freeze them; unset: as the policy does"
    )
    sparsity: float = _flag(0.5, "share of all masked weights that is REMOVED, in [0, 1)")
    start_sparsity: Optional[float] = _flag(
        None, "share removed at first; unset: that of sparsity, or 0 if the policy starts dense"
    )
    sparsity_schedule: str = _flag("cubic", "from start_sparsity to sparsity: linear or cubic")
    sparsity_end: Optional[int] = _flag(
        None, "update from which sparsity is reached; unset: the middle of the run"
    )
    prune_every: int = _flag(50, "updates from one choice of masks to the next")
    prune_scope: str = _flag("global", "rank all weights together (global) or per tensor (tensor)")
    prune_biases: Optional[bool] = _flag(
        None, "prune the biases of the masked projections too; unset: as the policy does"
    )
    mask_file: Optional[str] = _flag(
        None, "mask file, or checkpoint with masks: the masks to start from, or to keep"
    )


@dataclass
class PruningContext:
    """What pruning has to know of fairseq's other groups."""

    max_update: int = II("optimization.max_update")
    use_bmuf: bool = II("optimization.use_bmuf")
    store_ema: bool = II("ema.store_ema")
    pipeline_model_parallel: bool = II("distributed_training.pipeline_model_parallel")
    zero_sharding: str = II("distributed_training.zero_sharding")


def check_pruning(cfg: Any) -> None:
    """Refuse what cannot work, before anything is built.

    Raises:
        UserError: a sparsity outside [0, 1), a start over the target, an unknown name or option,
            masks chosen every 0 updates, a policy that asks for other settings, or a schedule that
            does not fit into the run.
    """
    check_sparsity("model.sparsity", cfg.sparsity)
    if cfg.start_sparsity is not None:
        check_sparsity("model.start_sparsity", cfg.start_sparsity)
        if cfg.start_sparsity > cfg.sparsity:
            raise UserError(
                f"model.start_sparsity={cfg.start_sparsity} is over the target "
                f"model.sparsity={cfg.sparsity}"
            )
    if cfg.prune_every < 1:
        raise UserError(f"model.prune_every={cfg.prune_every} must be 1 or more updates")
    for key, known in (("prune_scope", SCOPES), ("sparsity_schedule", SHAPES)):
        if getattr(cfg, key) not in known:
            raise UserError(unknown_name(f"model.{key}", getattr(cfg, key), list(known)))
    _check_policy(cfg)
    _check_start(cfg)
    _check_time(cfg)


def check_modes(cfg: Any) -> None:
    """Raise UserError, by name, in a mode of training in which masks cannot be right."""
    for wrong, mode, advice in (
        (
            cfg.ddp_backend in ("fully_sharded", "slowmo"),
            f"distributed_training.ddp_backend={cfg.ddp_backend}",
            "use legacy_ddp",
        ),
        (cfg.use_bmuf, "optimization.use_bmuf=true", "leave it out"),
        (cfg.store_ema, "ema.store_ema=true", "its average of the weights is not sparse"),
        (
            cfg.pipeline_model_parallel,
            "distributed_training.pipeline_model_parallel=true",
            "leave it out",
        ),
        (
            cfg.zero_sharding not in (None, "none"),
            f"distributed_training.zero_sharding={cfg.zero_sharding}",
            "leave it out",
        ),
    ):
        if wrong:
            raise UserError(f"{mode} does not go together with masks on trained weights; {advice}")


def policy_of(cfg: Any) -> MaskPolicy:
    """The policy that the settings name, with its options; raises UserError as `Registry.build`."""
    options = cfg.policy_options or {}
    plain: Any = OmegaConf.to_container(options) if OmegaConf.is_config(options) else options
    return POLICIES.build(cfg.policy, **plain)


def trains_weights(cfg: Any) -> bool:
    """Whether the masked weights are trained."""
    return policy_of(cfg).trains_weights if cfg.train_weights is None else bool(cfg.train_weights)


def start_of(cfg: Any) -> float:
    """The sparsity at the first update."""
    if cfg.start_sparsity is not None:
        return float(cfg.start_sparsity)
    return 0.0 if policy_of(cfg).starts_dense else float(cfg.sparsity)


def end_of(cfg: Any) -> int:
    """The update from which the target sparsity holds."""
    if cfg.sparsity_end is not None:
        return int(cfg.sparsity_end)
    return (cfg.freeze_finetune_updates + cfg.max_update + 1) // 2


def _check_policy(cfg: Any) -> None:
    """What the policy asks of the other settings."""
    policy = policy_of(cfg)
    if policy.needs_trained_weights and not trains_weights(cfg):
        raise UserError(
            f"model.policy={cfg.policy} follows the weights as they are trained, but "
            "model.train_weights=false freezes them"
        )
    if policy.pattern is not None:
        n, m = policy.pattern
        if abs(cfg.sparsity - (1.0 - n / m)) > 1e-9 or start_of(cfg) != cfg.sparsity:
            raise UserError(
                f"model.policy={cfg.policy} keeps {n} of every {m} weights from the first update "
                f"on; set model.sparsity={1.0 - n / m:g} and leave out model.start_sparsity"
            )


def _check_start(cfg: Any) -> None:
    """What can be removed at first."""
    if start_of(cfg) > 0.0 and not policy_of(cfg).ranks_at_first:
        raise UserError(
            f"model.policy={cfg.policy} cannot tell weights apart before it has trained them; set "
            "model.start_sparsity=0"
        )


def _check_time(cfg: Any) -> None:
    """When there is something to adjust, and the target is reached."""
    if 0 < cfg.max_update <= cfg.freeze_finetune_updates:
        raise UserError(
            f"model.freeze_finetune_updates={cfg.freeze_finetune_updates} leaves none of "
            f"optimization.max_update={cfg.max_update} updates to adjust weights in"
        )
    if start_of(cfg) < cfg.sparsity:
        _check_end(cfg)
    elif cfg.sparsity_end is not None:
        raise UserError(
            f"model.sparsity_end={cfg.sparsity_end} has no effect: the run starts at the target "
            f"sparsity; set model.start_sparsity below {cfg.sparsity}"
        )


def _check_end(cfg: Any) -> None:
    """The last choice of masks must be one at the target."""
    begin, end = cfg.freeze_finetune_updates, end_of(cfg)
    key = "model.sparsity_end" if cfg.sparsity_end is not None else "optimization.max_update"
    if end <= begin:
        raise UserError(
            f"{key} leaves no time to prune: it begins at update {begin} "
            f"(model.freeze_finetune_updates) and would end at {end}; set model.sparsity_end"
        )
    if cfg.max_update < 1:
        return
    last = begin + max(cfg.max_update - begin, 0) // cfg.prune_every * cfg.prune_every
    if last < end:
        raise UserError(
            f"the target sparsity of update {end} would never be reached: masks are chosen every "
            f"{cfg.prune_every} updates, at {last} for the last time; lower model.sparsity_end or "
            "model.prune_every"
        )


def schedule_of(cfg: Any) -> Schedule:
    """Densities of a run: one, or fewer and fewer after the encoder is let loose."""
    start, target = 1.0 - start_of(cfg), 1.0 - cfg.sparsity
    if start == target:
        return ConstantSchedule(target)
    return ProgressiveSchedule(
        start, target, cfg.freeze_finetune_updates, end_of(cfg), cfg.sparsity_schedule
    )
