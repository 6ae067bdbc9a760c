"""Clips with classes, drawn into splits: by utterance, with all classes in each, or by speaker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from speechprune.errors import UserError
from speechprune.manifests.corpus import Clip
from speechprune.manifests.partition import assign

#: What stays in one split.
By = Literal["speaker", "utterance"]


def draw_splits(
    clips: Sequence[Clip], shares: Mapping[str, float], by: By, seed: int
) -> dict[str, list[Clip]]:
    """Splits of such shares of the clips, which depend on the seed and on the clips' names alone.

    Args:
        clips: with different names.
        by: "utterance" gives each split its share of each class, but the first clip of a class to
            the first split; "speaker" keeps what a speaker says together, whatever the classes.

    Raises:
        UserError: a clip has no speaker, or there are fewer speakers than splits.
    """
    ordered = sorted(clips, key=lambda clip: clip.name)
    groups = _speakers(ordered, len(shares)) if by == "speaker" else None
    splits: dict[str, list[Clip]] = {name: [] for name in shares}
    if groups is None:
        for clip, name in _spread_classes(ordered, shares, seed):
            splits[name].append(clip)
    else:
        names = list(shares)
        parts = assign([len(group) for group in groups], list(shares.values()), seed)
        for group, part in zip(groups, parts):
            splits[names[part]] += group
    return splits


def _speakers(clips: Sequence[Clip], count: int) -> list[list[Clip]]:
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        if not clip.speaker:
            raise UserError(f"{clip.name} has no speaker; draw with --by utterance")
        groups.setdefault(clip.speaker, []).append(clip)
    if len(groups) < count:
        raise UserError(
            f"{len(groups)} speaker(s) cannot be drawn into {count} splits; ask for fewer, or draw "
            "with --by utterance"
        )
    return [groups[speaker] for speaker in sorted(groups)]


def _spread_classes(
    clips: Sequence[Clip], shares: Mapping[str, float], seed: int
) -> list[tuple[Clip, str]]:
    """Each clip with its split: class after class, whichever split lacks most."""
    classes: dict[str, list[Clip]] = {}
    for clip in clips:
        classes.setdefault(clip.transcript, []).append(clip)
    names, random = list(shares), np.random.default_rng(seed)
    missing = dict.fromkeys(names, 0.0)
    drawn = []
    for label in sorted(classes):
        for rank, index in enumerate(random.permutation(len(classes[label])).tolist()):
            for name, share in shares.items():
                missing[name] += share
            # What is tested has to be trained.
            name = max(names, key=missing.__getitem__) if rank else names[0]
            missing[name] -= 1
            drawn.append((classes[label][index], name))
    return drawn
