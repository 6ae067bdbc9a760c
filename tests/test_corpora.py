"""Readers find who says what where, in each corpus's own layout, and refuse what does not match."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from corpora import write_aishell, write_kaldi, write_libri_light, write_librispeech

from speechprune.errors import UserError
from speechprune.manifests.aishell import read_aishell
from speechprune.manifests.corpus import Corpus, ReadyUnits
from speechprune.manifests.kaldi import read_kaldi
from speechprune.manifests.librispeech import read_librispeech

LABELS = ReadyUnits()


def sizes(corpus: Corpus) -> dict[str, int]:
    """Clips per split; every clip's audio must be there."""
    for clips in corpus.splits.values():
        assert all((corpus.root / clip.source).is_file() for clip in clips)
    return {name: len(clips) for name, clips in corpus.splits.items()}


def test_librispeech(tmp_path: Path) -> None:
    corpus = read_librispeech(write_librispeech(tmp_path / "Libri Speech"), LABELS)
    assert sizes(corpus) == {"dev-clean": 4, "train-clean-100": 4}
    first = corpus.splits["dev-clean"][0]
    assert first.source == "dev-clean/174/198/174-198-0000.flac"
    assert (first.transcript, first.speaker) == ("THE CAT'S HAT", "174")
    corpus = read_librispeech(tmp_path / "Libri Speech", LABELS, ["dev-clean"])
    assert sizes(corpus) == {"dev-clean": 4}


def test_libri_lights_sets_contain_one_another(tmp_path: Path) -> None:
    corpus = read_librispeech(write_libri_light(tmp_path), LABELS)
    assert sizes(corpus) == {"train-10m": 4, "train-1h": 24, "train-10h": 28}
    sources = {name: {c.source for c in clips} for name, clips in corpus.splits.items()}
    assert sources["train-10m"] < sources["train-1h"] < sources["train-10h"]
    assert all(source.startswith("1h/0/") for source in sources["train-10m"])
    ten_minutes = read_librispeech(tmp_path, LABELS, ["train-10m"])
    assert sizes(ten_minutes) == {"train-10m": 4}


def test_librispeech_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        read_librispeech(tmp_path / "gone", LABELS)
    with pytest.raises(UserError, match="is not LibriSpeech: looked for train-clean-100"):
        read_librispeech(tmp_path, LABELS)
    root = write_librispeech(tmp_path / "in")
    with pytest.raises(UserError, match="no split 'test-clean'; it has dev-clean, train-clean-100"):
        read_librispeech(root, LABELS, ["test-clean"])
    chapter = root / "dev-clean/84/198"
    (chapter / "84-198-0009.flac").write_bytes(b"")
    with pytest.raises(UserError, match="84-198-0009.flac has no transcript in 84-198.trans.txt"):
        read_librispeech(root, LABELS)
    (chapter / "84-198-0009.flac").unlink()
    (chapter / "84-198-0001.flac").unlink()
    with pytest.raises(UserError, match="84-198.trans.txt line 2: no recording"):
        read_librispeech(root, LABELS)
    (chapter / "84-198.trans.txt").write_text("84-198-0000 A\n" * 2)
    with pytest.raises(UserError, match="line 2: 84-198-0000 is there twice"):
        read_librispeech(root, LABELS)
    (chapter / "84-198.trans.txt").unlink()
    with pytest.raises(UserError, match="84/198 has recordings and no"):
        read_librispeech(root, LABELS)


def test_a_link_in_a_circle_ends(tmp_path: Path) -> None:
    root = write_librispeech(tmp_path / "in")
    (root / "dev-clean/round").symlink_to(root, target_is_directory=True)
    (root / "self").symlink_to(root / "self")
    assert sizes(read_librispeech(root, LABELS)) == {"dev-clean": 4, "train-clean-100": 4}


def test_aishell(tmp_path: Path) -> None:
    write_aishell(tmp_path / "data_aishell")
    for root in (tmp_path, tmp_path / "data_aishell"):
        corpus = read_aishell(root, LABELS)
        assert sizes(corpus) == {"train": 2, "dev": 2, "test": 2}
        assert corpus.options == {"recordings_without_transcript": 1}
    clip = corpus.splits["dev"][0]
    assert clip.source == "wav/dev/S0724/BAC009S0724W0000.wav"
    assert (clip.transcript, clip.speaker) == ("\u800c \u5bf9 \u697c\u5e02", "S0724")


def test_aishell_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not AISHELL-1: looked for transcript/"):
        read_aishell(tmp_path, LABELS)
    root = write_aishell(tmp_path / "data_aishell")
    (root / "wav/dev/S0724/BAC009S0724W0001.wav").unlink()
    with pytest.raises(UserError, match="1 transcripts of .* have no recording"):
        read_aishell(root, LABELS)
    for path in (root / "wav/test").glob("*/*"):
        path.unlink()
    with pytest.raises(UserError, match="wav/test holds no recording; extract the archives"):
        read_aishell(root, LABELS)


def test_kaldi(tmp_path: Path) -> None:
    root = write_kaldi(tmp_path / "data")
    corpus = read_kaldi(root, "en", LABELS, audio=root)
    assert sizes(corpus) == {"dev": 2, "train": 2}
    assert corpus.root == root / "audio"
    one, two = corpus.splits["train"]
    assert (one.name, one.segment.start, one.segment.end) == ("u1", 0.0, 1.0)
    assert (one.transcript, one.speaker, two.speaker) == ("one two", "ann", "bob")
    assert [clip.source for clip in corpus.splits["dev"]] == ["a b.wav", "\u00e9.flac"]
    assert list(read_kaldi(root / "train", "en", LABELS).splits) == ["train"]


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("dev/wav.scp", "d1 sph2pipe a.sph |\nd2 a.wav", "wav.scp line 1: 'sph2pipe a.sph |' is a"),
        ("dev/wav.scp", "d1 a.wav\nd1 b.wav", "line 2: 'd1' is there twice"),
        ("dev/wav.scp", "d1 a.wav\n\nd2 b.wav", "line 2: the line is empty"),
        ("dev/wav.scp", "d1 a.wav", "utterance 'd2' has no audio"),
        ("dev/text", "d1 four", "utterance 'd2' has no transcript"),
        ("train/segments", "u1 long 0 one\nu2 long 1 2", "line 1: expected `UTTERANCE RECORDING"),
        ("train/segments", "u1 long 2 1\nu2 long 1 2", "line 1: 2 to 1 s is no segment"),
        ("train/segments", "u1 short 0 1\nu2 long 1 2", "line 1: no recording 'short'"),
        ("train/segments", "u1 long 0 1", "utterance 'u2' has no audio"),
        ("train/segments", "u1 long 0 inf\nu2 long 1 2", "line 1: 0 to inf s is no segment"),
        ("train/segments", "u1 long 0 1 B\nu2 long 1 2", "channels are not told apart"),
        ("dev/wav.scp", "d1\nd2 a.wav", "line 1: 'd1' has no file"),
        ("dev/wav.scp", "", "wav.scp line 1: the line is empty"),
    ],
)
def test_kaldi_refusals(tmp_path: Path, file: str, content: str, complaint: str) -> None:
    root = write_kaldi(tmp_path / "data")
    (root / file).write_text(content + "\n")
    with pytest.raises(UserError, match=complaint.replace("|", r"\|")) as caught:
        read_kaldi(root, "en", LABELS, audio=root)
    assert "\n" not in str(caught.value)


def test_an_end_of_minus_one_is_that_of_the_recording(tmp_path: Path) -> None:
    root = write_kaldi(tmp_path / "data")
    (root / "train/segments").write_text("u1 long 0 1\nu2 long 1.5 -1\n")
    one, two = read_kaldi(root, "en", LABELS, audio=root).splits["train"]
    assert (two.segment.start, two.segment.end) == (1.5, None)


def test_empty_tables_are_refused(tmp_path: Path) -> None:
    root = write_kaldi(tmp_path / "data")
    (root / "dev/wav.scp").write_text("")
    with pytest.raises(UserError, match="dev/wav.scp is empty"):
        read_kaldi(root, "en", LABELS)


def test_a_command_in_wav_scp_is_never_run(tmp_path: Path) -> None:
    root = write_kaldi(tmp_path / "data")
    for entry in (f"touch {tmp_path}/ran |", f"| touch {tmp_path}/ran"):
        (root / "dev/wav.scp").write_text(f"d1 {entry}\nd2 a.wav\n")
        with pytest.raises(UserError, match="is a command, which is never run"):
            read_kaldi(root, "en", LABELS)
    assert "ran" not in os.listdir(tmp_path)


def test_no_kaldi(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no wav.scp in it or in a folder of it"):
        read_kaldi(tmp_path, "en", LABELS)
