"""wav2vec 2.0 base with random weights, and what is left once units or layers are cut out of it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from omegaconf import OmegaConf

from speechprune.backbones.wav2vec2 import Wav2Vec2
from speechprune.slimming.plan import SLIM_PLAN, KeptUnits

FAMILY = Wav2Vec2()
WHOLE, HALF, QUARTER = Fraction(1), Fraction(1, 2), Fraction(1, 4)

#: Least share of the predicted speed-up that is promised.
_OF_CHANNELS_AND_LAYERS, _OF_HEADS = 0.95, 0.85


@dataclass(frozen=True)
class Kept:
    """The shares of each layer's heads and channels, and of the layers, that stay.

    Which ones stay makes no difference to time and memory: they are the first.
    """

    heads: Fraction = WHOLE
    channels: Fraction = WHOLE
    layers: Fraction = WHOLE

    @property
    def promised(self) -> float:
        """Least measured speed-up, as a share of the predicted one."""
        return _OF_CHANNELS_AND_LAYERS if self.heads == WHOLE else _OF_HEADS

    def units(self, heads: int, channels: int) -> KeptUnits:
        """What stays of a layer that has so many."""
        return KeptUnits.all(int(self.heads * heads), int(self.channels * channels))


DENSE = "dense"
KEPT = {
    DENSE: Kept(),
    "FFN half": Kept(channels=HALF),
    "FFN a quarter": Kept(channels=QUARTER),
    "heads half": Kept(heads=HALF),
    "layers half": Kept(layers=HALF),
    "all three half": Kept(HALF, HALF, HALF),
}


@torch.no_grad()  # else what weight norm makes of weights could not be copied
def dense(settings: Mapping[str, Any]) -> Any:
    """fairseq's own encoder, in evaluation mode, without gradient.

    Args:
        settings: what differs from the encoder of wav2vec 2.0 base.
    """
    torch.manual_seed(0)
    model: Any = Wav2Vec2Model(Wav2Vec2Config(**settings))
    model.remove_pretraining_modules()
    return model.eval().requires_grad_(False)


def cut(model: Any, kept: Kept) -> Any:
    """A copy of a dense encoder, which is fairseq's own still if no unit is cut out of it."""
    model = deepcopy(model)
    count = len(FAMILY.layers(model))
    FAMILY.drop_layers(model, range(int(kept.layers * count), count))
    units = FAMILY.units(model)
    if kept.heads != WHOLE or kept.channels != WHOLE:
        FAMILY.slim(model, [kept.units(layer.heads, layer.channels) for layer in units])
    return model


def write(model: Any, path: Path) -> None:
    """Write a model as a pretrained checkpoint."""
    defaults = OmegaConf.to_container(OmegaConf.structured(model.cfg), enum_to_str=True)
    assert isinstance(defaults, dict)
    # What other groups of settings give is not the model's own.
    settings = {key: value for key, value in defaults.items() if not str(value).startswith("${")}
    settings.update(_name=FAMILY.fairseq_name, encoder_layers=len(FAMILY.layers(model)))
    plan = FAMILY.slim_plan(model)
    if plan is not None:
        settings[SLIM_PLAN] = plan.describe()
    task = {"_name": "audio_pretraining", "data": "", "sample_rate": 16000, "normalize": False}
    cfg = {"task": task, "model": settings, "criterion": {"_name": "wav2vec"}}
    torch.save({"args": None, "cfg": cfg, "model": model.state_dict()}, path)
