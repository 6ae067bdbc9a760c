"""What all corpora have in common whose audio is made."""

from __future__ import annotations

from collections.abc import Mapping

from speechprune.errors import UserError

SPLITS = ("train", "valid", "test")


def check_sizes(sizes: Mapping[str, int]) -> None:
    """Raise UserError unless every split is one of `SPLITS` and has utterances."""
    if not sizes:
        raise UserError("a corpus needs a split")
    for name, size in sizes.items():
        if name not in SPLITS or size < 1:
            raise UserError(
                f"split {name!r} of {size} utterances; use {', '.join(SPLITS)}, at least 1"
            )


def check_seed(seed: int) -> None:
    """Raise UserError for a negative seed."""
    if seed < 0:
        raise UserError(f"seed {seed} is negative; choose 0 or more")
