"""The files of a split, of manifests or of texts, and what tells splits apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from speechprune.files import digest


def inputs_digest(folder: Path, subset: str) -> str:
    """Tells apart what subsets have to hear or to read; raises OSError if it is unreadable."""
    if is_of_texts(folder):
        return digest_of_files(_texts(folder, subset))
    return digest(folder / f"{subset}.tsv")


def split_digest(folder: Path, subset: str, labels: str) -> str:
    """Tells subsets apart: what is heard or read, and labels; raises OSError if it is unreadable.

    Args:
        labels: the ending of the label files beside a manifest; texts have labels of one kind.
    """
    if is_of_texts(folder):
        known = [folder / "label" / f"{subset}.{ending}" for ending in ("bin", "idx", "label")]
        return digest_of_files(
            [*_texts(folder, subset), *(path for path in known if path.exists())]
        )
    return digest_of_files(folder / f"{subset}.{ending}" for ending in ("tsv", labels))


def is_of_texts(folder: Path) -> bool:
    """Whether a folder holds texts for `sentence_prediction`, and no manifests."""
    return (folder / "input0").is_dir()


def _texts(folder: Path, subset: str) -> list[Path]:
    places = [folder / "input0", *([folder / "input1"] if (folder / "input1").is_dir() else [])]
    return [place / f"{subset}.{ending}" for place in places for ending in ("bin", "idx")]


def digest_of_files(paths: Iterable[Path]) -> str:
    """Tells apart what files hold, in their order; raises OSError if one is unreadable."""
    return hashlib.sha256(" ".join(map(digest, paths)).encode()).hexdigest()
