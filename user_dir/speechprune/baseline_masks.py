"""Baseline masks of a checkpoint; see `speechprune.masking.baselines`."""

from __future__ import annotations

import torch
from torch import Tensor

from speechprune import __version__
from speechprune.backbones import LAYER_ROLES, find_backbone
from speechprune.checkpoint import digest
from speechprune.checkpoint.encoder import initialised_anew, load_encoder
from speechprune.checkpoint.file import PathLike
from speechprune.errors import UserError
from speechprune.masking.baselines import MAKERS, largest
from speechprune.masking.mask_set import MaskSet
from speechprune.masking.sites import with_biases
from speechprune.models.pruning_settings import check_sparsity
from speechprune.registry import unknown_name

__all__ = ["MAKERS", "Ranking", "made_from"]


class Ranking:
    """The attention and feed-forward projections of every layer, ready to be ranked.

    Args:
        checkpoint: pretrained or finetuned; one with masks counts as the sparse network it is, so
            that masks of a lower sparsity than its own are arbitrary among its zeros.
        by: a name in `MAKERS`.
        biases: mask the projections' biases too.
        seed: of the random weights.

    Raises:
        UserError: the checkpoint cannot be read, or an unknown name.
    """

    def __init__(
        self, checkpoint: PathLike, by: str, *, biases: bool = True, seed: int = 0
    ) -> None:
        if by not in MAKERS:
            raise UserError(unknown_name("way to make masks", by, list(MAKERS)))
        encoder = load_encoder(checkpoint)
        if not MAKERS[by].own_weights:
            encoder = initialised_anew(encoder, seed)
        self._weights = _weights(encoder, biases)
        self._together = MAKERS[by].together
        self._origin = _origin(checkpoint, by, seed)

    def masks(self, sparsity: float) -> MaskSet:
        """The masks that remove a share ``sparsity``, of all entries or of those of each tensor.

        Raises:
            UserError: a sparsity outside [0, 1).
        """
        check_sparsity("sparsity", sparsity)
        found = largest(self._weights, 1.0 - sparsity, together=self._together)
        versions = f"speechprune={__version__} torch={torch.__version__}"
        return MaskSet(found, {**self._origin, "sparsity": f"{sparsity:g}", "versions": versions})


def made_from(checkpoint: PathLike, by: str, sparsity: float, seed: int) -> dict[str, str]:
    """What the provenance of a mask made like this says."""
    return {**_origin(checkpoint, by, seed), "sparsity": f"{sparsity:g}"}


def _origin(checkpoint: PathLike, by: str, seed: int) -> dict[str, str]:
    origin = {"made_by": by, "checkpoint": f"sha256:{digest(checkpoint)}"}
    return origin if MAKERS[by].own_weights else {**origin, "seed": str(seed)}


def _weights(encoder: torch.nn.Module, biases: bool) -> dict[str, Tensor]:
    """What is ranked, by site name; float32."""
    sites = find_backbone(encoder).sites(encoder, LAYER_ROLES)
    sites = with_biases(sites) if biases else sites
    return {site.name: getattr(site.module, site.tensor).detach().float() for site in sites}
