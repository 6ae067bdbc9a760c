"""Small manifest folders of noise, and the command that handles them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
from click.testing import CliRunner, Result

from speechprune.manifests.audio import write_flac
from speechprune.manifests.folders import replacing
from speechprune.manifests.manifest import Split, Utterance, write_manifest
from speechprune.tools.main import commands

#: (text, speaker, samples) of each utterance.
Spoken = Sequence[tuple[str, str, int]]

TRAIN: Spoken = [
    ("NO YES", "ann", 1600),
    ("ON", "ann", 2400),
    ("SEVEN NO ON", "bob", 3200),
    ("YES", "eve", 800),
]
VALID: Spoken = [("NO", "zoe", 1600), ("ON YES", "zoe", 2000)]


def write_folder(
    folder: Path,
    splits: Optional[Mapping[str, Spoken]] = None,
    provenance: Optional[Mapping[str, Any]] = None,
    *,
    units: bool = False,
) -> Path:
    """A manifest folder and its audio; returns `folder`."""
    splits = {"train": TRAIN, "valid": VALID} if splits is None else splits
    random = np.random.default_rng(0)
    with replacing(folder) as partial:
        found = []
        for name, spoken in splits.items():
            rows = []
            for index, (text, speaker, frames) in enumerate(spoken):
                path = f"{name}/{index:03d}.flac"
                write_flac(partial / "audio" / path, random.normal(0, 0.1, frames))
                rows.append(Utterance(path, frames, text, speaker))
            found.append(Split(name, folder.absolute() / "audio", tuple(rows)))
        write_manifest(partial, found, provenance or {}, units=units)
    return folder


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def edit(path: Path, old: str, new: str) -> None:
    """Replace the first of `old`."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file directly in a folder."""
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file()}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(commands, ["manifest", *map(str, arguments)], prog_name="speechprune")


def succeed(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refuse(*arguments: object) -> str:
    """What a refusal says, in its one line."""
    result = run(*arguments)
    assert result.exit_code != 0
    assert result.stderr.startswith("speechprune: error: ") and result.stderr.count("\n") == 1
    return result.stderr


def told(folder: Path) -> dict[str, Any]:
    """The provenance of a folder."""
    return json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
