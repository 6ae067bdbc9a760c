"""AISHELL-1: who says what where; what does not match is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpora import clips_per_split, write_aishell

from speechprune.errors import UserError
from speechprune.manifests.corpora.aishell import Aishell


def test_aishell(tmp_path: Path) -> None:
    write_aishell(tmp_path / "data_aishell")
    for root in (tmp_path, tmp_path / "data_aishell"):
        corpus = Aishell().read(root)
        assert clips_per_split(corpus) == {"train": 2, "dev": 2, "test": 2}
        assert corpus.options == {"recordings_without_transcript": 1}
    clip = corpus.splits["dev"][0]
    assert clip.source == "wav/dev/S0724/BAC009S0724W0000.wav"
    assert (clip.transcript, clip.speaker) == ("\u800c \u5bf9 \u697c\u5e02", "S0724")


def test_aishell_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not AISHELL-1: looked for transcript/"):
        Aishell().read(tmp_path)
    root = write_aishell(tmp_path / "data_aishell")
    (root / "wav/dev/S0724/BAC009S0724W0001.wav").unlink()
    with pytest.raises(UserError, match="1 transcripts of .* have no recording"):
        Aishell().read(root)
    for path in (root / "wav/test").glob("*/*"):
        path.unlink()
    with pytest.raises(UserError, match="wav/test holds no recording; extract the archives"):
        Aishell().read(root)
