"""LibriSpeech and Libri-light: who says what where; what does not match is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpora import clips_per_split, write_libri_light, write_librispeech

from speechprune.errors import UserError
from speechprune.manifests.corpora.librispeech import LibriSpeech


def test_librispeech(tmp_path: Path) -> None:
    corpus = LibriSpeech().read(write_librispeech(tmp_path / "Libri Speech"))
    assert clips_per_split(corpus) == {"dev-clean": 4, "train-clean-100": 4}
    first = corpus.splits["dev-clean"][0]
    assert first.source == "dev-clean/174/198/174-198-0000.flac"
    assert (first.transcript, first.speaker) == ("THE CAT'S HAT", "174")
    corpus = LibriSpeech(subsets=("dev-clean",)).read(tmp_path / "Libri Speech")
    assert clips_per_split(corpus) == {"dev-clean": 4}


def test_libri_lights_sets_contain_one_another(tmp_path: Path) -> None:
    corpus = LibriSpeech().read(write_libri_light(tmp_path))
    assert clips_per_split(corpus) == {"train-10m": 4, "train-1h": 24, "train-10h": 28}
    sources = {name: {c.source for c in clips} for name, clips in corpus.splits.items()}
    assert sources["train-10m"] < sources["train-1h"] < sources["train-10h"]
    assert all(source.startswith("1h/0/") for source in sources["train-10m"])
    ten_minutes = LibriSpeech(subsets=("train-10m",)).read(tmp_path)
    assert clips_per_split(ten_minutes) == {"train-10m": 4}


def test_librispeech_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        LibriSpeech().read(tmp_path / "gone")
    with pytest.raises(UserError, match="is not LibriSpeech: looked for train-clean-100"):
        LibriSpeech().read(tmp_path)
    root = write_librispeech(tmp_path / "in")
    with pytest.raises(UserError, match="no split 'test-clean'; it has dev-clean, train-clean-100"):
        LibriSpeech(subsets=("test-clean",)).read(root)
    chapter = root / "dev-clean/84/198"
    (chapter / "84-198-0009.flac").write_bytes(b"")
    with pytest.raises(UserError, match="84-198-0009.flac has no transcript in 84-198.trans.txt"):
        LibriSpeech().read(root)
    (chapter / "84-198-0009.flac").unlink()
    (chapter / "84-198-0001.flac").unlink()
    with pytest.raises(UserError, match="84-198.trans.txt line 2: no recording"):
        LibriSpeech().read(root)
    (chapter / "84-198.trans.txt").write_text("84-198-0000 A\n" * 2)
    with pytest.raises(UserError, match="line 2: 84-198-0000 is there twice"):
        LibriSpeech().read(root)
    (chapter / "84-198.trans.txt").unlink()
    with pytest.raises(UserError, match="84/198 has recordings and no"):
        LibriSpeech().read(root)


def test_a_link_in_a_circle_ends(tmp_path: Path) -> None:
    root = write_librispeech(tmp_path / "in")
    (root / "dev-clean/round").symlink_to(root, target_is_directory=True)
    (root / "self").symlink_to(root / "self")
    assert clips_per_split(LibriSpeech().read(root)) == {"dev-clean": 4, "train-clean-100": 4}
