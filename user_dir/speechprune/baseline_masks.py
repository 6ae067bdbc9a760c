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
from speechprune.registry import unknown_name

__all__ = ["MAKERS", "make_masks"]


def make_masks(
    checkpoint: PathLike,
    by: str,
    sparsity: float,
    *,
    biases: bool = True,
    seed: int = 0,
) -> MaskSet:
    """Masks of the attention and feed-forward projections of every layer.

    Args:
        checkpoint: pretrained or finetuned; one with masks counts as the sparse network it is.
        by: a name in `MAKERS`.
        sparsity: share of all entries (of each tensor, if each is ranked by itself) removed, in
            [0, 1).
        biases: mask the projections' biases too.
        seed: of the random weights.

    Raises:
        UserError: the checkpoint cannot be read, an unknown name, or a sparsity outside [0, 1).
    """
    if by not in MAKERS:
        raise UserError(unknown_name("way to make masks", by, list(MAKERS)))
    if not 0.0 <= sparsity < 1.0:
        raise UserError(f"sparsity is the share removed and must lie in [0, 1), not {sparsity}")
    provenance = {
        "made_by": by,
        "sparsity": f"{sparsity:g}",
        "checkpoint": f"sha256:{digest(checkpoint)}",
        "versions": f"speechprune={__version__} torch={torch.__version__}",
    }
    encoder = load_encoder(checkpoint)
    if not MAKERS[by].own_weights:
        encoder = initialised_anew(encoder, seed)
        provenance["seed"] = str(seed)
    masks = largest(_weights(encoder, biases), 1.0 - sparsity, together=MAKERS[by].together)
    return MaskSet(masks, provenance)


def _weights(encoder: torch.nn.Module, biases: bool) -> dict[str, Tensor]:
    """What is ranked, by site name; float32."""
    sites = find_backbone(encoder).sites(encoder, LAYER_ROLES)
    sites = with_biases(sites) if biases else sites
    return {site.name: getattr(site.module, site.tensor).detach().float() for site in sites}
