"""What a folded model is called, and what is asked to be found in its checkpoint."""

from dataclasses import dataclass
from typing import Any, Callable, Dict, Mapping

import torch
from fairseq.models.hubert.hubert_asr import HubertCtcConfig
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig
from torch import Tensor

from speechprune.backbones import Backbone
from speechprune.errors import UserError
from speechprune.models.config import FinetunedConfig
from speechprune.models.names import (
    HUBERT_WEIGHTS,
    LABELS,
    ROBERTA,
    ROBERTA_PRUNED,
    WEIGHTS,
    is_labelling,
    is_of_sentences,
)
from speechprune.models.text_config import TextFinetuning, TextNetwork
from speechprune.registry import unknown_name
from speechprune.state_names import ENCODER

#: The family whose models every version of fairseq can finetune and load.
_KNOWN_EVERYWHERE = "wav2vec2"
#: The one family besides that fairseq has a CTC model for.
_HUBERT = "hubert"


#: What only our models of text say of a network: its symbols, and what it has lost.
_OF_OURS = ("vocabulary", "dropped_layers", "slim_plan")
#: What fairseq's own model of text knows of the settings of ours.
_OF_ROBERTA = sorted(
    {*TextNetwork.__dataclass_fields__, *TextFinetuning.__dataclass_fields__}
    - {*_OF_OURS, "roberta_path", "freeze_finetune_updates"}
)


@dataclass(frozen=True)
class PlainModel:
    """A finetuned model without masks; a CTC model of fairseq's has nothing of ours at all.

    Attributes:
        name: in fairseq's registry.
        keys: of its settings.
        is_fairseqs: whether unmodified fairseq can open it.
        adapt: changes its settings to those with which it can be built from its checkpoint alone,
            and gives the tensors that it has besides those of finetuning.
    """

    name: str
    keys: Mapping[str, Any]
    adapt: Callable[[Dict[str, Any]], Dict[str, Tensor]] = lambda settings: {}
    is_fairseqs: bool = True

    def settings(self, model: Mapping[str, Any], data: str) -> Dict[str, Any]:
        """Those of ``model`` that it knows."""
        kept = {key: value for key, value in model.items() if key in self.keys}
        return {**kept, "_name": self.name, "data": data}


def without_masks(name: str, *, ours: bool = False) -> PlainModel:
    """What the model called ``name`` becomes without masks, of whatever family its encoder is.

    Args:
        ours: of a model of text, to be ours, whose network may have lost layers, heads or channels.
    """
    if is_of_sentences(name) and ours:
        return PlainModel(
            ROBERTA_PRUNED, dict.fromkeys((*_OF_ROBERTA, *_OF_OURS)), is_fairseqs=False
        )
    if is_of_sentences(name):
        return PlainModel(ROBERTA, dict.fromkeys(_OF_ROBERTA))
    if is_labelling(name):
        return PlainModel(LABELS, FinetunedConfig.__dataclass_fields__, is_fairseqs=False)
    return PlainModel(WEIGHTS, Wav2Vec2CtcConfig.__dataclass_fields__)


def plain_model(family: Backbone, layout: str = _KNOWN_EVERYWHERE) -> PlainModel:
    """fairseq's CTC model for encoders of a family.

    Args:
        layout: of encoders that `wav2vec_ctc` cannot run: wav2vec2, the same network in a family
            that it can; or the family's own name, for a model that fairseq has for it. (Between
            2022 and 2024 fairseq's `hubert_ctc` cannot be built: its settings lack a key, see
            fairseq's issue 4916.)

    Raises:
        UserError: an unknown layout.
    """
    keys = Wav2Vec2CtcConfig.__dataclass_fields__
    if family.fits_fairseqs_ctc:
        return PlainModel(WEIGHTS, keys)
    layouts = {
        _KNOWN_EVERYWHERE: PlainModel(WEIGHTS, keys, lambda settings: _converted(settings, family)),
    }
    if family.fairseq_name == _HUBERT:
        known = HubertCtcConfig.__dataclass_fields__
        layouts[_HUBERT] = PlainModel(HUBERT_WEIGHTS, known, _untargeted)
    if layout not in layouts:
        raise UserError(unknown_name("layout", layout, list(layouts)))
    return layouts[layout]


def _converted(settings: Dict[str, Any], family: Backbone) -> Dict[str, Tensor]:
    """The same network in the family that every fairseq knows."""
    pretrained = settings["w2v_args"]
    converted = family.settings_as(_KNOWN_EVERYWHERE, pretrained["model"])
    if converted is None:
        raise UserError(
            f"fairseq has no CTC model for encoders of {family.fairseq_name}, which are not the "
            f"same network as those of {_KNOWN_EVERYWHERE} either"
        )
    pretrained["model"] = converted
    task = pretrained["task"]
    heard = {key: task[key] for key in ("normalize", "sample_rate") if key in task}
    pretrained["task"] = {"_name": "audio_pretraining", "data": task.get("data"), **heard}
    return {}


def _untargeted(settings: Dict[str, Any]) -> Dict[str, Tensor]:
    """HuBERT without targets of pretraining, whose dictionaries would have to lie in a folder."""
    pretrained = settings["w2v_args"]
    pretrained["task"]["labels"] = []
    model = pretrained["model"]
    channels = model["final_dim"] if model.get("final_dim", 0) > 0 else model["encoder_embed_dim"]
    return {f"{ENCODER}label_embs_concat": torch.empty(0, channels)}
