"""check_split accepts what training can read, and names what it cannot."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from nano import write_corpus

from speechprune.errors import UserError
from speechprune.manifests.check import check_split


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_summary_counts_what_soundfile_reads(corpus: Path) -> None:
    lengths = [len(soundfile.read(f)[0]) for f in (corpus / "audio").glob("train-*.wav")]
    summary = check_split(corpus, "train", max_tokens=max(lengths))
    assert (summary.utterances, summary.frames) == (6, sum(lengths))
    assert (summary.longest, summary.unknown) == (max(lengths), 0)


def test_labels_are_counted_as_fairseq_counts_them(corpus: Path) -> None:
    """A line separator of Unicode is a character of a label, not the end of its line."""
    edit(corpus / "train.ltr", "|", "\u2028 |")
    assert check_split(corpus, "train", closed=False).utterances == 6


def test_unknown_symbols_are_counted_where_they_are_allowed(corpus: Path) -> None:
    lines = (corpus / "valid.ltr").read_text()
    edit(corpus / "dict.ltr.txt", "A 1\n", "")
    assert check_split(corpus, "valid", closed=False).unknown == lines.count("A")


def test_recordings_may_lie_in_an_archive(corpus: Path) -> None:
    name, frames = (corpus / "train.tsv").read_text().splitlines()[1].split("\t")
    archive = corpus / "audio" / "all.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(corpus / "audio" / name, name)
        offset = file.getinfo(name).header_offset + len(file.getinfo(name).FileHeader())
        size = file.getinfo(name).file_size
    edit(corpus / "train.tsv", name, f"all.zip:{offset}:{size}")
    assert check_split(corpus, "train").utterances == 6
    edit(corpus / "train.tsv", f"\t{frames}", "\t7")
    with pytest.raises(UserError, match=f"all.zip:{offset}:{size} has {frames} samples"):
        check_split(corpus, "train")


def without_split(corpus: Path) -> None:
    (corpus / "train.tsv").unlink()


def without_labels(corpus: Path) -> None:
    (corpus / "train.ltr").unlink()


def without_dictionary(corpus: Path) -> None:
    (corpus / "dict.ltr.txt").unlink()


def without_recordings(corpus: Path) -> None:
    (corpus / "train.tsv").write_text(f"{corpus / 'audio'}\n")


def without_audio(corpus: Path) -> None:
    edit(corpus / "train.tsv", str(corpus / "audio"), str(corpus / "moved"))


def without_a_recording(corpus: Path) -> None:
    (corpus / "audio" / "train-3.wav").unlink()


def with_a_text_as_recording(corpus: Path) -> None:
    (corpus / "audio" / "train-3.wav").write_text("no audio")


def with_another_rate(corpus: Path) -> None:
    soundfile.write(corpus / "audio" / "train-3.wav", np.zeros(800), 8000)


def with_another_length(corpus: Path) -> None:
    soundfile.write(corpus / "audio" / "train-3.wav", np.zeros(800), 16000)


def with_a_row_of_one_column(corpus: Path) -> None:
    edit(corpus / "train.tsv", "train-1.wav\t", "train-1.wav ")


def with_a_line_of_labels_less(corpus: Path) -> None:
    lines = (corpus / "train.ltr").read_text().splitlines()
    (corpus / "train.ltr").write_text("\n".join(lines[:-1]) + "\n")


def with_a_strange_symbol(corpus: Path) -> None:
    edit(corpus / "train.ltr", " |", " q |")


def with_a_dictionary_without_counts(corpus: Path) -> None:
    edit(corpus / "dict.ltr.txt", "A 1", "A")


def as_latin_1(corpus: Path) -> None:
    (corpus / "train.ltr").write_bytes("Ä |\n".encode("latin-1") * 6)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (without_split, "train.tsv is missing; splits in its folder: valid"),
        (without_labels, "train.ltr is missing"),
        (without_dictionary, "dict.ltr.txt is missing"),
        (without_recordings, "train.tsv lists no recording"),
        (without_audio, "train.tsv line 1: no folder '.*moved'"),
        (without_a_recording, "train-3.wav is missing"),
        (with_a_text_as_recording, "train-3.wav is not readable audio"),
        (with_another_rate, "train-3.wav has a sample rate of 8000 Hz; resample it to 16000"),
        (with_another_length, "train-3.wav has 800 samples, but its manifest says"),
        (with_a_row_of_one_column, "train.tsv line 3: expected"),
        (with_a_line_of_labels_less, "train.ltr has 5 lines for 6 recordings"),
        (with_a_strange_symbol, "train.ltr line 1: symbol 'q' is not in .*dict.ltr.txt"),
        (with_a_dictionary_without_counts, "dict.ltr.txt line 2: expected"),
        (as_latin_1, "train.ltr is not UTF-8 text"),
    ],
)
def test_damage_is_named_in_one_line(
    corpus: Path, damage: Callable[[Path], None], told: str
) -> None:
    damage(corpus)
    with pytest.raises(UserError, match=told) as error:
        check_split(corpus, "train")
    assert "\n" not in str(error.value)


def test_an_utterance_longer_than_a_batch_is_named_with_its_length(corpus: Path) -> None:
    longest = check_split(corpus, "train").longest
    with pytest.raises(UserError, match=rf"train-\d.wav has {longest} samples, more than .*=9"):
        check_split(corpus, "train", max_tokens=9)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder .*nowhere; correct task.data"):
        check_split(tmp_path / "nowhere", "train")
