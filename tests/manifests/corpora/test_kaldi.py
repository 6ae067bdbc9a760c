"""Kaldi data: who says what where; what does not match is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from corpora import clips_per_split, write_kaldi

from speechprune.errors import UserError
from speechprune.manifests.corpora.kaldi import Kaldi
from speechprune.manifests.preparation import prepare


def test_kaldi(tmp_path: Path) -> None:
    root = write_kaldi(tmp_path / "data")
    corpus = Kaldi("en", audio=root).read(root)
    assert clips_per_split(corpus) == {"dev": 2, "train": 2}
    assert corpus.root == root / "audio"
    one, two = corpus.splits["train"]
    assert (one.name, one.segment.start, one.segment.end) == ("u1", 0.0, 1.0)
    assert (one.transcript, one.speaker, two.speaker) == ("one two", "ann", "bob")
    assert [clip.source for clip in corpus.splits["dev"]] == ["a b.wav", "\u00e9.flac"]
    assert list(Kaldi("en").read(root / "train").splits) == ["train"]


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("dev/wav.scp", "d1 sph2pipe a.sph |\nd2 a.wav", "wav.scp line 1: 'sph2pipe a.sph |' is a"),
        ("dev/wav.scp", "d1 a.wav\nd1 b.wav", "line 2: 'd1' is there twice"),
        ("dev/wav.scp", "d1 a.wav", "utterance 'd2' has no audio"),
        ("dev/text", "d1 four", "utterance 'd2' has no transcript"),
        ("train/segments", "u1 short 0 1\nu2 long 1 2", "line 1: no recording 'short'"),
        ("train/segments", "u1 long 0 1", "utterance 'u2' has no audio"),
        ("dev/wav.scp", "\n", "wav.scp is empty"),
    ],
)
def test_kaldi_refusals(tmp_path: Path, file: str, content: str, complaint: str) -> None:
    root = write_kaldi(tmp_path / "data")
    (root / file).write_text(content + "\n")
    with pytest.raises(UserError, match=complaint.replace("|", r"\|")) as caught:
        Kaldi("en", audio=root).read(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content", "name", "problem"),
    [
        ("dev/wav.scp", "d1\nd2 audio/\u00e9.flac", "d1", "has no file in wav.scp line 1"),
        (
            "train/segments",
            "u2 long 1 2\n\nu1 long 0",
            "u1",
            "has 'long 0' in segments line 3, not",
        ),
        (
            "train/segments",
            "u1 long 0 one\nu2 long 1 2",
            "u1",
            "has 'long 0 one' in segments line 1",
        ),
        (
            "train/segments",
            "u1 long 2 1\nu2 long 1 2",
            "u1",
            "lasts from 2 to 1 s in segments line 1",
        ),
        ("train/segments", "u1 long 0 inf\nu2 long 1 2", "u1", "lasts from 0 to inf s in segments"),
        ("train/segments", "u1 long 0 1 B\nu2 long 1 2", "u1", "(channels are not told apart)"),
        ("train/text", "u1\nu2 three", "u1", "has nothing left of its transcript ''"),
    ],
)
def test_a_short_row_is_left_out_like_a_bad_clip(
    tmp_path: Path, file: str, content: str, name: str, problem: str
) -> None:
    root = write_kaldi(tmp_path / "data")
    (root / file).write_text(content + "\n", encoding="utf-8")
    corpus = Kaldi("en", audio=root).read(root)
    with pytest.raises(UserError, match=f"1 of 4 clips cannot be used.*the first is {name} in"):
        prepare(corpus, tmp_path / "out", workers=1)
    made = prepare(corpus, tmp_path / "out", workers=1, max_bad=0.25)
    ((split, clip, reason),) = made.excluded
    assert (split, clip) == (file.partition("/")[0], name) and problem in reason
    assert sum(len(split.utterances) for split in made.splits) == 3


def test_every_table_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    root = write_kaldi(tmp_path / "data")
    expected = Kaldi("en", audio=root).read(root)
    for table in root.glob("*/*"):
        if table.parent.name != "audio":
            table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    assert Kaldi("en", audio=root).read(root) == expected


def test_an_end_of_minus_one_is_that_of_the_recording(tmp_path: Path) -> None:
    root = write_kaldi(tmp_path / "data")
    (root / "train/segments").write_text("u1 long 0 1\nu2 long 1.5 -1\n")
    one, two = Kaldi("en", audio=root).read(root).splits["train"]
    assert (two.segment.start, two.segment.end) == (1.5, None)


def test_empty_tables_are_refused(tmp_path: Path) -> None:
    root = write_kaldi(tmp_path / "data")
    (root / "dev/wav.scp").write_text("")
    with pytest.raises(UserError, match="dev/wav.scp is empty"):
        Kaldi("en").read(root)


def test_a_command_in_wav_scp_is_never_run(tmp_path: Path) -> None:
    root = write_kaldi(tmp_path / "data")
    for entry in (f"touch {tmp_path}/ran |", f"| touch {tmp_path}/ran"):
        (root / "dev/wav.scp").write_text(f"d1 {entry}\nd2 a.wav\n")
        with pytest.raises(UserError, match="is a command, which is never run"):
            Kaldi("en").read(root)
    assert "ran" not in os.listdir(tmp_path)


def test_no_kaldi(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no wav.scp in it or in a folder of it"):
        Kaldi("en").read(tmp_path)
