"""`roberta_parp`: prune an encoder of text while finetuning, by PARP or another policy that trains
weights."""

from fairseq.models import register_model

from speechprune.models.names import ROBERTA_PARP, ROBERTA_ROUTER
from speechprune.models.parp import Parp
from speechprune.models.sentences import OF_SPEECH, Sentences
from speechprune.models.text_config import PrunedTextConfig


@register_model(ROBERTA_PARP, dataclass=PrunedTextConfig)
class RobertaParp(Parp, Sentences):
    """`wav2vec_ctc_parp` for sentences."""

    reads = Parp.reads - OF_SPEECH
    for_frozen_weights = f"for S3-Router use model._name={ROBERTA_ROUTER}"
