"""Some minutes of a split, drawn at random."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from speechprune.errors import UserError
from speechprune.manifests.audio import SAMPLE_RATE
from speechprune.manifests.operations import Sizes, rearrange
from speechprune.manifests.verbatim import Lines


def draw_subset(
    source: Path,
    out: Path,
    minutes: float,
    *,
    split: str = "train",
    name: str | None = None,
    seed: int = 1,
    dictionary: Path | None = None,
    overwrite: bool = False,
) -> Sizes:
    """Write the manifest folder `out`: at most `minutes` of a split, and the others unchanged.

    Utterances come in a random order; one that would be too much is passed over.

    Args:
        name: of the subset; by default that of the split.
        dictionary: a file to take in place of that of `source`.

    Raises:
        UserError: `minutes` is not a length, the split is shorter than that, no utterance is as
            short as that, or as `operations.rearrange`.
    """
    if not 0 < minutes < float("inf"):
        raise UserError(f"--minutes {minutes:g} is not a length of audio; give a number above 0")
    described = {"operation": "subset", "split": split, "minutes": minutes, "seed": seed}

    def choose(lines: Lines) -> list[list[int]]:
        return [_draw(lines, source, minutes, seed)]

    return rearrange(
        source,
        out,
        split,
        [name or split],
        choose,
        described,
        dictionary=dictionary,
        overwrite=overwrite,
    )


def _draw(lines: Lines, source: Path, minutes: float, seed: int) -> list[int]:
    """Indices, ascending, of what fits into `minutes`."""
    left = round(minutes * 60 * SAMPLE_RATE)
    total = sum(lines.frames)
    if total < left:
        raise UserError(
            f"{source}: {lines.name} has {total / SAMPLE_RATE / 60:.2f} minutes, less than "
            f"--minutes {minutes:g}; ask for less"
        )
    drawn = []
    for index in np.random.default_rng(seed).permutation(len(lines)).tolist():
        if lines.frames[index] <= left:
            left -= lines.frames[index]
            drawn.append(index)
    if not drawn:
        raise UserError(
            f"{source}: no utterance of {lines.name} is as short as --minutes {minutes:g}; ask "
            "for more"
        )
    return sorted(drawn)
