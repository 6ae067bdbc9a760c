"""Baseline masks of a checkpoint; see `speechprune.masking.baselines`."""

from __future__ import annotations

from collections.abc import Collection

import torch

from speechprune import __version__
from speechprune.backbones import LAYER_ROLES, find_backbone
from speechprune.checkpoint import digest
from speechprune.checkpoint.file import PathLike
from speechprune.errors import UserError
from speechprune.masking.baselines import MAKERS, largest
from speechprune.masking.densities import check_sparsity
from speechprune.masking.mask_set import MaskSet
from speechprune.models.loading import load_encoder
from speechprune.models.sites import prunable
from speechprune.registry import unknown_name

__all__ = ["MAKERS", "Ranking", "origin"]


class Ranking:
    """Weights of a checkpoint, ready to be ranked.

    Args:
        checkpoint: pretrained or finetuned; one with masks counts as the sparse network it is, so
            that masks of a lower sparsity than its own are arbitrary among its zeros.
        by: a name in `MAKERS`.
        roles: of the tensors, all projections of every layer by default.
        biases: rank their modules' biases too.
        seed: of the random weights.

    Raises:
        UserError: the checkpoint cannot be read, an unknown name, or no tensor is left.
    """

    def __init__(
        self,
        checkpoint: PathLike,
        by: str,
        *,
        roles: Collection[str] = LAYER_ROLES,
        biases: bool = True,
        seed: int = 0,
    ) -> None:
        if by not in MAKERS:
            raise UserError(unknown_name("way to make masks", by, list(MAKERS)))
        encoder = load_encoder(checkpoint)
        family = find_backbone(encoder)
        if not MAKERS[by].own_weights:
            encoder = family.fresh(encoder, seed)
        sites = family.sites(encoder, roles)
        if not sites:
            raise UserError("nothing to mask: the settings leave no tensor")
        sites = prunable(sites, biases=biases)
        self._weights = {s.name: getattr(s.module, s.tensor).detach().float() for s in sites}
        self._together = MAKERS[by].together
        self._origin = origin(checkpoint, by, roles=roles, biases=biases, seed=seed)

    def masks(self, sparsity: float) -> MaskSet:
        """The masks that remove a share ``sparsity``, of all entries or of those of each tensor.

        Raises:
            UserError: a sparsity outside [0, 1).
        """
        check_sparsity("sparsity", sparsity)
        found = largest(self._weights, sparsity, together=self._together)
        versions = f"speechprune={__version__} torch={torch.__version__}"
        return MaskSet(found, {**self._origin, "sparsity": repr(sparsity), "versions": versions})


def origin(
    checkpoint: PathLike, by: str, *, roles: Collection[str], biases: bool, seed: int
) -> dict[str, str]:
    """What the provenance of masks made like this says, whatever their sparsity."""
    facts = {"made_by": by, "checkpoint": f"sha256:{digest(checkpoint)}"}
    if not MAKERS[by].own_weights:
        facts["seed"] = str(seed)
    if set(roles) != set(LAYER_ROLES):
        facts["roles"] = " ".join(sorted(roles))
    if not biases:
        facts["biases"] = "none"
    return facts
