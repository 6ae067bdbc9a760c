"""fairseq's own `wav2vec_ctc`, for which configs also list the keys of masks, and what it can run.

One config serves weight and mask finetuning, so `model._name=wav2vec_ctc` must not trip over
`model.prune_rate`. fairseq checks the keys of the models that it knows before it imports the user
folder; the configs therefore name :class:`ImportPlugin` under `hydra.job_logging`, the one part of
a config that every version of hydra turns into objects before that check.
"""

import functools
import importlib
import logging
from typing import Any, Mapping

from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecCtc
from omegaconf import OmegaConf

from speechprune.errors import UserError
from speechprune.models.config import WeightCtcConfig
from speechprune.models.declaration import Declared, declares
from speechprune.models.encoder import build_encoder, dictionary_of
from speechprune.models.layer_flags import drops_layers
from speechprune.models.names import HUBERT_WEIGHTS, PRUNED, WEIGHTS
from speechprune.models.removed_units import refuse_removed_units


class ImportPlugin(logging.Filter):
    """Passes every record: naming it in a logging configuration imports speechprune's plugin."""

    def __init__(self, name: str = "") -> None:
        super().__init__(name)
        importlib.import_module("speechprune.plugin")


@declares(WEIGHTS, HUBERT_WEIGHTS)
class WeightCtc(Declared):
    """What fairseq's own CTC models are."""

    reads = frozenset()
    label = "dense control"
    is_dense_control = True

    @classmethod
    def check_settings(cls, cfg: Any) -> None:
        """Refuse settings of layers, which would not be read without a word."""
        names = cfg if isinstance(cfg, Mapping) or OmegaConf.is_config(cfg) else vars(cfg)
        if "drop_layers" in names and drops_layers(cfg):
            raise UserError(
                f"fairseq's own {WEIGHTS} leaves no layers out; set model._name={PRUNED}"
            )


def _build_any_family() -> None:
    """Let `wav2vec_ctc` build an encoder of any family, and check its settings before."""
    build = Wav2VecCtc.build_model.__func__
    if getattr(build, "builds_any_family", False):
        return

    @functools.wraps(build)
    def check_and_build(cls: Any, cfg: Any, task: Any) -> Any:
        if cls is not Wav2VecCtc:
            return build(cls, cfg, task)
        WeightCtc.check_settings(cfg)
        model = cls(cfg, build_encoder(cfg, len(dictionary_of(task))))
        model.register_load_state_dict_pre_hook(refuse_removed_units)
        return model

    check_and_build.builds_any_family = True  # type: ignore[attr-defined]
    Wav2VecCtc.build_model = classmethod(check_and_build)


MODEL_DATACLASS_REGISTRY[WEIGHTS] = WeightCtcConfig
_build_any_family()
