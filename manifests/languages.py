"""Which language each line of a split is in: runs of lines, kept in `provenance.json`.

A merged folder tells `{"languages": {SPLIT: [[language, lines], ...]}}`, in line order; any other
may tell one `{"language": ...}` for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any

import numpy as np

from speechprune.errors import UserError
from speechprune.manifests.manifest import PROVENANCE

#: (language, number of lines), in line order.
Runs = list[tuple[str, int]]


def read_runs(provenance: Mapping[str, Any], folder: Path, split: str, count: int) -> Runs | None:
    """The runs of a split of `count` lines; None where the folder was not merged.

    Raises UserError if they are malformed or cover another number of lines.
    """
    if "languages" not in provenance:
        return None
    try:
        runs = [(str(language), int(lines)) for language, lines in provenance["languages"][split]]
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{folder / PROVENANCE}: languages.{split} is not a list of [language, lines]; "
            "merge the corpora again"
        ) from None
    told = sum(lines for _, lines in runs)
    if told != count or any(lines < 1 for _, lines in runs):
        raise UserError(
            f"{folder / PROVENANCE} tells the language of {told} lines of {split}, which has "
            f"{count}; merge the corpora again"
        )
    return runs


def select(runs: Runs, indices: Sequence[int]) -> Runs:
    """The runs of some of the lines."""
    ends = list(accumulate(lines for _, lines in runs))
    places = np.searchsorted(ends, np.asarray(indices), side="right")
    return joined((runs[place][0], 1) for place in places)


def joined(runs: Iterable[tuple[str, int]]) -> Runs:
    """Neighbouring runs of one language made one."""
    return [
        (language, sum(lines for _, lines in group))
        for language, group in groupby(runs, key=lambda run: run[0])
    ]
