"""A nano RoBERTa, and sentences whose label hangs on one word, for `sentence_prediction`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import make_builder

from speechprune.backbones.roberta import Roberta

WORDS = ("good", "bad", "a", "film", "the", "plot", "was", "and", "actors", "of")
#: Longest text of the nano RoBERTa, in symbols.
POSITIONS = 32


def dictionary(words: Sequence[str] = WORDS) -> Dictionary:
    """As the task loads it, but for its symbol for masked words."""
    found = Dictionary()
    for count, word in enumerate(words):
        found.add_symbol(word, n=len(words) - count)
    return found


def write_roberta(
    path: Path, *, layers: int = 2, seed: int = 0, words: Sequence[str] = WORDS, **settings: Any
) -> Path:
    """A checkpoint as pretraining by `masked_lm` leaves it, with random weights."""
    model = {
        **{"_name": "roberta", "encoder_layers": layers, "encoder_embed_dim": 16},
        **{"encoder_ffn_embed_dim": 32, "encoder_attention_heads": 4, "max_positions": POSITIONS},
        **settings,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = Roberta().build({}, {**model, "vocabulary": len(dictionary(words)) + 1})
    state = {
        "args": None,
        "cfg": {
            **{"criterion": None, "lr_scheduler": None, "model": model},
            "task": {"_name": "masked_lm", "data": ".", "tokens_per_sample": POSITIONS},
        },
        "model": built.state_dict(),
        "optimizer_history": [{"num_updates": 1, "optimizer_name": None}],
        "extra_state": {"train_iterator": {"epoch": 1}},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


def write_sentences(
    folder: Path,
    sizes: dict[str, int] | None = None,
    *,
    words: Sequence[str] = WORDS,
    labels: Sequence[str] = ("0", "1"),
    seed: int = 0,
) -> Path:
    """Splits of random sentences; the first word says which of two labels one has."""
    random = np.random.default_rng(seed)
    symbols = dictionary(words)
    classes = Dictionary()
    for label in labels:
        classes.add_symbol(label)
    classes.finalize(padding_factor=-1)
    for name, found in (("input0", symbols), ("label", classes)):
        (folder / name).mkdir(parents=True)
        found.save(str(folder / name / "dict.txt"))
    for split, size in (sizes or {"train": 64, "valid": 16}).items():
        texts, targets = [], []
        for _ in range(size):
            label = int(random.integers(2))
            rest = random.choice(list(words[2:]), size=int(random.integers(2, 8)))
            texts.append(" ".join([words[1 - label], *rest]))
            targets.append(labels[label])
        _write(folder / "input0" / split, symbols, texts)
        _write(folder / "label" / split, classes, targets)
    return folder


def _write(prefix: Path, symbols: Dictionary, lines: Sequence[str]) -> None:
    builder = make_builder(f"{prefix}.bin", impl="mmap", vocab_size=len(symbols))
    for line in lines:
        builder.add_item(symbols.encode_line(line, add_if_not_exist=False).long())
    builder.finalize(f"{prefix}.idx")
