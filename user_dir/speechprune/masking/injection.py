"""Putting masks on tensors and taking them off, and what masked tensors look like in checkpoints.

In a state dict a masked tensor has plain keys (see `speechprune.state_names`), and plain
checkpoints load too. A tensor under weight norm is masked after it, and has the keys of its
magnitude and direction. Where removed weights may come back, the weight is saved pruned, and beside
it the values that the removed ones have in training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from speechprune.errors import UserError
from speechprune.masking.bits import pack_bits, unpack_bits
from speechprune.masking.initialisation import rank_by_mask
from speechprune.masking.masked_weight import MaskedWeight
from speechprune.masking.weight_norm import (
    ORIGINALS,
    PARTS,
    ParametrizedNorm,
    has_weight_norm,
    norm_of,
    parametrize_norm,
    restore_norm,
)
from speechprune.state_names import mask_key, observed_key, regrown_key, scores_key


def masked_tensors(module: nn.Module) -> dict[str, MaskedWeight]:
    """The masked tensors of one module, by attribute name."""
    if not parametrize.is_parametrized(module):
        return {}
    found = {}
    for tensor, chain in module.parametrizations.items():  # type: ignore[union-attr, operator]
        # Not `chain[-1]`: a chain has further modules where one of its own parameters has a mask.
        last = list(chain.children())[-1]
        if isinstance(last, MaskedWeight):
            found[tensor] = last
    return found


def inject(module: nn.Module, tensor: str, masked: MaskedWeight) -> None:
    """Put ``masked`` on ``module.tensor`` and give the module its plain checkpoint keys.

    Raises:
        UserError: the tensor is under weight norm, but the policy writes to weights.
    """
    first = not masked_tensors(module)
    if has_weight_norm(module, tensor):
        if masked.writes_weights:
            raise UserError(
                f"{masked.name} is made by weight norm: a policy that writes pruned weights masks "
                "its direction (see speechprune.masking.sites.before_weight_norm)"
            )
        parametrize_norm(module, tensor)
    parametrize.register_parametrization(module, tensor, masked, unsafe=True)
    if first:
        module._register_state_dict_hook(_to_plain_keys)
        module._register_load_state_dict_pre_hook(_from_plain_keys, with_module=True)


def remove(module: nn.Module, tensor: str) -> None:
    """Bake the mask of ``module.tensor`` in: an ordinary parameter with its zeros remains, or the
    two of a weight under weight norm."""
    parameters, norm = parameters_under(module, tensor), norm_of(module, tensor)
    folded = masked_tensors(module)[tensor].product(weight_under(module, tensor)).clone()
    parametrize.remove_parametrizations(module, tensor, leave_parametrized=True)
    delattr(module, tensor)
    if norm is None:
        left = [nn.Parameter(folded)]
        module.register_parameter(tensor, left[0])
    else:
        left = restore_norm(module, tensor, folded, norm)
    for parameter, before in zip(left, parameters):
        parameter.requires_grad_(before.requires_grad)


def parameters_under(module: nn.Module, tensor: str) -> list[nn.Parameter]:
    """What ``module.tensor`` is without its mask: a parameter, or the magnitude and direction of
    weight norm."""
    chain: nn.Module = module.parametrizations[tensor]  # type: ignore[index, union-attr, assignment]
    return list(chain.parameters(recurse=False))


def weight_under(module: nn.Module, tensor: str) -> Tensor:
    """The unmasked value of ``module.tensor``; the parameter itself, but under weight norm."""
    parameters, norm = parameters_under(module, tensor), norm_of(module, tensor)
    return parameters[0] if norm is None else norm(*parameters)


@dataclass(frozen=True)
class _Keys:
    """What one masked tensor is called in state dicts, and inside of the module.

    Attributes:
        parameters: plain key to inner key, of the tensor or of the two parts of weight norm.
        masked: what precedes the inner names of what `MaskedWeight` keeps.
    """

    parameters: Mapping[str, str]
    masked: str

    @classmethod
    def of(cls, module: nn.Module, prefix: str, tensor: str) -> _Keys:
        inside = f"{prefix}parametrizations.{tensor}."
        norm = norm_of(module, tensor)
        if norm is None:
            return cls({prefix + tensor: inside + "original"}, inside + "0.")
        if isinstance(norm, ParametrizedNorm):  # its keys are plain ones already
            return cls({inside + part: inside + part for part in ORIGINALS}, inside + "1.")
        parts = {prefix + tensor + part: f"{inside}original{i}" for i, part in enumerate(PARTS)}
        return cls(parts, inside + "1.")


def _to_plain_keys(
    module: nn.Module, state: dict[str, Any], prefix: str, metadata: Mapping[str, Any]
) -> None:
    for tensor, masked in masked_tensors(module).items():
        keys = _Keys.of(module, prefix, tensor)
        if keys.masked + "mask" not in state:
            continue  # done already: the module was masked, folded and masked again
        for plain, inner in keys.parameters.items():
            state[plain] = state.pop(inner)
        mask = state.pop(keys.masked + "mask")
        if masked.saves_regrown:
            weight = state[prefix + tensor]
            state[prefix + regrown_key(tensor)] = weight[~mask]
            state[prefix + tensor] = torch.where(mask, weight, 0.0)
        state[prefix + mask_key(tensor)] = pack_bits(mask)
        if masked.scores is not None:
            scores = state.pop(keys.masked + "scores")
            state[prefix + scores_key(tensor)] = masked.spread(scores)
        if masked.observed is not None:
            state[prefix + observed_key(tensor)] = state.pop(keys.masked + "observed")


def _from_plain_keys(
    module: nn.Module,
    state: dict[str, Any],
    prefix: str,
    metadata: Mapping[str, Any],
    strict: bool,
    missing: list[str],
    unexpected: list[str],
    errors: list[str],
) -> None:
    """Accept our checkpoints, S3-Router's (no bits) and plain ones (no bits, no scores).

    Scores that the checkpoint lacks start from the weight that it brings, so that weight-based
    initialisations see the loaded weight, and in agreement with its mask, if it has one; scores
    that it has are never re-initialised.
    """
    for tensor, masked in masked_tensors(module).items():
        keys = _Keys.of(module, prefix, tensor)
        if not keys.parameters.keys() <= state.keys():
            continue
        parameters = [state.pop(plain) for plain in keys.parameters]
        norm = norm_of(module, tensor)
        weight = parameters[0] if norm is None else norm(*parameters)
        state.update(zip(keys.parameters.values(), parameters))
        bits = state.pop(prefix + mask_key(tensor), None)
        scores = state.pop(prefix + scores_key(tensor), None)
        regrown = state.pop(prefix + regrown_key(tensor), None)
        observed = state.pop(prefix + observed_key(tensor), None)
        mask = masked.mask if bits is None else unpack_bits(bits, masked.mask.shape)
        if regrown is not None and masked.saves_regrown:
            (inner,) = keys.parameters.values()
            state[inner] = grown_again(prefix + tensor, weight, mask, regrown)
        masked.awaits_scores = masked.view is not None and scores is None
        if masked.awaits_scores:
            state[keys.masked + "scores"] = masked.scores
        elif masked.scores is not None and scores is None:
            starting = masked.starting_scores(masked.ranked(weight))
            assert starting is not None
            if bits is not None:
                starting = rank_by_mask(starting, masked.collect(mask))
            state[keys.masked + "scores"] = starting
        elif masked.scores is not None:
            state[keys.masked + "scores"] = _fitting(prefix + tensor, scores, masked)
        if masked.observed is not None:
            nothing = torch.zeros_like(masked.observed)
            state[keys.masked + "observed"] = nothing if observed is None else observed
        masked.pending = None
        masked.unselected = bits is None
        state[keys.masked + "mask"] = mask
        masked.forget_product()


def grown_again(name: str, weight: Tensor, mask: Tensor, regrown: Tensor) -> Tensor:
    """A pruned weight with the values that its removed entries have in training."""
    removed = ~mask.to(weight.device)
    if int(removed.count_nonzero()) != regrown.numel():
        raise UserError(f"the checkpoint is damaged: {name} and its mask do not belong together")
    whole = weight.clone()
    whole[removed] = regrown.to(weight)
    return whole


def _fitting(name: str, scores: Tensor, masked: MaskedWeight) -> Tensor:
    """The scores of a checkpoint in the shape of those of ``masked``.

    A row's scores may be as many as a column's: only their shape tells them apart.
    """
    assert masked.scores is not None
    shape = masked.mask.shape
    remedy = "set model.linear_st_op to what they were trained with"
    if scores.shape != shape and not (scores.dim() == 1 and scores.numel() == shape.numel()):
        raise UserError(
            f"the checkpoint's scores of {name} have the shape {list(scores.shape)}, not "
            f"{list(shape)}: {remedy}"
        )
    try:
        return masked.collect(scores).view(masked.scores.shape)
    except UserError as error:
        raise UserError(f"the checkpoint's scores of {name}: {error}; {remedy}") from error
