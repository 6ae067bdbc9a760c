"""What fairseq itself calls a folded model, and what it asks to find in its checkpoint."""

from dataclasses import dataclass
from typing import Any, Callable, Dict, Mapping

import torch
from fairseq.models.hubert.hubert_asr import HubertCtcConfig
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig
from torch import Tensor

from speechprune.backbones import Backbone
from speechprune.models.names import HUBERT_WEIGHTS, WEIGHTS
from speechprune.state_names import ENCODER


@dataclass(frozen=True)
class PlainModel:
    """A CTC model of fairseq's, without anything of ours.

    Attributes:
        name: in fairseq's registry.
        keys: of its settings.
        adapt: changes its settings to those with which it can be built from its checkpoint alone,
            and gives the tensors that it has besides those of finetuning.
    """

    name: str
    keys: Mapping[str, Any]
    adapt: Callable[[Dict[str, Any]], Dict[str, Tensor]]

    def settings(self, model: Mapping[str, Any], data: str) -> Dict[str, Any]:
        """Those of ``model`` that it knows."""
        kept = {key: value for key, value in model.items() if key in self.keys}
        return {**kept, "_name": self.name, "data": data}


def plain_model(family: Backbone) -> PlainModel:
    """fairseq's CTC model for encoders of a family."""
    if family.fits_fairseqs_ctc:
        return PlainModel(WEIGHTS, Wav2Vec2CtcConfig.__dataclass_fields__, lambda settings: {})
    return PlainModel(HUBERT_WEIGHTS, HubertCtcConfig.__dataclass_fields__, _without_targets)


def _without_targets(settings: Dict[str, Any]) -> Dict[str, Tensor]:
    """HuBERT without targets of pretraining, whose dictionaries would have to lie in a folder."""
    pretrained = settings["w2v_args"]
    pretrained["task"]["labels"] = []
    model = pretrained["model"]
    channels = model["final_dim"] if model.get("final_dim", 0) > 0 else model["encoder_embed_dim"]
    return {f"{ENCODER}label_embs_concat": torch.empty(0, channels)}
