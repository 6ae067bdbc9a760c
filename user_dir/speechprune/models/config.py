"""The settings of our models together: all of them know all, so that one YAML serves them all."""

from dataclasses import dataclass

from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig

from speechprune.models.layer_flags import LayerFlags
from speechprune.models.mask_flags import MaskFlags
from speechprune.models.pruning_flags import PruningContext, PruningFlags
from speechprune.models.restart import RunContext
from speechprune.models.slim_flags import SlimFlags


@dataclass
class WeightCtcConfig(LayerFlags, MaskFlags, PruningFlags, SlimFlags, Wav2Vec2CtcConfig):
    """`wav2vec_ctc`'s own keys and ours, which it does not read."""


@dataclass
class FinetunedConfig(RunContext, WeightCtcConfig):
    """`wav2vec_ctc`'s keys, ours, and how the run begins."""


@dataclass
class PrunedConfig(PruningContext, FinetunedConfig):
    """The same, and what pruning has to know of the run."""
