"""What masks and gates add to a loss: the penalty of whatever controllers a model has."""

from typing import Any, Dict, List, Optional

import torch
from fairseq import utils
from fairseq.logging import metrics
from torch import Tensor

from speechprune.slimming.controller import SLIM_CONTROLLER

#: The attributes of models that hold what may have a penalty.
_CONTROLLERS = ("mask_controller", SLIM_CONTROLLER)


def penalty_of(model: Any) -> Optional[Tensor]:
    """The sum of the penalties of a model's controllers; None if none has one."""
    controllers = [getattr(model, name, None) for name in _CONTROLLERS]
    penalties = [controller.penalty() for controller in controllers if controller is not None]
    given = [penalty for penalty in penalties if penalty is not None]
    return torch.stack(given).sum() if given else None


def penalised(
    loss: Tensor, sample_size: int, log: Dict[str, Any], model: Any, weight: float
) -> Tensor:
    """``loss`` with the model's penalty, which is logged with the density of its masks.

    It is added once per unit of the loss's normalisation, so that it does not depend on the batch
    size or `update_freq`.

    Args:
        loss: a sum, which fairseq divides by ``sample_size``.
        weight: factor of the penalty.
    """
    penalty = penalty_of(model)
    if penalty is not None:
        penalty = penalty * sample_size
        loss = loss + weight * penalty
    masks = getattr(model, "mask_controller", None)
    density = 1.0 if masks is None else masks.stats()["density"]
    log["penalty"] = 0.0 if penalty is None else utils.item(penalty.data)
    log["density"] = density * sample_size
    return loss


def reduce_penalty(logs: List[Dict[str, Any]]) -> None:
    """Log the means of what `penalised` logged of each batch."""
    sample_size = sum(log.get("sample_size", 0) for log in logs)
    for key, digits in (("penalty", 5), ("density", 6)):
        total = utils.item(sum(log.get(key, 0) for log in logs))
        metrics.log_scalar(key, total / sample_size, sample_size, round=digits)
