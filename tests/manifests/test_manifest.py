"""Manifest folders: what is written can be read, by us and by fairseq, whole or not at all."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fairseq.data import Dictionary
from fairseq.tasks.audio_finetuning import AudioFinetuningConfig, AudioFinetuningTask
from omegaconf import OmegaConf

import speechprune.plugin  # noqa: F401  (what it changes in fairseq)
from speechprune.errors import UserError
from speechprune.manifests.audio import write_flac
from speechprune.manifests.folders import replacing
from speechprune.manifests.manifest import (
    Split,
    Utterance,
    read_split,
    write_manifest,
)

TEXTS = {"b/2.flac": "NO YES", "a/1.flac": "ON", "c/3.flac": "SEVEN NO ON"}


def write_corpus(folder: Path, texts: dict[str, str] = TEXTS) -> Path:
    """A corpus of noise in `folder`, one split called "train"; returns `folder`."""
    random = np.random.default_rng(0)
    with replacing(folder) as partial:
        utterances = [
            Utterance(path, write_flac(partial / "audio" / path, random.normal(0, 0.1, 1600)), text)
            for path, text in texts.items()
        ]
        write_manifest(
            partial, [Split("train", folder / "audio", tuple(utterances))], {"corpus": "noise"}
        )
    return folder


def test_files_are_sorted_and_aligned(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus")
    rows = (folder / "train.tsv").read_text().splitlines()
    assert rows == [str(folder / "audio"), "a/1.flac\t1600", "b/2.flac\t1600", "c/3.flac\t1600"]
    assert (folder / "train.ltr").read_text() == "O N |\nN O | Y E S |\nS E V E N | N O | O N |\n"
    assert (folder / "train.wrd").read_text() == "ON\nNO YES\nSEVEN NO ON\n"


def test_reading_gives_back_what_was_written(tmp_path: Path) -> None:
    split = read_split(write_corpus(tmp_path / "corpus"), "train")
    assert {u.path: u.text for u in split.utterances} == TEXTS
    assert split.seconds == pytest.approx(3 * 1600 / 16000)
    for utterance in split.utterances:
        assert soundfile.info(str(split.root / utterance.path)).frames == utterance.frames


def test_units_are_symbols_by_themselves(tmp_path: Path) -> None:
    utterances = (
        Utterance("b.flac", 5, "t\u0283 a", "Ann"),
        Utterance("a.flac", 4, "a t\u0283 a", "Bob"),
    )
    write_manifest(tmp_path, [Split("train", tmp_path, utterances)], {}, units=True)
    assert (tmp_path / "train.ltr").read_text(encoding="utf-8") == "a t\u0283 a\nt\u0283 a\n"
    assert (tmp_path / "dict.ltr.txt").read_text(encoding="utf-8") == "a 3\nt\u0283 2\n"
    assert (tmp_path / "train.spk").read_text() == "Bob\nAnn\n"
    assert read_split(tmp_path, "train").utterances == tuple(sorted(utterances))


def test_lines_are_parted_by_line_feeds_alone(tmp_path: Path) -> None:
    utterances = tuple(
        Utterance(f"{name}.flac", 5, "A") for name in ("a\u2028b", "c\x85d", "e\x0cf")
    )
    write_manifest(tmp_path, [Split("train", tmp_path, utterances)], {})
    assert read_split(tmp_path, "train").utterances == tuple(sorted(utterances))


def test_dictionary_counts_every_letter(tmp_path: Path) -> None:
    dictionary = Dictionary.load(str(write_corpus(tmp_path / "corpus") / "dict.ltr.txt"))
    letters = Counter(" ".join(f"{word} |" for t in TEXTS.values() for word in t.split()))
    del letters[" "]
    known = dictionary.symbols[dictionary.nspecial :]
    counts = dictionary.count[dictionary.nspecial :]
    assert dict(zip(known, counts)) == letters
    assert known == sorted(known)


def loaded_task(folder: Path) -> AudioFinetuningTask:
    cfg = OmegaConf.create(
        {"_name": "audio_finetuning", "data": str(folder), "labels": "ltr", "normalize": False}
    )
    cfg = OmegaConf.merge(OmegaConf.structured(AudioFinetuningConfig), cfg)
    cfg.tpu, cfg.seed = False, 1
    task = AudioFinetuningTask.setup_task(cfg)
    task.load_dataset("train", task_cfg=task.cfg)
    return task


def test_fairseq_reads_it_without_unknown_letters(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus")
    task = loaded_task(folder)
    dataset = task.dataset("train")
    spelled = [task.target_dictionary.string(dataset[i]["label"]) for i in range(len(dataset))]
    assert spelled == (folder / "train.ltr").read_text().splitlines()
    assert dataset[1]["source"].shape == (1600,)


def test_fairseq_reads_past_byte_order_marks(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus")
    for name in ("train.tsv", "train.ltr", "dict.ltr.txt"):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    task = loaded_task(folder)
    dataset = task.dataset("train")
    assert "".join(task.target_dictionary.symbols[4:]) == "ENOSVY|"
    spelled = [task.target_dictionary.string(dataset[i]["label"]) for i in range(len(dataset))]
    assert spelled == ["O N |", "N O | Y E S |", "S E V E N | N O | O N |"]
    assert dataset[0]["source"].shape == (1600,)
    assert [u.text for u in read_split(folder, "train").utterances] == [
        "ON",
        "NO YES",
        "SEVEN NO ON",
    ]


def test_provenance_is_kept(tmp_path: Path) -> None:
    described = json.loads((write_corpus(tmp_path / "corpus") / "provenance.json").read_text())
    assert described["corpus"] == "noise"
    assert described["splits"] == {"train": {"utterances": 3, "hours": round(0.3 / 3600, 6)}}


@pytest.mark.parametrize(
    ("utterance", "complaint"),
    [
        (Utterance("../out.flac", 1, "A"), "plain relative path"),
        (Utterance("/out.flac", 1, "A"), "plain relative path"),
        (Utterance("a\tb.flac", 1, "A"), "plain relative path"),
        (Utterance("a.flac", 0, "A"), "no samples"),
        (Utterance("a.flac", 1, ""), "not words"),
        (Utterance("a.flac", 1, "A\nB"), "not words"),
        (Utterance("a.flac", 1, "A|B"), "not words"),
    ],
)
def test_bad_utterances_are_not_written(
    tmp_path: Path, utterance: Utterance, complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint), replacing(tmp_path / "corpus") as partial:
        write_manifest(partial, [Split("train", tmp_path, (utterance,))], {})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("train.tsv", None, "train.tsv is missing"),
        ("train.tsv", "/audio\n", "lists no recording"),
        ("train.tsv", "/audio\na.flac\t1600\nb.flac 1600\nc.flac\t1\n", "line 3"),
        ("train.ltr", None, "train.ltr is missing"),
        ("train.ltr", "O N |\n", "train.ltr has 1 lines for 3 recordings in train.tsv; prepare"),
        ("train.spk", "Ann\n", "train.spk has 1 lines for 3 recordings in train.tsv; prepare"),
    ],
)
def test_bad_folders_are_refused(
    tmp_path: Path, name: str, content: str | None, complaint: str
) -> None:
    folder = write_corpus(tmp_path / "corpus")
    (folder / name).unlink(missing_ok=name == "train.spk")
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(UserError, match=complaint) as caught:
        read_split(folder, "train")
    assert "\n" not in str(caught.value)


def test_an_existing_folder_is_replaced_only_when_asked(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus")
    before = (folder / "train.wrd").read_text()
    with pytest.raises(UserError, match="--overwrite"):
        write_corpus(folder)
    assert (folder / "train.wrd").read_text() == before
    with replacing(folder, overwrite=True) as partial:
        (partial / "provenance.json").write_text("{}")
    assert os.listdir(folder) == ["provenance.json"]
    assert os.listdir(tmp_path) == ["corpus"]


def test_what_is_no_corpus_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="not a prepared corpus"):
        with replacing(tmp_path / "home", overwrite=True):
            pass
    assert (tmp_path / "home" / "thesis.tex").read_text() == "precious"


def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "corpus")
    with pytest.raises(KeyboardInterrupt), replacing(folder, overwrite=True) as partial:
        (partial / "train.tsv").write_text("half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["corpus"]
    assert len(read_split(folder, "train").utterances) == 3
