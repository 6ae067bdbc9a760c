"""What a mask policy is: a rule that says how important each weight is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from speechprune.registry import Registry


class MaskPolicy(ABC):
    """A rule that turns a weight and its scores into importance; the largest importances are kept.

    Selection, schedules, gradients, saving, logging, resuming and folding are shared: a policy is
    one file with a subclass in it. Its options are the fields of its dataclass, if it is one.
    """

    #: Whether the masked weights themselves are trained; frozen otherwise. A run may say otherwise.
    trains_weights: ClassVar[bool] = False
    #: Whether it cannot work with frozen weights: they are all that its masks follow.
    needs_trained_weights: ClassVar[bool] = False
    #: Whether the absolute value of the importance ranks; it is then never materialised.
    by_magnitude: ClassVar[bool] = False
    #: Whether a trained weight gets the gradient of the masked product (masked out) or all of it.
    dense_gradient: ClassVar[bool] = False
    #: Whether training reads the weight itself, and evaluation alone its product with the mask.
    #: Masks are then chosen anew for every validation and checkpoint.
    masks_evaluation_only: ClassVar[bool] = False
    #: Whether a trained weight keeps its value while it is removed, so that it can come back:
    #: checkpoints hold that value beside the pruned weight.
    removed_weights_return: ClassVar[bool] = False
    #: Whether the importances at the start tell weights apart; else nothing can be removed then.
    ranks_at_first: ClassVar[bool] = True
    #: Whether training starts dense and removes more and more, unless the run says otherwise.
    starts_dense: ClassVar[bool] = False
    #: Whether biases are pruned with their weights, unless the run says otherwise.
    prunes_biases: ClassVar[bool] = True
    #: Whether each choice of masks draws them anew, though nothing else has changed.
    redraws: ClassVar[bool] = False
    #: Whether importances are made of what `observe` gathered of gradients, in place of scores.
    observes: ClassVar[bool] = False

    @property
    def pattern(self) -> tuple[int, int] | None:
        """(n, m) to keep n of every m neighbours in a row of a weight; None to rank freely."""
        return None

    def init_scores(
        self, weight: Tensor, density: float, generator: torch.Generator
    ) -> Tensor | None:
        """Starting scores for one weight, or None if the policy has none.

        Args:
            weight: the loaded weight, (out, in, ...), float32 on the CPU.
            density: the share of it that will be kept at first.
            generator: seeded per site, so that the order of sites does not matter.

        Returns:
            float32 scores that broadcast against ``weight``.
        """
        return None

    def score_shape(self, shape: torch.Size) -> torch.Size | None:
        """Shape of the scores of a weight of ``shape``, or None if the policy has none."""
        return None

    @abstractmethod
    def importance(
        self, weight: Tensor, scores: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        """Importance of each entry, in the shape of the scores (of the weight, without scores).

        Args:
            weight: floating point, (out, in, ...) or a bias, (out,).
            scores: the trained scores; float32 statistics in the shape of the weight if the policy
                `observes`; else None.
            generator: on the CPU, seeded by run, update and site, so that what is drawn is the same
                on every process and device, and after resuming.
        """

    def observe(self, weight: Tensor, gradient: Tensor) -> Tensor:
        """What a gradient says of each entry, in the shape of the weight.

        It is summed over the micro-batches and processes of an update, so it should be linear in
        the gradient; the absolute values of the sum, divided by their mean over all sites, are then
        added to the statistics, so that every update counts alike whatever its loss scale. The
        statistics begin at zero after each choice of masks.

        Args:
            gradient: dL/d(weight * mask), dense, in the shape of the weight.
        """
        raise NotImplementedError(f"{type(self).__name__} observes no gradients")

    def score_gradient(self, gradient: Tensor, weight: Tensor, scores: Tensor) -> Tensor:
        """The gradient that the scores get, in their shape.

        Args:
            gradient: dL/d(weight * mask), in the shape of the weight.
        """
        raise NotImplementedError(f"{type(self).__name__} has no scores to train")

    def edit_weight(self, weight: Tensor, mask: Tensor) -> Tensor | None:
        """The values that training goes on from with a mask just chosen; None for the same ones.

        Asked for each trained weight and, in half precision, for the float32 copy of it that the
        optimizer steps.

        Args:
            weight: floating point, without gradient.
            mask: bool, in the shape of the weight.
        """
        return None

    @property
    def edits_weights(self) -> bool:
        """Whether it has an `edit_weight` of its own."""
        return type(self).edit_weight is not MaskPolicy.edit_weight

    def writes_weights(self, trains: bool) -> bool:
        """Whether values are written to the weight itself: after steps, or into checkpoints.

        Args:
            trains: whether the masked weights are trained.
        """
        return self.edits_weights or (trains and self.removed_weights_return)

    def penalty(self, scores: Tensor) -> Tensor | None:
        """A scalar added to the loss for each site (by `masked_ctc` and others), or None."""
        return None


POLICIES: Registry = Registry("mask policy", "speechprune.masking.policies")
