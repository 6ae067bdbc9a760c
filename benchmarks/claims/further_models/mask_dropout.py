"""S3-Router whose removed connections come back at random while it trains."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable

import torch
from fairseq.models import register_model
from torch import Tensor

from speechprune.masking.masked_site import masked_weight
from speechprune.masking.masked_weight import MaskedWeight
from speechprune.models.config import FinetunedConfig
from speechprune.models.wav2vec_ctc_st import Wav2VecCtcSt


@dataclass
class MaskDropoutConfig(FinetunedConfig):
    """Those of S3-Router, and how often a removed connection acts.

    It is not fairseq's own ``mask_dropout``, which is of masked frames.
    """

    connection_dropout: float = field(
        default=0.2, metadata={"help": "probability that a removed connection acts"}
    )


@register_model("wav2vec_ctc_mask_dropout", dataclass=MaskDropoutConfig)
class Wav2VecCtcMaskDropout(Wav2VecCtcSt):
    """Masks are chosen and learned as ever; evaluation applies them whole."""

    def prepare(self, from_pretrained: bool) -> None:
        """Put masks on, and let what they remove come back."""
        super().prepare(from_pretrained)
        for site in self.mask_controller.sites:
            masked = masked_weight(site)
            leaking = _leaking(masked, masked.product, self.cfg.connection_dropout)
            masked.product = leaking  # type: ignore[assignment]


def _leaking(
    masked: MaskedWeight, whole: Callable[[Tensor], Tensor], probability: float
) -> Callable[[Tensor], Tensor]:
    """`MaskedWeight.product` with some of the removed entries, drawn anew each time."""

    def product(weight: Tensor) -> Tensor:
        chosen = whole(weight)
        if not masked.training:
            return chosen
        back = (torch.rand_like(weight) < probability) & ~masked.mask
        return torch.where(back, weight.detach(), chosen)

    return product
