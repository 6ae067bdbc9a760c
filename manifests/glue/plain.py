"""Plain text, a sentence a line, becomes the folder that fairseq's task `masked_lm` reads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechprune.errors import UserError
from speechprune.manifests.dictionary import symbols_digest, write_dictionary
from speechprune.manifests.folders import replacing
from speechprune.manifests.glue.binarising import binarise, load_dictionary
from speechprune.manifests.glue.vocabulary import Words, learn_dictionary
from speechprune.manifests.lines import read_lines
from speechprune.manifests.provenance import finished, write_provenance

DICTIONARY = "dict.txt"


def prepare_plain(folder: Path, texts: Mapping[str, Path], *, min_count: int) -> None:
    """Write `folder` with `SPLIT.bin` of each text and a dictionary of words learned of the first.

    A folder that was finished with the same texts stays as it is.

    Args:
        texts: files by the split that they become.
        min_count: how often the first has a word of the dictionary.

    Raises:
        UserError: a file is missing or has no words, the folder was made of other texts, or as
            `folders.replacing`.
    """
    sentences = {split: _sentences(path) for split, path in texts.items()}
    described: dict[str, Any] = {
        "corpus": "plain text",
        "tokens": Words.name,
        "min_count": min_count,
        "texts_sha256": {
            split: hashlib.sha256("\n".join(lines).encode()).hexdigest()
            for split, lines in sentences.items()
        },
    }
    if finished(folder, described) is not None:
        return
    with replacing(folder) as partial:
        write_dictionary(
            partial / DICTIONARY, learn_dictionary(next(iter(sentences.values())), min_count)
        )
        dictionary = load_dictionary(partial / DICTIONARY)
        sizes = {
            split: binarise(lines, dictionary, partial / split)
            for split, lines in sentences.items()
        }
        write_provenance(
            partial,
            {
                **described,
                "dictionary": symbols_digest(partial / DICTIONARY),
                "splits": {split: vars(size) for split, size in sizes.items()},
            },
        )


def _sentences(path: Path) -> list[str]:
    """The tokens of each line that has any."""
    found = [tokens for tokens in Words()(read_lines(path)) if tokens]
    if not found:
        raise UserError(f"{path} has no words; give a text with a sentence a line")
    return found
