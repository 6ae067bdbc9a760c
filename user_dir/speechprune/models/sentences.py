"""Classes or values of sentences as outputs, by an encoder of text: fairseq's RoBERTa."""

import os
from argparse import Namespace
from typing import Any, ClassVar, Dict, FrozenSet, Mapping, Optional, Sequence

import torch
from fairseq.models import ARCH_CONFIG_REGISTRY, BaseFairseqModel
from fairseq.models.roberta import RobertaEncoder, RobertaModel
from omegaconf import OmegaConf, open_dict

from speechprune.backbones.roberta import Roberta
from speechprune.checkpoint import read
from speechprune.checkpoint.outputs import counted_symbols
from speechprune.checkpoint.slimming import is_uncut, note_kept_layers
from speechprune.checkpoint.text import CLASSES, SYMBOLS, TextModel, read_text_model
from speechprune.errors import UserError
from speechprune.layers.plan import LayerPlan
from speechprune.models.encoder import building_from
from speechprune.models.mask_flags import refuse_masked_head
from speechprune.models.network import Network
from speechprune.models.restart import LAST, RESETS
from speechprune.models.sentence_symbols import refuse_other_symbols
from speechprune.models.sentence_task import refuse_unlabelled
from speechprune.models.text_config import TOLD, TextFinetuning
from speechprune.slimming.plan import SLIM_PLAN, SlimPlan
from speechprune.state_names import VOCABULARY, has_masks, is_finetuned

#: Flags of what no encoder of text has, or of its output layer, which always trains.
OF_SPEECH: FrozenSet[str] = frozenset(
    {"no_prune_proj", "no_prune_extractor", "no_prune_pos", "no_prune_post_extract_proj"}
    | {"trainable_proj", "trainable_post_extract_proj"}
)
_FINETUNING = tuple(TextFinetuning.__dataclass_fields__)


class Sentences(Network, RobertaModel):
    """fairseq's RoBERTa with the output layers that its task `sentence_prediction` adds.

    Names and tensors are fairseq's own. The network is what the pretrained file says it is.
    """

    pretrained_key: ClassVar[str] = "model.roberta_path"
    _update: Optional[int] = None

    def __init__(self, cfg: Any, encoder: RobertaEncoder) -> None:
        super().__init__(encoder.args, encoder)
        self.cfg = cfg

    @classmethod
    def check_settings(cls, cfg: Any) -> None:
        super().check_settings(cfg)
        refuse_masked_head(cfg, "sentences")
        if not cfg.trainable_proj:
            raise UserError(
                "model.trainable_proj=false would freeze the CTC head; the head of sentences is "
                "added after a model is frozen, and always trains: leave it out"
            )

    @classmethod
    def is_described(cls, cfg: Any) -> bool:
        return cfg[VOCABULARY] is not None

    @classmethod
    def pretrained_file(cls, cfg: Any) -> str:
        if cfg.roberta_path and begins_from_pretrained(cfg):
            raise UserError(
                f"model.roberta_path={cfg.roberta_path} and checkpoint.restore_file="
                f"{cfg.restore_file} both name a pretrained model; leave one out"
            )
        last = os.path.join(cfg.save_dir, LAST)
        for path in (
            cfg.roberta_path,
            cfg.restore_file if cfg.restore_file != LAST else None,
            cfg.finetune_from_model,
            last if os.path.exists(last) else None,
        ):
            if path:
                if not os.path.exists(path):
                    raise UserError(f"{path} does not exist; name a pretrained RoBERTa")
                return str(path)
        raise UserError(
            "which model is to be finetuned? Name a pretrained RoBERTa as model.roberta_path or "
            "checkpoint.restore_file"
        )

    @classmethod
    def with_outputs(cls, cfg: Any, task: Any) -> "Sentences":
        """A model with the pretrained encoder, for the symbols of a task, which adds outputs.

        Raises:
            UserError: the task has other symbols than pretraining, or other positions; or the
                settings contradict the file.
        """
        if cls.is_described(cfg):
            return cls._built(cfg, task, {key: cfg[key] for key in TOLD})
        path = cls.pretrained_file(cfg)
        found = read_text_model(path)
        network = network_of(found.settings)
        _refuse_contradictions(cfg, network, path)
        refuse_other_task(task, network, path)
        refuse_other_symbols(path, found, task)
        if cfg.roberta_path and (has_masks(found.weights) or is_uncut(found.weights)):
            raise UserError(
                f"{path} has masks or removed units, which model.roberta_path would undo; fold or "
                f"cut it first, or set checkpoint.finetune_from_model={path}"
            )
        with building_from(path):
            model = cls._built(cfg, task, network)
            _load(model, found, path)
        with open_dict(cfg):
            cfg.update(network)
        return model

    @classmethod
    def _built(cls, cfg: Any, task: Any, network: Mapping[str, Any]) -> "Sentences":
        told = {key: value for key, value in network.items() if value is not None}
        args = Namespace(**told, **{key: cfg[key] for key in _FINETUNING})
        model = cls(cfg, RobertaEncoder(args, task.source_dictionary))
        if network.get(SLIM_PLAN) is not None:
            Roberta().slim_as(model, SlimPlan.of(_plain(network[SLIM_PLAN])))
        return model

    def note_lost_layers(self, kept: Sequence[int], depth: int, lost: LayerPlan) -> None:
        with open_dict(self.cfg):
            self.cfg.encoder_layers = depth
            note_kept_layers(self.cfg, kept)
            self.cfg.dropped_layers = {"layers": lost.layers, "dropped": list(lost.dropped)}

    def tell(self, cfg: Any, task: Any) -> None:
        """Let what is saved tell of the network and of the symbols: fairseq saves settings as they
        were given, and no dictionaries of this task. And let a run that is started again go on:
        from ``checkpoint.restore_file`` fairseq would begin anew.

        Args:
            cfg: all groups of the run's config.
            task: `sentence_prediction`.

        Raises:
            UserError: a split that is to be read lacks labels.
        """
        refuse_unlabelled(cfg)
        if begins_from_pretrained(cfg.checkpoint):
            cfg.checkpoint.restore_file = LAST
            for key in RESETS:
                cfg.checkpoint[key] = False
        with open_dict(cfg.model):
            cfg.model.update({key: _plain(self.cfg[key]) for key in TOLD})
        known = {SYMBOLS: counted_symbols(task.source_dictionary)}
        if not task.cfg.regression_target:
            known[CLASSES] = counted_symbols(task.label_dictionary)
        task.state.merge_state_dict(known)

    def forward(self, **kwargs: Any) -> Any:
        """As fairseq's, with the encoder frozen in the first ``model.freeze_finetune_updates``."""
        head = kwargs.get("classification_head_name")
        if head is None or self.cfg.freeze_finetune_updates <= (self._update or 0):
            return super().forward(**kwargs)
        without_head = {**kwargs, "features_only": True, "classification_head_name": None}
        with torch.no_grad():
            features, extra = super().forward(**without_head)
        return self.classification_heads[head](features), extra


def begins_from_pretrained(checkpoint: Any) -> bool:
    """Whether ``checkpoint.restore_file`` names a pretrained model of text, which `Sentences`
    begins from by itself; what was finetuned, with its output layer and optimizer, fairseq loads.
    """
    if checkpoint.restore_file == LAST:
        return False
    return not is_finetuned(read(checkpoint.restore_file, mmap=True)["model"])


def network_of(settings: Mapping[str, Any]) -> Dict[str, Any]:
    """The network that a file's settings say, with fairseq's defaults for what they leave out."""
    network = Namespace(**{k: _plain(settings[k]) for k in TOLD if settings.get(k) is not None})
    if not hasattr(network, "max_positions"):
        network.max_positions = settings.get("tokens_per_sample")
    name = str(settings.get("_name") or settings.get("arch"))
    ARCH_CONFIG_REGISTRY.get(name, ARCH_CONFIG_REGISTRY["roberta"])(network)
    return {key: getattr(network, key, None) for key in TOLD}


def _refuse_contradictions(cfg: Any, network: Mapping[str, Any], path: str) -> None:
    """Raise UserError if settings say another network than the file, whose weights are to be
    loaded."""
    for key in TOLD:
        # The task writes its own number of positions into the settings.
        if key != "max_positions" and cfg[key] not in (None, network[key]):
            raise UserError(
                f"model.{key}={cfg[key]}, but {path} has {network[key]}; leave the key out"
            )


def refuse_other_task(task: Any, network: Mapping[str, Any], path: str) -> None:
    """Raise UserError if a task has other symbols than a pretrained file, or other positions."""
    symbols, known = len(task.source_dictionary), network[VOCABULARY]
    if symbols != known:
        raise UserError(
            f"{task.cfg.data}/input0/dict.txt has {symbols} symbols with fairseq's own, but {path} "
            f"was pretrained with {known}; prepare the data with the dictionary of pretraining"
        )
    positions = network["max_positions"]
    if positions is not None and task.cfg.max_positions != positions:
        raise UserError(
            f"task.max_positions={task.cfg.max_positions}, but {path} was pretrained with "
            f"{positions}; set task.max_positions={positions}"
        )


def _load(model: Sentences, found: TextModel, path: str) -> None:
    """Load the encoder's weights; UserError if any are missing or of another shape."""
    own = BaseFairseqModel.load_state_dict(model, dict(found.weights), strict=False)
    parameters = dict(model.named_parameters())
    missing = [key for key in own.missing_keys if key in parameters]
    if missing:
        raise UserError(f"{path} lacks weights of its own model, such as {missing[0]}")


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
