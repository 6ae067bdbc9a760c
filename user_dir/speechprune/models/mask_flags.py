"""S3-Router's flags: what they are called, and what they mean for sites and parameters."""

from dataclasses import dataclass, field
from typing import Any, Collection, Dict, List, Mapping, Optional, Set, Tuple

from speechprune.backbones import LAYER_ROLES
from speechprune.errors import UserError
from speechprune.masking.densities import check_density
from speechprune.masking.initialisation import check_name
from speechprune.masking.sites import Site
from speechprune.registry import unknown_name

#: One score for each attention head, and for each feed-forward channel.
PER_UNIT = "linear_st_head"
GRANULARITIES = {
    "linear_st": "weight",
    "linear_st_outstr": "row",
    "linear_st_instr": "column",
    PER_UNIT: "row",  # of the weights as `UnitView` shows them
}


def _flag(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


def _rates(help: str) -> Any:
    return field(default_factory=list, metadata={"help": help})


@dataclass
class MaskFlags:
    """What has a mask, how it is learned, and what else trains; S3-Router's names and defaults."""

    prune_rate: float = _flag(0.5, "share of each masked tensor that is KEPT, in (0, 1]")
    no_prune_proj: bool = _flag(True, "put no mask on the CTC head")
    no_prune_extractor: bool = _flag(True, "put no mask on the convolutional extractor")
    no_prune_pos: bool = _flag(True, "put no mask on the convolutional positions")
    no_prune_post_extract_proj: bool = _flag(
        False, "put no mask on the projection after the extractor"
    )
    trainable_bias: bool = _flag(False, "train every bias")
    trainable_layer_norm: bool = _flag(False, "train the layer norms")
    trainable_pos: bool = _flag(False, "train the convolutional positions")
    trainable_proj: bool = _flag(False, "train the CTC head")
    trainable_post_extract_proj: bool = _flag(False, "train the projection after the extractor")
    trainable_if_unpruned: bool = _flag(
        False, "train all that has no mask, but the layers' projections"
    )
    init_score: str = _flag("kaiming_uniform", "how scores start; see masking/initialisation.py")
    init_score_scale: float = _flag(
        1.0, "divisor of init_score=weight_rank_with_scale and weight_magnitude_with_scale"
    )
    fix_attn: bool = _flag(False, "put no mask on attention projections")
    fix_fc: bool = _flag(False, "put no mask on feed-forward weights")
    layerwise_prune_rate: Optional[List[float]] = _rates(
        "share kept of each layer, one value per layer; what is outside the layers stays whole"
    )
    fc_attn_prune_rate: Optional[List[float]] = _rates(
        "shares kept of feed-forward and attention weights"
    )
    co_train: bool = _flag(False, "train all weights together with the scores")
    ste_sigmoid: bool = _flag(False, "multiply score gradients by s(1-s), s = sigmoid(|score|)")
    linear_st_op: str = _flag(
        "linear_st",
        "one score per weight (linear_st), row (linear_st_outstr), column (linear_st_instr), or "
        "attention head and feed-forward channel (linear_st_head)",
    )
    fix_mask: bool = _flag(False, "freeze the scores of every layer")
    fix_mask_before: Optional[int] = _flag(
        None, "freeze the scores of layers below this one; 0 is unset, as in S3-Router's files"
    )
    load_mask_only: bool = _flag(False, "take only masks from checkpoint.finetune_from_model")
    load_mask_before: Optional[int] = _flag(
        None, "... and only those of layers below this one; 0 is unset"
    )
    eval_only: bool = _flag(False, "validate once and end")


def check_flags(cfg: MaskFlags, layers: Optional[int] = None) -> None:
    """Refuse what cannot work, before anything is built.

    Args:
        layers: number of transformer layers; None if it is not known yet, and what depends on it
            is to be checked later.

    Raises:
        UserError: a rate outside (0, 1], a wrong number of rates, an unknown name, or flags that
            contradict each other.
    """
    check_network(cfg, layers)
    for condition, message in _contradictions(cfg):
        if condition:
            raise UserError(message)


def check_network(cfg: MaskFlags, layers: Optional[int] = None) -> None:
    """Refuse flags of which no network can be built, whether it is to be trained or not.

    Args:
        layers: as for `check_flags`.

    Raises:
        UserError: a rate outside (0, 1], a wrong number of rates, a layer that is none, or an
            unknown name.
    """
    check_density("model.prune_rate", cfg.prune_rate)
    own = len(cfg.layerwise_prune_rate or []) if layers is None else layers
    _check_rates("model.layerwise_prune_rate", cfg.layerwise_prune_rate, own, "one per layer")
    _check_rates("model.fc_attn_prune_rate", cfg.fc_attn_prune_rate, 2, "feed-forward, attention")
    check_name(cfg.init_score)
    if cfg.linear_st_op not in GRANULARITIES:
        raise UserError(unknown_name("model.linear_st_op", cfg.linear_st_op, list(GRANULARITIES)))
    for key in ("fix_mask_before", "load_mask_before"):
        value = getattr(cfg, key)
        if layers is not None and value is not None and not 0 <= value <= layers:
            raise UserError(f"model.{key}={value} is not a layer of a model with {layers} layers")


def _check_rates(key: str, rates: Optional[List[float]], count: int, what: str) -> None:
    if rates and len(rates) != count:
        raise UserError(f"{key} needs {count} values ({what}), not {len(rates)}")
    for rate in rates or []:
        check_density(key, rate)


def refuse_masked_head(cfg: Any, head: str) -> None:
    """Raise UserError if flags put a mask on an output layer that has several weights.

    Args:
        head: what it is the head of.
    """
    if not cfg.no_prune_proj:
        raise UserError(
            "model.no_prune_proj=false puts a mask on the one weight of a CTC head; the head of "
            f"{head} has several layers, which stay whole: leave it out"
        )


def _contradictions(cfg: MaskFlags) -> List[Tuple[bool, str]]:
    unmasked = cfg.fix_attn and cfg.fix_fc
    others = (
        *(cfg.trainable_bias, cfg.trainable_layer_norm, cfg.trainable_pos, cfg.trainable_proj),
        *(cfg.trainable_post_extract_proj, cfg.trainable_if_unpruned, cfg.co_train),
        getattr(cfg, "apply_mask", False),  # the embedding of masked spans always learns
    )
    head_first = getattr(cfg, "freeze_finetune_updates", 0) > 0
    elsewhere = not (
        cfg.no_prune_proj
        and cfg.no_prune_extractor
        and cfg.no_prune_pos
        and cfg.no_prune_post_extract_proj
    )
    return [
        (
            unmasked and not elsewhere,
            "model.fix_attn=true and model.fix_fc=true leave nothing to mask; drop one of them",
        ),
        (
            bool(cfg.fix_mask and cfg.fix_mask_before),
            "model.fix_mask freezes every layer's scores, model.fix_mask_before only some; use one",
        ),
        (
            cfg.fix_mask and not any(others) and not cfg.eval_only,
            "model.fix_mask=true leaves nothing to learn; set model.trainable_proj=true",
        ),
        (
            head_first and not trains_head(cfg) and not cfg.eval_only,
            "model.freeze_finetune_updates trains the head alone at first, but "
            "model.trainable_proj=false freezes it; set model.trainable_proj=true",
        ),
        (
            bool(cfg.load_mask_before) and not cfg.load_mask_only,
            "model.load_mask_before needs model.load_mask_only=true",
        ),
        (
            cfg.load_mask_only and not getattr(cfg, "finetune_from_model", None),
            "model.load_mask_only=true needs checkpoint.finetune_from_model=CHECKPOINT",
        ),
    ]


def masked_roles(cfg: MaskFlags) -> Set[str]:
    """The roles that get a mask under these flags (the CTC head is "head")."""
    roles = set(LAYER_ROLES)
    if cfg.fix_attn:
        roles -= {role for role in LAYER_ROLES if role.startswith("attn.")}
    if cfg.fix_fc:
        roles -= {role for role in LAYER_ROLES if role.startswith("ffn.")}
    for unmasked, role in (
        (cfg.no_prune_proj, "head"),
        (cfg.no_prune_extractor, "front.conv"),
        (cfg.no_prune_pos, "pos.conv"),
        (cfg.no_prune_post_extract_proj, "front.proj"),
    ):
        if not unmasked:
            roles.add(role)
    return roles


def flags_of(roles: Collection[str]) -> Dict[str, bool]:
    """The flags that put masks on ``roles``, and on the roles that share a flag with one."""
    return {
        "fix_attn": not any(role.startswith("attn.") for role in roles),
        "fix_fc": not any(role.startswith("ffn.") for role in roles),
        "no_prune_proj": "head" not in roles,
        "no_prune_extractor": "front.conv" not in roles,
        "no_prune_pos": "pos.conv" not in roles,
        "no_prune_post_extract_proj": "front.proj" not in roles,
    }


#: Flags that choose which tensors have masks.
SITE_FLAGS = tuple(flags_of(()))
#: Flags that free what is frozen beside the masked weights.
TRAINABLE_FLAGS = (
    *("trainable_bias", "trainable_layer_norm", "trainable_pos", "trainable_proj"),
    *("trainable_post_extract_proj", "trainable_if_unpruned"),
)


def trains_head(cfg: MaskFlags) -> bool:
    """Whether the CTC head learns: itself, or through a mask of its own."""
    return cfg.trainable_proj or cfg.trainable_if_unpruned or cfg.co_train or not cfg.no_prune_proj


def as_s3router_reads(cfg: Mapping[str, Any]) -> Dict[str, bool]:
    """The flags in a checkpoint of S3-Router that have another meaning there, as they are meant.

    Its rates of layers, or of feed-forward and attention weights, put masks on all of these,
    whatever `fix_attn` and `fix_fc` say; and `fix_attn` has precedence over `fix_fc`.

    Raises:
        UserError: a combination of flags in which it takes the extractor's convolutions for layers.
    """
    if cfg.get("layerwise_prune_rate") and not cfg.get("no_prune_extractor", True):
        raise UserError(
            "S3-Router gives the extractor's convolutions the rates of the layers of equal numbers "
            "(model.layerwise_prune_rate with model.no_prune_extractor=false), which speechprune "
            "does not"
        )
    if cfg.get("layerwise_prune_rate") or cfg.get("fc_attn_prune_rate"):
        return {"fix_attn": False, "fix_fc": False}
    fix_attn = bool(cfg.get("fix_attn"))
    return {"fix_attn": fix_attn, "fix_fc": bool(cfg.get("fix_fc")) and not fix_attn}


def densities(cfg: MaskFlags, sites: List[Site]) -> Dict[str, float]:
    """Share kept by site name: layerwise rates come first, then the pair, then prune_rate.

    Under layerwise rates, what is outside the layers is kept whole.
    """
    by_site = {}
    for site in sites:
        if cfg.layerwise_prune_rate:
            by_site[site.name] = 1.0 if site.layer is None else cfg.layerwise_prune_rate[site.layer]
        elif cfg.fc_attn_prune_rate and site.layer is not None:
            feed_forward, attention = cfg.fc_attn_prune_rate
            by_site[site.name] = feed_forward if site.role.startswith("ffn.") else attention
    return by_site


def freezes_scores(cfg: MaskFlags, site: Site) -> bool:
    """Whether fix_mask or fix_mask_before freezes the scores of ``site``."""
    before = cfg.fix_mask_before
    return cfg.fix_mask or (before is not None and site.layer is not None and site.layer < before)
