"""The parametrization that puts a mask on a tensor, and what it looks like in checkpoints.

`torch.nn.utils.parametrize` is used because fairseq's attention reads ``q_proj.weight`` and never
calls ``q_proj``: wrapper modules and forward hooks see nothing. In a state dict a masked tensor has
plain keys (see `speechprune.state_names`), and plain checkpoints load too. A tensor under weight
norm is masked after it, and has the keys of its magnitude and direction. Where removed weights may
come back, the weight is saved pruned, and beside it the values that the removed ones have in
training.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from speechprune.errors import UserError
from speechprune.masking.bits import pack_bits, unpack_bits
from speechprune.masking.initialisation import rank_by_mask
from speechprune.masking.policies.base import MaskPolicy
from speechprune.masking.selection import flipped_places
from speechprune.masking.unit_view import UnitView
from speechprune.masking.weight_norm import (
    PARTS,
    NormalisedWeight,
    has_weight_norm,
    parametrize_norm,
    restore_norm,
)
from speechprune.state_names import mask_key, observed_key, regrown_key, scores_key


class _StraightThrough(torch.autograd.Function):
    """weight * mask; backward, the policy's gradient to scores and a masked one to the weight."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        scores: Tensor | None,
        mask: Tensor,
        product: Tensor,
        masked: MaskedWeight,
        probe: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(weight, scores, mask)
        ctx.masked = masked
        return product.view_as(product)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        weight, scores, mask = ctx.saved_tensors
        policy = ctx.masked.policy
        weight_gradient = score_gradient = None
        if ctx.needs_input_grad[0]:
            weight_gradient = gradient if policy.dense_gradient else gradient * mask
        if ctx.needs_input_grad[1]:
            rows, values = ctx.masked.ranked(gradient), ctx.masked.ranked(weight)
            score_gradient = policy.score_gradient(rows, values, scores)
        if policy.observes:
            ctx.masked.gather(policy.observe(weight, gradient))
        return weight_gradient, score_gradient, None, None, None, None


class MaskedWeight(nn.Module):
    """Replaces a tensor by its product with a 0/1 mask.

    The product is computed once and kept until the mask or the weight changes: micro-batches,
    validation and activation-checkpoint recomputation all read the same tensor. Under a policy that
    `masks_evaluation_only`, training reads the tensor itself.

    Args:
        policy: the rule that made the mask.
        weight: the tensor to be masked, as loaded.
        name: of the site; it seeds the scores.
        density: the share kept at first.
        seed: of the run.
        initialise: give the scores their starting values now. False leaves zeros, for a model
            whose checkpoint is about to be loaded.
        trains: whether the weight is trained; as the policy says by default.
        view: of the units that the policy ranks, each as if it were a row of a weight. Their scores
            are shared with other weights, and `SharedScores` starts them.

    Attributes:
        observed: what the policy gathered since the mask was last chosen, float32 in the shape of
            the weight; None under a policy that observes nothing.
        pending: the same of the micro-batches since the last update; None if there were none.
    """

    mask: Tensor
    observed: Tensor | None

    def __init__(
        self,
        policy: MaskPolicy,
        weight: Tensor,
        name: str,
        density: float,
        seed: int,
        initialise: bool = True,
        trains: bool | None = None,
        view: UnitView | None = None,
    ) -> None:
        super().__init__()
        self.policy = policy
        self.view = view
        trains = policy.trains_weights if trains is None else trains
        #: Whether a checkpoint holds what removed weights have grown to, beside the pruned ones.
        self.saves_regrown = trains and policy.removed_weights_return
        #: Whether values are written to the weight itself: after steps, or into checkpoints.
        self.writes_weights = self.saves_regrown or policy.edits_weights
        self.name = name
        self.density = density
        self.seed = seed
        starts = initialise and view is None
        scores = self.starting_scores(weight) if starts else self._empty_scores(weight)
        self.scores = None if scores is None else nn.Parameter(scores.to(weight))
        #: Whether shared scores have no values yet.
        self.awaits_scores = view is not None
        shape = weight.shape if scores is None else self.spread(scores).shape
        self.register_buffer("mask", torch.ones(shape, dtype=torch.bool, device=weight.device))
        observed = torch.zeros(shape, device=weight.device) if policy.observes else None
        self.register_buffer("observed", observed)
        self.pending: Tensor | None = None
        # Autograd asks for the gradient of a product only if something in it requires one.
        self._probe = torch.zeros((), requires_grad=True) if policy.observes else None
        #: Whether the mask has to be chosen anew, whatever the update: it was never chosen yet.
        self.unselected = True
        self._product: Tensor | None = None

    def ranked(self, weight: Tensor) -> Tensor:
        """The weight, or its gradient, as the policy sees it: with a row for each unit, if units
        are ranked."""
        return weight if self.view is None else self.view.rows(weight)

    def spread(self, ranked: Tensor) -> Tensor:
        """What there is one of for each importance, such as scores, in the shape of the mask."""
        return ranked if self.view is None else self.view.spread(ranked)

    def collect(self, spread: Tensor) -> Tensor:
        """The opposite of `spread`; raises UserError if a unit has several values."""
        return spread if self.view is None else self.view.collect(spread)

    @property
    def ranked_mask(self) -> Tensor:
        """The mask with one entry for each importance."""
        return self.collect(self.mask)

    def starting_scores(self, weight: Tensor) -> Tensor | None:
        """Scores as the policy starts them from ``weight``, as it sees it; the same on every rank
        and device."""
        generator = torch.Generator().manual_seed(self.seed + zlib.crc32(self.name.encode()))
        return self.policy.init_scores(weight.detach().float().cpu(), self.density, generator)

    def _empty_scores(self, weight: Tensor) -> Tensor | None:
        shape = self.policy.score_shape(self.ranked(weight).shape)
        return None if shape is None else torch.zeros(shape)

    def forward(self, weight: Tensor) -> Tensor:
        if self.training and self.policy.masks_evaluation_only:
            return weight
        product = self.product(weight)
        return _StraightThrough.apply(
            weight, self.scores, self.mask, product, self, self._probe if self.training else None
        )

    def product(self, weight: Tensor) -> Tensor:
        """The weight where it is kept, 0 elsewhere; without gradient, and not to be changed."""
        if self._product is None:
            # An inference tensor could not be used by a later training step.
            with torch.inference_mode(False), torch.no_grad():
                self._product = torch.where(self.mask, weight, 0.0)
        return self._product

    def choose(self, mask: Tensor, weight: Tensor | None = None) -> Tensor | int:
        """Take a new mask, bool in the shape of the scores (of the weight, without scores).

        Few connections flip from one update to the next: on a CPU, given the unmasked ``weight``,
        the product is patched in those places only.

        Returns:
            How many entries flipped; 0 for the first mask.
        """
        before, self.mask = self.mask, mask
        first, self.unselected = self.unselected, False
        product = self._product
        if product is None or weight is None or mask.shape != weight.shape or mask.is_cuda:
            self.forget_product()
            return 0 if first else (mask ^ before).count_nonzero()
        places = flipped_places(before, mask)
        values = weight.detach().reshape(-1).index_select(0, places)
        kept = torch.where(mask.view(-1).index_select(0, places), values, 0.0)
        product.view(-1).index_copy_(0, places, kept)
        return 0 if first else len(places)

    def let_scores_agree(self) -> None:
        """Deal the scores out anew, the largest to what the mask keeps, if they are one each."""
        if self.scores is not None and self.scores.shape == self.mask.shape:
            with torch.no_grad():
                self.scores.copy_(rank_by_mask(self.scores, self.mask))

    def gather(self, observation: Tensor) -> None:
        """Add what one backward pass said of each entry to what is pending."""
        observation = observation.float()
        self.pending = observation if self.pending is None else self.pending.add_(observation)

    def forget_observed(self) -> None:
        """Begin to gather anew."""
        assert self.observed is not None
        self.observed.zero_()
        self.pending = None

    def forget_product(self) -> None:
        """The weight or the mask has changed: compute their product anew when next read."""
        self._product = None

    def _apply(self, *arguments: Any, **options: Any) -> MaskedWeight:
        self.forget_product()
        super()._apply(*arguments, **options)
        if self.observed is not None:  # sums of many updates, which half precision would not hold
            self.observed = self.observed.float()
        return self


def masked_tensors(module: nn.Module) -> dict[str, MaskedWeight]:
    """The masked tensors of one module, by attribute name."""
    if not parametrize.is_parametrized(module):
        return {}
    found = {}
    for tensor, chain in module.parametrizations.items():  # type: ignore[union-attr, operator]
        if isinstance(chain[-1], MaskedWeight):
            found[tensor] = chain[-1]
    return found


def norm_under_mask(module: nn.Module, tensor: str) -> NormalisedWeight | None:
    """The weight norm that makes what the mask of ``module.tensor`` is put on; None if there is
    none."""
    first = module.parametrizations[tensor][0]  # type: ignore[index, union-attr]
    return first if isinstance(first, NormalisedWeight) else None


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
    parameters, norm = parameters_under(module, tensor), norm_under_mask(module, tensor)
    folded = masked_tensors(module)[tensor].product(weight_under(module, tensor)).clone()
    parametrize.remove_parametrizations(module, tensor, leave_parametrized=True)
    delattr(module, tensor)
    if norm is None:
        module.register_parameter(tensor, nn.Parameter(folded))
        left = [tensor]
    else:
        restore_norm(module, tensor, folded, norm.dimension)
        left = [tensor + part for part in PARTS]
    for name, before in zip(left, parameters):
        getattr(module, name).requires_grad_(before.requires_grad)


def parameters_under(module: nn.Module, tensor: str) -> list[nn.Parameter]:
    """What ``module.tensor`` is without its mask: a parameter, or the magnitude and direction of
    weight norm."""
    chain: nn.Module = module.parametrizations[tensor]  # type: ignore[index, union-attr, assignment]
    return list(chain.parameters(recurse=False))


def weight_under(module: nn.Module, tensor: str) -> Tensor:
    """The unmasked value of ``module.tensor``; the parameter itself, but under weight norm."""
    parameters, norm = parameters_under(module, tensor), norm_under_mask(module, tensor)
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
        if norm_under_mask(module, tensor) is None:
            return cls({prefix + tensor: inside + "original"}, inside + "0.")
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
        norm = norm_under_mask(module, tensor)
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
        elif masked.scores is not None:
            if scores is None:
                scores = masked.starting_scores(weight)
                assert scores is not None
                scores = scores if bits is None else rank_by_mask(scores, mask)
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
