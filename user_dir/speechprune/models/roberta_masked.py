"""`roberta_masked`: finetune the weights of an encoder of text that a given mask keeps."""

from fairseq.models import register_model

from speechprune.models.fixed_mask import FixedMask
from speechprune.models.names import ROBERTA_FIXED_MASK
from speechprune.models.sentences import OF_SPEECH, Sentences
from speechprune.models.text_config import PrunedTextConfig


@register_model(ROBERTA_FIXED_MASK, dataclass=PrunedTextConfig)
class RobertaMasked(FixedMask, Sentences):
    """`wav2vec_ctc_masked` for sentences."""

    reads = FixedMask.reads - OF_SPEECH
