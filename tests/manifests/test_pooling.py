"""Recordings of several folders in one, without labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from speechprune.errors import UserError
from speechprune.manifests.manifest import Split, Utterance, write_manifest
from speechprune.manifests.pooling import pool
from speechprune.manifests.provenance import read_provenance


def write(folder: Path, speakers: str, units: bool = False) -> Path:
    folder.mkdir()
    splits = [
        Split(
            name,
            folder / "audio",
            tuple(Utterance(f"{name}/{who}.flac", 400, "A B", who) for who in speakers),
        )
        for name in ("train", "valid")
    ]
    write_manifest(folder, splits, {"corpus": folder.name}, units=units)
    return folder


def test_all_recordings_but_those_of_some_speakers(tmp_path: Path) -> None:
    phones, letters = write(tmp_path / "a", "kl", units=True), write(tmp_path / "b", "klm")
    pool(tmp_path / "out", {phones: (), letters: ("k", "m")}, ("train", "valid"))
    assert (tmp_path / "out/train.tsv").read_text().splitlines() == [
        str(tmp_path),
        "a/audio/train/k.flac\t400",
        "a/audio/train/l.flac\t400",
        "b/audio/train/l.flac\t400",
    ]
    assert (tmp_path / "out/valid.spk").read_text().split() == ["k", "l", "l"]
    assert not list((tmp_path / "out").glob("*.ltr"))
    found = read_provenance(tmp_path / "out")
    assert [source["without"] for source in found["sources"]] == [[], ["k", "m"]]


def test_somebody_has_to_be_left(tmp_path: Path) -> None:
    source = write(tmp_path / "a", "kl")
    with pytest.raises(UserError, match="no speaker of split train is left"):
        pool(tmp_path / "out", {source: ("k", "l")}, ("train", "valid"))
    assert not (tmp_path / "out").exists()
