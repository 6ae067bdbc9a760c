"""fairseq's own `wav2vec_ctc`, told that recipes also list the keys of masks.

One recipe serves weight and mask finetuning, so `model._name=wav2vec_ctc` must not trip over
`model.prune_rate`. fairseq checks the keys of the models that it knows before it imports the user
folder; the recipes therefore name :class:`ImportPlugin` under `hydra.job_logging`, the one part of
a config that every version of hydra turns into objects before that check.
"""

import functools
import logging
from dataclasses import dataclass
from typing import Any

from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig, Wav2VecCtc

from speechprune.models.layer_settings import LayerFlags, refuse_unread_layers
from speechprune.models.pruning_settings import PruningFlags
from speechprune.models.settings import MaskFlags


@dataclass
class WeightCtcConfig(LayerFlags, MaskFlags, PruningFlags, Wav2Vec2CtcConfig):
    """`wav2vec_ctc`'s keys, and those of layers, masks and pruning, which it does not read."""


class ImportPlugin(logging.Filter):
    """Passes every record: naming it in a logging configuration imports speechprune."""


def _refuse_to_drop_layers() -> None:
    """Let `wav2vec_ctc` refuse the settings of layers, which it would not read without a word."""
    build = Wav2VecCtc.build_model.__func__
    if getattr(build, "refuses_layers", False):
        return

    @functools.wraps(build)
    def build_or_refuse(cls: Any, cfg: Any, task: Any) -> Any:
        if cls is Wav2VecCtc:
            refuse_unread_layers(cfg)
        return build(cls, cfg, task)

    build_or_refuse.refuses_layers = True
    Wav2VecCtc.build_model = classmethod(build_or_refuse)


MODEL_DATACLASS_REGISTRY["wav2vec_ctc"] = WeightCtcConfig
_refuse_to_drop_layers()
