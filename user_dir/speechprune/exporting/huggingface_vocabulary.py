"""Symbols of a CTC head: fairseq's dictionary as Hugging Face's vocabulary, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.data.dictionary import Dictionary
from torch import Tensor

from speechprune.checkpoint.outputs import dictionary_of
from speechprune.decoding.greedy import spells_words
from speechprune.errors import UserError
from speechprune.manifests.spelling import WORD_END

#: Hugging Face's names of fairseq's first four symbols, by which tokenizers call them. The blank is
#: the first, `<s>` to fairseq, but the symbol for padding to Hugging Face: both change places.
_SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
#: The bias of an output that Hugging Face's head lacks: it never wins, and adds nothing to a sum of
#: exponentials, but is finite in half precision.
_NEVER = -1e4


@dataclass(frozen=True)
class Outputs:
    """What the outputs of a CTC head from Hugging Face stand for in fairseq.

    Attributes:
        dictionary: of fairseq.
        rows: of Hugging Face's head, for each symbol of it; None for one that the head lacks.
    """

    dictionary: Dictionary
    rows: tuple[int | None, ...]

    def ordered(self, head: Tensor, *, is_bias: bool) -> Tensor:
        """A tensor of the head, (outputs, ...), with its rows as fairseq's dictionary has them."""
        lacking = torch.full_like(head[0], _NEVER if is_bias else 0.0)
        return torch.stack([lacking if row is None else head[row] for row in self.rows])


def vocabulary_of(dictionary: Dictionary, path: object) -> dict[str, int]:
    """Hugging Face's vocabulary: the output of each symbol.

    Raises UserError if the dictionary does not begin with fairseq's own symbols.
    """
    own = list(_SPECIAL.values())
    if dictionary.symbols[:4] != ["<s>", "<pad>", "</s>", "<unk>"]:
        raise UserError(
            f"{path}: its dictionary does not begin with <s> <pad> </s> <unk>, which tokenizers of "
            "Hugging Face's need"
        )
    return {s: row for row, s in enumerate([*own, *dictionary.symbols[4:]])}


def tokenizer_config(dictionary: Dictionary) -> dict[str, Any]:
    """Settings of the tokenizer that joins symbols as we do: letters to words, units apart."""
    common = {**_SPECIAL, "processor_class": "Wav2Vec2Processor"}
    if spells_words(dictionary):
        return {
            **common,
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
            "word_delimiter_token": WORD_END,
            "do_lower_case": False,
        }
    return {
        **common,
        "tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer",
        "phone_delimiter_token": " ",
        "word_delimiter_token": None,
        "do_phonemize": False,
    }


def special_tokens() -> dict[str, str]:
    """The symbols that stand for no sound, by what tokenizers call their parts."""
    return dict(_SPECIAL)


def outputs_of(
    vocabulary: Mapping[str, int], tokenizer: Mapping[str, Any], blank: object, count: int, at: str
) -> Outputs:
    """What the outputs of a head stand for.

    Args:
        vocabulary: the number of each token, of those that were added later too.
        tokenizer: its settings.
        blank: the output that the model was trained with as the blank.
        count: of the head's outputs.
        at: where the vocabulary is from, for messages.

    Raises:
        UserError: outputs have no token, or tokens no output; the blank is another token than that
            for padding; or fairseq's dictionary cannot hold a token.
    """
    special = {kind: _name(tokenizer.get(kind, name)) for kind, name in _SPECIAL.items()}
    _refuse_misfit(vocabulary, special, count, at)
    if vocabulary.get(special["pad_token"] or "") != blank:
        raise UserError(
            f"{at}: the token {special['pad_token']} for padding is not the output {blank!r}, the "
            "model's blank (pad_token_id)"
        )
    delimiter = tokenizer.get("word_delimiter_token", WORD_END)
    tokens = {row: token for token, row in vocabulary.items() if row < count}
    ours = {token: tokens_row for tokens_row, token in tokens.items()}
    first = [ours.get(name or "") for name in special.values()]
    rows = [row for row in sorted(tokens) if row not in first]
    symbols = [WORD_END if tokens[row] == delimiter else tokens[row] for row in rows]
    dictionary = dictionary_of([symbol, 1] for symbol in symbols)
    for symbol in symbols:
        if not symbol or symbol != "".join(symbol.split()):
            raise UserError(f"{at}: fairseq's dictionary cannot hold the token {symbol!r}")
    if len(dictionary) != len(first) + len(symbols):
        raise UserError(f"{at}: two outputs would be one symbol in fairseq's dictionary")
    return Outputs(dictionary, (*first, *rows))


def _refuse_misfit(
    vocabulary: Mapping[str, int], special: Mapping[str, str | None], count: int, at: str
) -> None:
    """Raise UserError unless each output has one token, and each token an output, but for special
    ones that were added beside."""
    if not all(type(row) is int and row >= 0 for row in vocabulary.values()):
        raise UserError(f"{at} does not give a number for each token")
    beyond = [
        token for token, row in vocabulary.items() if row >= count and token not in special.values()
    ]
    rows = [row for row in vocabulary.values() if row < count]
    if beyond or sorted(rows) != list(range(count)):
        known = len(set(rows))
        raise UserError(
            f"{at} has {known + len(beyond)} tokens for the {count} outputs of the head"
            if beyond or known != count
            else f"{at} has two tokens for one output of the head"
        )


def _name(token: Any) -> str | None:
    """A token's name: files of some versions have a dict of it, and how it is found in texts."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None
