"""A split cut into parts, no speaker in two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from speechprune.errors import UserError
from speechprune.manifests.operations import Sizes, rearrange
from speechprune.manifests.verbatim import Lines

# Random orders that are tried, and how far from its target (of its target) a part may stay. The
# alternative, largest speakers first, is closer still, but would make the parts with small shares
# of whoever says least.
_ORDERS = 50
_CLOSE = 0.005


def split_split(
    source: Path,
    out: Path,
    shares: Mapping[str, float],
    *,
    split: str = "train",
    by: str = "speaker",
    seed: int = 1,
    dictionary: Path | None = None,
    overwrite: bool = False,
) -> Sizes:
    """Write the manifest folder `out`: `split` cut into parts, and the other splits unchanged.

    Args:
        shares: of the split's hours, by the name of the part; they sum to 1.
        by: "speaker" keeps each speaker in one part; "utterance" does not.
        dictionary: a file to take in place of that of `source`.

    Raises:
        UserError: the shares do not sum to 1, the speakers are unknown or too few, or as
            `operations.rearrange`.
    """
    check_shares("--into", shares)

    def choose(lines: Lines) -> list[list[int]]:
        groups = [[i] for i in range(len(lines))] if by == "utterance" else _speakers(lines, source)
        if len(groups) < len(shares):
            raise UserError(
                f"split {split} of {source} has {len(groups)} {by}(s) for {len(shares)} parts; "
                "ask for fewer parts"
            )
        sizes = [sum(lines.frames[i] for i in group) for group in groups]
        parts: list[list[int]] = [[] for _ in shares]
        for group, part in zip(groups, assign(sizes, list(shares.values()), seed)):
            parts[part] += group
        return [sorted(part) for part in parts]

    described = {"operation": "split", "split": split, "by": by, "seed": seed}
    described["into"] = dict(shares)
    return rearrange(
        source,
        out,
        split,
        list(shares),
        choose,
        described,
        dictionary=dictionary,
        overwrite=overwrite,
    )


def parse_shares(flag: str, text: str) -> dict[str, float]:
    """Shares by name, such as those of "train=0.9,valid=0.1".

    Raises UserError, which names the option `flag`, for anything else.
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = part.strip().partition("=")
        try:
            value = float(share)
        except ValueError:
            raise UserError(
                f"{flag} {text}: {part!r} is not NAME=SHARE, such as valid=0.1"
            ) from None
        if name in shares:
            raise UserError(f"{flag} {text}: two parts are called {name!r}")
        shares[name] = value
    return shares


def check_shares(flag: str, shares: Mapping[str, float]) -> None:
    """Raise UserError, which names the option `flag`, unless shares are above 0 and sum to 1."""
    fit = all(share > 0 for share in shares.values())
    if len(shares) < 2 or not fit or abs(sum(shares.values()) - 1) > 1e-6:
        given = ",".join(f"{name}={share:g}" for name, share in shares.items())
        raise UserError(f"{flag} {given}: give two or more shares above 0 that sum to 1")


def assign(sizes: Sequence[int], shares: Sequence[float], seed: int) -> list[int]:
    """The part of each group, such that the parts' sums of sizes come close to their shares.

    Args:
        sizes: of N groups, at least as many as there are shares.
        shares: of P parts; they sum to 1. No part stays empty.

    Returns:
        N indices of parts; the first close result of some random orders, or the closest.
    """
    total = sum(sizes)
    targets = [share * total for share in shares]
    random = np.random.default_rng(seed)
    best: tuple[float, list[int]] | None = None
    for _ in range(_ORDERS):
        parts, missing = _greedy(sizes, targets, random.permutation(len(sizes)).tolist())
        worst = max(abs(rest) / target for rest, target in zip(missing, targets))
        if best is None or worst < best[0]:
            best = worst, parts
        if worst <= _CLOSE:
            break
    assert best is not None
    return best[1]


def _greedy(
    sizes: Sequence[int], targets: Sequence[float], order: Sequence[int]
) -> tuple[list[int], list[float]]:
    """Each group goes to the part that lacks most: parts (N,), and what each lacks then (P,)."""
    missing, parts = list(targets), [0] * len(sizes)
    empty = set(range(len(targets)))
    for done, group in enumerate(order):
        # The last groups are for the parts that have none.
        last = len(order) - done <= len(empty)
        part = max(sorted(empty) if last else range(len(targets)), key=missing.__getitem__)
        parts[group] = part
        missing[part] -= sizes[group]
        empty.discard(part)
    return parts, missing


def _speakers(lines: Lines, source: Path) -> list[list[int]]:
    """The line indices of each speaker, speakers sorted by name."""
    if "spk" not in lines.columns:
        raise UserError(f"{source / lines.name}.spk is missing; add it, or use --by utterance")
    groups: dict[str, list[int]] = {}
    for index, speaker in enumerate(lines.columns["spk"]):
        if not speaker.strip():
            raise UserError(
                f"{source / lines.name}.spk line {index + 1} names no speaker; add it, or use "
                "--by utterance"
            )
        groups.setdefault(speaker, []).append(index)
    return [groups[speaker] for speaker in sorted(groups)]
