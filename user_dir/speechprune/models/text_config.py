"""The settings of our models of text: fairseq's own of RoBERTa, and ours."""

from dataclasses import dataclass, field
from typing import Any, Dict, Optional

from fairseq.dataclass import FairseqDataclass
from omegaconf import II

from speechprune.models.layer_flags import LayerFlags
from speechprune.models.mask_flags import MaskFlags
from speechprune.models.pruning_flags import PruningContext, PruningFlags
from speechprune.models.restart import RunContext
from speechprune.models.slim_flags import SlimFlags


def _told(help: str) -> Any:
    return field(default=None, metadata={"help": f"{help}; the pretrained file tells it"})


@dataclass
class TextNetwork:
    """What the encoder is, under fairseq's names, and what it has lost."""

    encoder_layers: Optional[int] = _told("number of layers")
    encoder_embed_dim: Optional[int] = _told("channels of the layers")
    encoder_ffn_embed_dim: Optional[int] = _told("feed-forward channels")
    encoder_attention_heads: Optional[int] = _told("attention heads of a layer")
    activation_fn: Optional[str] = _told("activation of the feed-forward blocks")
    pooler_activation_fn: Optional[str] = _told("activation of the output layer")
    encoder_normalize_before: Optional[bool] = _told("layer norms before the blocks")
    layernorm_embedding: Optional[bool] = _told("a layer norm of the embeddings")
    encoder_learned_pos: Optional[bool] = _told("learned positions")
    no_token_positional_embeddings: Optional[bool] = _told("no positions")
    no_scale_embedding: Optional[bool] = _told("embeddings as they are")
    untie_weights_roberta: Optional[bool] = _told("a masked language model with its own weights")
    max_positions: Optional[int] = _told("longest text, in symbols")
    vocabulary: Optional[int] = _told("number of symbols")
    dropped_layers: Optional[Dict[str, Any]] = _told("layers that the encoder has lost")
    slim_plan: Optional[Dict[str, Any]] = _told("heads and channels that it has kept")


#: The keys of `TextNetwork`.
TOLD = tuple(TextNetwork.__dataclass_fields__)


@dataclass
class TextFinetuning:
    """How the encoder is finetuned, under fairseq's names."""

    roberta_path: Optional[str] = field(
        default=None,
        metadata={
            "help": "pretrained RoBERTa; unset: the file of checkpoint.restore_file or "
            "checkpoint.finetune_from_model"
        },
    )
    dropout: float = field(default=0.1, metadata={"help": "dropout of the blocks' outputs"})
    attention_dropout: float = field(default=0.1, metadata={"help": "dropout of attention weights"})
    activation_dropout: float = field(default=0.0, metadata={"help": "dropout after activations"})
    pooler_dropout: float = field(default=0.0, metadata={"help": "dropout of the output layer"})
    encoder_layerdrop: float = field(default=0.0, metadata={"help": "how often a layer is skipped"})
    checkpoint_activations: bool = field(
        default=False, metadata={"help": "compute activations again in the backward pass"}
    )
    freeze_finetune_updates: int = field(
        default=0, metadata={"help": "updates in which the output layer trains alone"}
    )


@dataclass
class TextConfig(
    RunContext,
    TextNetwork,
    TextFinetuning,
    LayerFlags,
    MaskFlags,
    PruningFlags,
    SlimFlags,
    FairseqDataclass,
):
    """All of them. The output layer always trains, and has no mask."""

    trainable_proj: bool = field(default=True, metadata={"help": "the output layer always trains"})
    no_prune_post_extract_proj: bool = field(
        default=True, metadata={"help": "no encoder of text has this projection"}
    )


@dataclass
class PrunedTextConfig(PruningContext, TextConfig):
    """The same, and what pruning has to know of the run."""

    ddp_backend: str = II("distributed_training.ddp_backend")
