"""`roberta_pruned`: finetune all weights of what is left after layers were dropped."""

from fairseq.models import register_model

from speechprune.models.finetuned import Finetuned
from speechprune.models.names import ROBERTA_PRUNED
from speechprune.models.sentences import Sentences
from speechprune.models.text_config import TextConfig


@register_model(ROBERTA_PRUNED, dataclass=TextConfig)
class RobertaPruned(Finetuned, Sentences):
    """fairseq's `roberta`, whose layers may be left out, and which may be slim."""

    label = "dense control"
    is_dense_control = True
