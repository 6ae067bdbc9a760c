"""`wav2vec_labels`: finetune all weights for labels of whole utterances, or the head alone."""

from fairseq.models import register_model

from speechprune.models.config import FinetunedConfig
from speechprune.models.finetuned import Finetuned
from speechprune.models.labels import Labels
from speechprune.models.names import LABELS


@register_model(LABELS, dataclass=FinetunedConfig)
class Wav2VecLabels(Finetuned, Labels):
    """Trains all weights; in the first ``model.freeze_finetune_updates`` updates those of the head
    alone, on the encoder in evaluation mode."""

    label = "dense control"
    is_dense_control = True
