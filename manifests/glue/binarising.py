"""Tokens become the files that fairseq's indexed datasets are read from.

The same bytes as those of `fairseq-preprocess --only-source`, whose functions these are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from speechprune.errors import UserError
from speechprune.files import sync
from speechprune.manifests.lines import write_lines

if TYPE_CHECKING:
    from fairseq.data import Dictionary


@dataclass(frozen=True)
class Binarised:
    """How many sentences a file has, tokens with the ends of sentences, and tokens that the
    dictionary lacks."""

    sentences: int
    tokens: int
    unknown: int


def load_dictionary(path: Path) -> Dictionary:
    """fairseq's dictionary of a file that `read_dictionary` can read."""
    from speechprune import quiet_fairseq  # noqa: F401  (before fairseq)

    # isort: split
    from fairseq.data import Dictionary

    return Dictionary.load(str(path))


def binarise(sentences: Iterable[str], dictionary: Dictionary, prefix: Path) -> Binarised:
    """Write `PREFIX.bin` and `PREFIX.idx`, with the end of each sentence after its tokens.

    Args:
        sentences: tokens parted by blanks.

    Raises:
        UserError: they cannot be written.
    """
    from fairseq.binarizer import FileBinarizer, VocabularyDatasetBinarizer

    text = prefix.with_name(f".{prefix.name}.tokens")
    write_lines(text, sentences)
    try:
        summary = FileBinarizer.multiprocess_dataset(
            str(text),
            "mmap",
            VocabularyDatasetBinarizer(dictionary, append_eos=True),
            str(prefix),
            vocab_size=len(dictionary),
        )
        text.unlink()
        for ending in ("bin", "idx"):
            sync(f"{prefix}.{ending}")
    except OSError as error:
        raise UserError(f"{prefix}.bin cannot be written: {error.strerror}") from error
    return Binarised(summary.num_seq, summary.num_tok, summary.num_replaced)
