"""Small language models in ARPA's form, made of sentences: bigrams with a simple smoothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

#: Taken off each bigram's probability, for words that were never seen to follow.
DISCOUNT = 0.2


def write_arpa(path: Path, sentences: Sequence[str]) -> Path:
    """Write bigrams that back off to words by their counts plus one, an unknown one too."""
    words, pairs, begun = Counter[str](), Counter[tuple[str, str]](), Counter[str]()
    for sentence in sentences:
        line = ["<s>", *sentence.split(), "</s>"]
        words.update(line[1:])
        pairs.update(zip(line, line[1:]))
        begun.update(line[:-1])
    total = sum(words.values()) + len(words) + 1
    unigrams = {word: (count + 1) / total for word, count in words.items()}
    lines = ["\\data\\", f"ngram 1={len(words) + 2}", f"ngram 2={len(pairs)}", "", "\\1-grams:"]
    lines += [
        f"{math.log10(1 / total):.6f}\t<unk>",
        f"-99\t<s>\t{_backoff(pairs, unigrams, '<s>')}",
    ]
    for word in sorted(words):
        backoff = "" if word == "</s>" else f"\t{_backoff(pairs, unigrams, word)}"
        lines.append(f"{math.log10(unigrams[word]):.6f}\t{word}{backoff}")
    lines += ["", "\\2-grams:"]
    for (first, second), count in sorted(pairs.items()):
        share = (1 - DISCOUNT) * count / begun[first]
        lines.append(f"{math.log10(share):.6f}\t{first} {second}")
    path.write_text("\n".join([*lines, "", "\\end\\", ""]), encoding="utf-8")
    return path


def _backoff(pairs: Counter[tuple[str, str]], unigrams: dict[str, float], first: str) -> str:
    seen = sum(unigrams[second] for one, second in pairs if one == first)
    return f"{math.log10(DISCOUNT / max(1 - seen, 1e-3)):.6f}"
