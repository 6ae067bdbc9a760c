"""`roberta_st`: learn which connections of an encoder of text to keep (S3-Router)."""

from fairseq.models import register_model

from speechprune.models.names import ROBERTA_ROUTER
from speechprune.models.router import Router
from speechprune.models.sentences import OF_SPEECH, Sentences
from speechprune.models.text_config import TextConfig


@register_model(ROBERTA_ROUTER, dataclass=TextConfig)
class RobertaSt(Router, Sentences):
    """`wav2vec_ctc_st` for sentences: the encoder is frozen, embeddings and norms with it, and the
    output layer trains."""

    reads = Router.reads - OF_SPEECH
