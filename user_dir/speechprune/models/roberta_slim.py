"""`roberta_slim`: finetune an encoder of text while heads and channels are removed."""

from fairseq.models import register_model

from speechprune.models.names import ROBERTA_SLIM
from speechprune.models.sentences import Sentences
from speechprune.models.slim import Slim
from speechprune.models.text_config import PrunedTextConfig


@register_model(ROBERTA_SLIM, dataclass=PrunedTextConfig)
class RobertaSlim(Slim, Sentences):
    """`wav2vec_ctc_slim` for sentences."""
