"""The speech encoder of a finetuned model with its output layer, whichever family it is of."""

from contextlib import contextmanager, nullcontext
from typing import Any, Dict, Iterator, Mapping, Optional, Tuple

import torch
from fairseq.data.dictionary import Dictionary
from fairseq.models import FairseqEncoder
from fairseq.models.wav2vec.wav2vec2_asr import Linear, Wav2VecEncoder
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn

from speechprune.backbones import Backbone, backbone_called
from speechprune.checkpoint.pretrained import check_pretrained, pretrained_settings
from speechprune.checkpoint.settings import encoder_of
from speechprune.checkpoint.upgrading import read_upgraded
from speechprune.errors import UserError
from speechprune.slimming.plan import SLIM_PLAN
from speechprune.state_names import PRETRAINED

#: Settings that finetuning has of its own, under the names of pretraining.
_OF_FINETUNING = (
    *("dropout", "activation_dropout", "dropout_input", "attention_dropout", "feature_grad_mult"),
    *("mask_prob", "mask_length", "mask_selection", "mask_other", "no_mask_overlap"),
    *("mask_channel_prob", "mask_channel_length", "mask_channel_selection"),
    *("mask_channel_other", "no_mask_channel_overlap", "checkpoint_activations"),
)


def build_encoder(cfg: Any, output_size: int) -> Wav2VecEncoder:
    """fairseq's own encoder where that can run the family, else ours.

    Args:
        cfg: of a CTC model; ``w2v_args`` is filled in if it is None.
        output_size: symbols of the output layer.

    Raises:
        UserError: as `check_pretrained`, or the pretrained file lacks weights.
    """
    family, settings = family_of(cfg)
    with building_from(cfg.w2v_path):
        if family.fits_fairseqs_ctc and settings.get(SLIM_PLAN) is None:
            return FairseqsEncoder(cfg, family, output_size)
        return SpeechEncoder(cfg, family, output_size)


def family_of(cfg: Any) -> Tuple[Backbone, Mapping[str, Any]]:
    """The family of the encoder that a model's settings name, and the encoder's own settings.

    Raises:
        UserError: as `check_pretrained`, if a pretrained file is to be read.
    """
    if cfg.w2v_args is None:
        check_pretrained(cfg.w2v_path, cfg.normalize)
        settings = pretrained_settings(cfg.w2v_path)[1]
    else:
        settings = encoder_of({"w2v_args": cfg.w2v_args})
    family = backbone_called(str(settings.get("_name") or settings.get("arch")))
    family.make_known()
    return family, settings


def dictionary_of(task: Any) -> Dictionary:
    """The dictionary of the outputs: that of a task's labels, or fairseq's special symbols alone in
    a task without labels, where the output layer is not trained."""
    dictionary = task.target_dictionary
    return Dictionary() if dictionary is None else dictionary


@contextmanager
def building_from(path: Any) -> Iterator[None]:
    """Turn whatever a file's settings and weights stumble over into a UserError with its name."""
    try:
        yield
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"{path}: {error}") from error
    # Any setting may be of a kind that fairseq does not expect.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: weights and configuration disagree: {reason}") from error


class FairseqsEncoder(Wav2VecEncoder):
    """fairseq's own, whose outputs for an utterance depend on nothing else in evaluation mode."""

    def __init__(self, cfg: Any, family: Backbone, output_size: int) -> None:
        super().__init__(cfg, output_size)
        self.family = family

    def forward(
        self, source: Tensor, padding_mask: Optional[Tensor], **kwargs: Any
    ) -> Dict[str, Any]:
        with self.family.apart(self.w2v_model, padding_mask) as own_padding:
            output: Dict[str, Any] = super().forward(source, own_padding, **kwargs)
        padding = self.family.padding_of_frames(
            self.w2v_model, padding_mask, output["padding_mask"]
        )
        return {**output, "padding_mask": padding}


class SpeechEncoder(Wav2VecEncoder):
    """`Wav2VecEncoder` for models that it cannot run: of families such as HuBERT, and slim ones.

    What a model is given and returns, its backbone knows.
    """

    def __init__(self, cfg: Any, family: Backbone, output_size: int) -> None:
        weights = None if cfg.w2v_args is not None else self._read(cfg)
        encoder = family.build(cfg.w2v_args.task, cfg.w2v_args.model)
        if weights is not None and not cfg.no_pretrained_weights:
            load_weights(encoder, weights, cfg.w2v_path)
        self._assemble(cfg, family, encoder, output_size)

    @classmethod
    def around(
        cls, cfg: Any, family: Backbone, encoder: nn.Module, output_size: int
    ) -> "SpeechEncoder":
        """A new output layer on an encoder that is there, and that others may use too."""
        new = cls.__new__(cls)
        new._assemble(cfg, family, encoder, output_size)
        return new

    def _assemble(self, cfg: Any, family: Backbone, encoder: nn.Module, output_size: int) -> None:
        # fairseq's own would build the model through its task of pretraining.
        FairseqEncoder.__init__(self, None)
        self.family = family
        self.apply_mask = cfg.apply_mask
        self.w2v_model = encoder
        self.final_dropout = nn.Dropout(cfg.final_dropout)
        self.freeze_finetune_updates = cfg.freeze_finetune_updates
        self.num_updates = 0
        channels = family.parameters(encoder, "mask_emb")[0].numel()
        self.proj = self.new_head(channels, output_size)
        self.register_load_state_dict_pre_hook(_without_pretraining)

    def new_head(self, channels: int, output_size: int) -> nn.Module:
        """An output layer with random weights, for an encoder with so many channels."""
        layer: nn.Module = Linear(channels, output_size)
        return layer

    @property
    def is_frozen(self) -> bool:
        """Whether the output layer trains alone in this update."""
        return bool(self.freeze_finetune_updates > self.num_updates)

    def _read(self, cfg: Any) -> Mapping[str, Tensor]:
        """Fill in ``cfg.w2v_args``, with the settings of finetuning; gives the weights."""
        overrides = {key: getattr(cfg, key) for key in _OF_FINETUNING}
        overrides["encoder_layerdrop"] = cfg.layerdrop
        state = read_upgraded(cfg.w2v_path, overrides)
        pretrained = state["cfg"]
        if not isinstance(pretrained, DictConfig):
            pretrained = OmegaConf.create(pretrained)
        with open_dict(pretrained):
            pretrained.update(criterion=None, lr_scheduler=None)
            pretrained.task.data = cfg.data
        cfg.w2v_args = pretrained
        weights: Mapping[str, Tensor] = state["model"]
        return weights

    def forward(
        self, source: Tensor, padding_mask: Optional[Tensor], **kwargs: Any
    ) -> Dict[str, Any]:
        with torch.no_grad() if self.is_frozen else nullcontext():
            features, padding = self.family.features(
                self.w2v_model, source, padding_mask, mask=self.apply_mask and self.training
            )
        output = self.proj(self.final_dropout(features.transpose(0, 1)))
        return {"encoder_out": output, "padding_mask": padding, "layer_results": []}


def load_weights(model: nn.Module, weights: Mapping[str, Any], path: Any) -> None:
    """Load a pretrained state dict into an encoder without its pretraining heads.

    Raises:
        UserError: it lacks weights, or has some of another shape.
    """
    # The weights of data2vec's teacher are nested.
    own = {key: value for key, value in weights.items() if isinstance(value, Tensor)}
    with building_from(path):
        missing = model.load_state_dict(own, strict=False).missing_keys
    if missing:
        raise UserError(f"{path} lacks weights of its own model, such as {missing[0]}")


def _without_pretraining(
    encoder: SpeechEncoder, state: Dict[str, Any], prefix: str, *rest: Any
) -> None:
    """Leave out what fairseq's finetuned checkpoints hold of pretraining."""
    heads = tuple(f"{prefix}{PRETRAINED}{head}" for head in encoder.family.pretraining_only)
    for key in [key for key in state if key.startswith(heads)]:
        del state[key]
