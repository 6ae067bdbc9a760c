"""fairseq checkpoints of speech models: safe files, pretrained and finetuned models, folding."""

from speechprune.checkpoint.file import PathLike, allow_known_classes, digest, read, write
from speechprune.checkpoint.finetuned import LoadedModel, is_finetuned, load_finetuned
from speechprune.checkpoint.folding import fold
from speechprune.checkpoint.pretrained import check_pretrained, load_pretrained

__all__ = [
    "LoadedModel",
    "PathLike",
    "allow_known_classes",
    "check_pretrained",
    "digest",
    "fold",
    "is_finetuned",
    "load_finetuned",
    "load_pretrained",
    "read",
    "write",
]
