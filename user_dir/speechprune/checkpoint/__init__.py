"""fairseq checkpoints of speech models: safe files, and what they say without being built."""

from speechprune.checkpoint.file import (
    PROVENANCE,
    PathLike,
    allow_known_classes,
    digest,
    read,
    write,
)

__all__ = ["PROVENANCE", "PathLike", "allow_known_classes", "digest", "read", "write"]
