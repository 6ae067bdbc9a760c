"""Which language each line of a split is in: spans of lines, kept in `provenance.json`.

A merged folder has `{"languages": {SPLIT: [[language, lines], ...]}}`, in line order; any other
may have one `{"language": ...}` for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any

import numpy as np

from speechprune.errors import UserError
from speechprune.manifests.provenance import PROVENANCE

#: (language, number of lines), in line order.
Spans = list[tuple[str, int]]


def read_spans(provenance: Mapping[str, Any], folder: Path, split: str, count: int) -> Spans | None:
    """The spans of a split of `count` lines; None where the folder was not merged.

    Raises UserError if they are malformed or cover another number of lines.
    """
    if "languages" not in provenance:
        return None
    try:
        spans = [(str(language), int(lines)) for language, lines in provenance["languages"][split]]
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{folder / PROVENANCE}: languages.{split} is not a list of [language, lines]; "
            "merge the corpora again"
        ) from None
    covered = sum(lines for _, lines in spans)
    if covered != count or any(lines < 1 for _, lines in spans):
        raise UserError(
            f"{folder / PROVENANCE} gives the language of {covered} lines of {split}, which has "
            f"{count}; merge the corpora again"
        )
    return spans


def select(spans: Spans, indices: Sequence[int]) -> Spans:
    """The spans of some of the lines."""
    ends = list(accumulate(lines for _, lines in spans))
    places = np.searchsorted(ends, np.asarray(indices), side="right")
    return joined((spans[place][0], 1) for place in places)


def joined(spans: Iterable[tuple[str, int]]) -> Spans:
    """Neighbouring spans of one language made one."""
    return [
        (language, sum(lines for _, lines in group))
        for language, group in groupby(spans, key=lambda span: span[0])
    ]
