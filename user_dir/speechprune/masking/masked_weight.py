"""The parametrization that replaces a tensor by its product with a mask.

`torch.nn.utils.parametrize` is used because fairseq's attention reads ``q_proj.weight`` and never
calls ``q_proj``: wrapper modules and forward hooks see nothing.
"""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import Tensor, nn

from speechprune.masking.initialisation import rank_by_mask
from speechprune.masking.matrix_view import MatrixView
from speechprune.masking.policies.base import MaskPolicy
from speechprune.masking.selection import flipped_places
from speechprune.masking.unit_view import UnitView


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
        matrix: how the tensor is the matrix that the policy sees; None if it sees it as it is.

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
        matrix: MatrixView | None = None,
    ) -> None:
        super().__init__()
        self.policy = policy
        self.view = view
        self.matrix = matrix
        self.shape = tuple(weight.shape)
        trains = policy.trains_weights if trains is None else trains
        #: Whether a checkpoint holds what removed weights have grown to, beside the pruned ones.
        self.saves_regrown = trains and policy.removed_weights_return
        self.writes_weights = policy.writes_weights(trains)
        self.name = name
        self.density = density
        self.seed = seed
        starts = initialise and view is None
        ranked = self.ranked(weight)
        scores = self.starting_scores(ranked) if starts else self._empty_scores(ranked)
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
        """The weight, or its gradient, as the policy sees it: as a matrix, and with a row for each
        unit, if units are ranked."""
        matrix = weight if self.matrix is None else self.matrix.matrix(weight)
        return matrix if self.view is None else self.view.rows(matrix)

    def spread(self, ranked: Tensor) -> Tensor:
        """What there is one of for each importance, such as scores, in the shape of the mask."""
        matrix = ranked if self.view is None else self.view.spread(ranked)
        return matrix if self.matrix is None else self.matrix.tensor(matrix, self.shape)

    def collect(self, spread: Tensor) -> Tensor:
        """The opposite of `spread`; raises UserError if a unit has several values."""
        matrix = spread if self.matrix is None else self.matrix.matrix(spread)
        return matrix if self.view is None else self.view.collect(matrix)

    @property
    def ranked_mask(self) -> Tensor:
        """The mask with one entry for each importance."""
        return self.collect(self.mask)

    def starting_scores(self, weight: Tensor) -> Tensor | None:
        """Scores as the policy starts them from ``weight``, as it sees it; the same on every rank
        and device."""
        generator = torch.Generator().manual_seed(self.seed + zlib.crc32(self.name.encode()))
        return self.policy.init_scores(weight.detach().float().cpu(), self.density, generator)

    def _empty_scores(self, ranked: Tensor) -> Tensor | None:
        shape = self.policy.score_shape(ranked.shape)
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
        if self.scores is not None and self.spread(self.scores).shape == self.mask.shape:
            with torch.no_grad():
                self.scores.copy_(rank_by_mask(self.scores, self.ranked_mask))

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
