"""How sentences become tokens, and the dictionary that numbers them.

GPT-2's byte pairs, whose files come with fairseq's RoBERTa, or plain words.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from speechprune.errors import UserError
from speechprune.manifests.dictionary import SPECIAL_SYMBOLS, ranked, read_dictionary

_ENCODER, _MERGES, _DICTIONARY = "encoder.json", "vocab.bpe", "dict.txt"
#: Letters, digits and the apostrophes between them; any other character stands by itself.
_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
#: Dictionaries of words are filled up to a multiple of this, as `fairseq-preprocess` does.
_MULTIPLE = 8


class Tokens(Protocol):
    """What tokens a sentence has; it can be pickled."""

    @property
    def name(self) -> str:
        """What a provenance calls it."""

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """The tokens of each sentence, parted by blanks."""


@dataclass(frozen=True)
class Words:
    """Words in lower case, and marks one by one: `It's <s>.` is `it's < s > .`.

    No text can have a token such as `</s>`, which fairseq would take for its own.
    """

    name = "words"

    def __call__(self, texts: Sequence[str]) -> list[str]:
        return [
            " ".join(_WORD.findall(unicodedata.normalize("NFC", text).lower())) for text in texts
        ]


@dataclass(frozen=True)
class BytePairs:
    """GPT-2's byte pairs (Radford et al., 2019), by fairseq's own encoder.

    Attributes:
        folder: with `encoder.json`, `vocab.bpe` and `dict.txt`, as fairseq publishes them.
    """

    folder: Path
    name = "gpt2"

    @property
    def dictionary(self) -> Path:
        """The dictionary of the pretrained models."""
        return self.folder / _DICTIONARY

    def __call__(self, texts: Sequence[str]) -> list[str]:
        encoder = _encoder(self.folder)
        try:
            return [" ".join(map(str, encoder.encode(text.strip()))) for text in texts]
        except KeyError as error:
            raise UserError(
                f"{self.folder / _ENCODER} has no number for {error.args[0]!r}, which "
                f"{_MERGES} makes; take both from one download"
            ) from error

    def check(self) -> None:
        """Raise UserError if a file is missing or is not what its name says."""
        for name in (_ENCODER, _MERGES, _DICTIONARY):
            if not (self.folder / name).is_file():
                raise UserError(
                    f"{self.folder / name} is missing; --bpe names the folder of {_ENCODER}, "
                    f"{_MERGES} and {_DICTIONARY}, which fairseq publishes for RoBERTa"
                )
        known = _encoder(self.folder).encoder.values()
        symbols = read_dictionary(self.dictionary)[0]
        if not any(str(number) in symbols for number in known):
            raise UserError(
                f"{self.dictionary} has none of the numbers of {_ENCODER}; take both from one "
                "download"
            )


def learn_dictionary(sentences: Iterable[str], min_count: int) -> dict[str, int]:
    """Tokens and their counts, as `fairseq-preprocess --thresholdsrc` lists them.

    The most frequent come first, ties by symbol; rarer ones than `min_count` are left out, and
    symbols without a meaning fill it up to a multiple of eight.

    Raises UserError if no token is left.
    """
    counts: Counter[str] = Counter()
    for sentence in sentences:
        counts.update(sentence.split())
    kept = {token: count for token, count in ranked(counts) if count >= min_count}
    if not kept:
        raise UserError(
            f"no word is in the training set {min_count} time(s); lower --min-count, or give more "
            "text"
        )
    fillers = -(len(SPECIAL_SYMBOLS) + len(kept)) % _MULTIPLE
    return {**kept, **{f"madeupword{index:04d}": 0 for index in range(fillers)}}


@lru_cache(maxsize=1)
def _encoder(folder: Path) -> Any:
    """fairseq's encoder of byte pairs; one of the last folder is kept by each process."""
    from speechprune import quiet_fairseq  # noqa: F401  (before fairseq)

    # isort: split
    from fairseq.data.encoders.gpt2_bpe_utils import get_encoder

    try:
        encoder = get_encoder(str(folder / _ENCODER), str(folder / _MERGES))
        numbers = list(encoder.encoder.values())
    except (ValueError, AttributeError, OSError) as error:
        raise UserError(
            f"{folder} does not hold GPT-2's byte pairs: {_ENCODER} and {_MERGES} cannot be read "
            f"({error})"
        ) from error
    if not all(isinstance(number, int) for number in numbers):
        raise UserError(f'{folder / _ENCODER} is not JSON of the form {{"token": number}}')
    return encoder
