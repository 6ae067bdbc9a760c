"""Masks and slimming on models of Hugging Face's transformers; fairseq is not imported.

    from transformers import AutoModelForSequenceClassification

    from speechprune.huggingface import fold, mask

    model = AutoModelForSequenceClassification.from_pretrained("bert-base-uncased")
    masks = mask(model, "parp", density=0.3)

Import it before the models of transformers: where torchaudio is installed and broken, it keeps
transformers from importing it.
"""

from speechprune.huggingface.availability import prepare_transformers

prepare_transformers()

from speechprune.huggingface.callback import MaskCallback  # noqa: E402
from speechprune.huggingface.families import FAMILIES, Family  # noqa: E402
from speechprune.huggingface.masking import mask  # noqa: E402
from speechprune.huggingface.masks import ModelMasks, fold  # noqa: E402
from speechprune.huggingface.sites import sites_of  # noqa: E402
from speechprune.huggingface.slimming import slim  # noqa: E402

__all__ = [
    "FAMILIES",
    "Family",
    "MaskCallback",
    "ModelMasks",
    "fold",
    "mask",
    "sites_of",
    "slim",
]
