"""Checkpoints: what is refused and how, loading without the files of training."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import shutil
import zipfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from checkpoints import MASKS, logits, refusal, rewrite
from fairseq import checkpoint_utils
from nano import (
    rewrite_as_of_2020,
    write_corpus,
    write_data2vec,
    write_finetuned,
    write_wav2vec2,
)
from omegaconf import OmegaConf

from speechprune.checkpoint import digest, read, write
from speechprune.checkpoint.pretrained import check_pretrained
from speechprune.errors import UserError
from speechprune.models.loading import load_finetuned, load_pretrained


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("data"), train=1, valid=1)


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    return write_wav2vec2(tmp_path / "pretrained.pt")


class Stranger:
    """A class that no checkpoint should need."""

    def __reduce__(self) -> tuple:
        return (os.system, ("touch executed",))


# --- files ---------------------------------------------------------------------------------------


def test_read_refuses_what_is_no_file(tmp_path: Path) -> None:
    assert "does not exist" in refusal(read, tmp_path / "missing.pt")
    assert "is a folder" in refusal(read, tmp_path)
    (tmp_path / "empty.pt").touch()
    assert "is empty" in refusal(read, tmp_path / "empty.pt")
    (tmp_path / "text.pt").write_text("no checkpoint")
    assert "no PyTorch checkpoint" in refusal(read, tmp_path / "text.pt")
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("a.txt", "no checkpoint")
    assert "no PyTorch checkpoint" in refusal(read, tmp_path / "zip.pt")


@pytest.mark.parametrize("archive", [True, False])
def test_read_refuses_truncated_files(pretrained: Path, archive: bool) -> None:
    rewrite(pretrained, lambda state: None, _use_new_zipfile_serialization=archive)
    whole = pretrained.read_bytes()
    for length in (1, 100, len(whole) // 2, len(whole) - 1):
        pretrained.write_bytes(whole[:length])
        assert str(pretrained) in refusal(read, pretrained), length


def test_read_notices_every_flipped_byte_that_matters(pretrained: Path) -> None:
    """torch loads an archive with wrong tensor bytes without a word."""
    whole, expected = pretrained.read_bytes(), read(pretrained)["model"]
    generator = random.Random(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[generator.randrange(len(whole))] ^= 0xFF
        pretrained.write_bytes(damaged)
        try:
            weights = read(pretrained)["model"]
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
            continue
        assert all(torch.equal(weights[key], expected[key]) for key in expected)
    assert refused > 30


@pytest.mark.parametrize("archive", [True, False])
def test_read_names_unknown_classes_and_runs_nothing(
    pretrained: Path, archive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pretrained.parent)
    strangers = {"extra_state": {"a": Stranger(), "b": OrderedDict(a=Namespace(b=Path("x")))}}
    rewrite(pretrained, lambda s: s.update(strangers), _use_new_zipfile_serialization=archive)
    message = refusal(read, pretrained)
    assert "posix.system" in message
    assert "not known to be safe" in message
    if archive:
        assert "pathlib.PosixPath" in message
        assert "Namespace" not in message
    assert not Path("executed").exists()


def test_read_refuses_what_is_no_fairseq_checkpoint(tmp_path: Path) -> None:
    for state in ({"weight": torch.ones(2)}, [1, 2], {"model": {}}, {"model": 1, "cfg": {"a": 1}}):
        torch.save(state, tmp_path / "other.pt")
        assert "not a fairseq checkpoint" in refusal(read, tmp_path / "other.pt")


def test_read_accepts_pickled_omegaconf(pretrained: Path) -> None:
    """The layout of xlsr_53_56k.pt."""
    rewrite(pretrained, lambda s: s.update(cfg=OmegaConf.create(s["cfg"])))
    check_pretrained(pretrained, normalize=False)
    assert "not true" in refusal(check_pretrained, pretrained, normalize=True)


def test_write_is_whole_or_not_at_all(pretrained: Path) -> None:
    state, before = read(pretrained), pretrained.read_bytes()
    assert "cannot be written" in refusal(write, state, pretrained.parent / "no" / "folder.pt")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        message = refusal(write, state, pretrained)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(pretrained) in message
    assert pretrained.read_bytes() == before
    write({**state, "args": None}, pretrained)
    assert set(read(pretrained)) == set(state)
    assert [path.name for path in pretrained.parent.iterdir()] == [pretrained.name]


def test_digest_is_sha256(tmp_path: Path) -> None:
    content = random.Random(0).randbytes(3_000_000)
    (tmp_path / "file").write_bytes(content)
    assert digest(tmp_path / "file") == hashlib.sha256(content).hexdigest()


# --- pretrained ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["2021", "2020"])
def test_pretrained_must_be_pretrained(pretrained: Path, data: Path, layout: str) -> None:
    finetuned = write_finetuned(pretrained.parent / "finetuned.pt", pretrained, data)
    if layout == "2020":
        rewrite_as_of_2020(pretrained)
        rewrite_as_of_2020(finetuned)
    check_pretrained(pretrained, normalize=False)
    assert "task.normalize=false" in refusal(check_pretrained, pretrained, normalize=True)
    message = refusal(check_pretrained, finetuned, normalize=False)
    assert f"checkpoint.finetune_from_model={finetuned}" in message


def test_pretrained_must_hold_a_speech_encoder(pretrained: Path) -> None:
    rewrite(pretrained, lambda state: state["model"].pop("mask_emb"))
    assert "no pretrained speech encoder" in refusal(check_pretrained, pretrained, False)


@pytest.mark.parametrize("name", ["wav2vec2", "data2vec_audio"])
def test_pretrained_encoder_is_that_of_the_file(tmp_path: Path, name: str) -> None:
    path = (write_data2vec if name == "data2vec_audio" else write_wav2vec2)(tmp_path / "nano.pt")
    encoder = load_pretrained(path, {"encoder_layerdrop": 0.25})
    assert encoder.cfg.encoder_layerdrop == 0.25
    saved = read(path)["model"]
    assert all(torch.equal(value, saved[key]) for key, value in encoder.state_dict().items())
    assert "encoder.layers.1.fc2.weight" in encoder.state_dict()
    rewrite(path, lambda state: state["model"].pop("layer_norm.weight"))
    assert "layer_norm.weight" in refusal(load_pretrained, path)


def test_a_model_of_2020_can_be_finetuned(pretrained: Path, data: Path) -> None:
    new = write_finetuned(pretrained.parent / "new.pt", pretrained, data, model=MASKS)
    old = write_finetuned(pretrained.parent / "old.pt", rewrite_as_of_2020(pretrained), data)
    weight = "w2v_encoder.w2v_model.encoder.layers.1.fc1.weight"
    assert torch.equal(read(new)["model"][weight], read(old)["model"][weight])


# --- finetuned -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["weights", "masks", "data2vec"])
def test_finetuned_loads_without_the_files_of_training(
    tmp_path: Path, data: Path, kind: str
) -> None:
    corpus = Path(shutil.copytree(data, tmp_path / "corpus"))
    source = (write_data2vec if kind == "data2vec" else write_wav2vec2)(tmp_path / "source.pt")
    model = {} if kind == "weights" else MASKS
    path = write_finetuned(tmp_path / "finetuned.pt", source, corpus, model=model)
    (reference,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(path)])
    source.unlink()
    shutil.rmtree(corpus)
    loaded = load_finetuned(path)
    reference.eval().requires_grad_(False)  # which PyTorch rounds otherwise
    assert torch.equal(logits(loaded.model), logits(reference))
    assert len(loaded.dictionary) == loaded.model.w2v_encoder.proj.out_features
    assert loaded.density == (1.0 if kind == "weights" else 0.5)


def test_finetuned_of_2020_loads(pretrained: Path, data: Path) -> None:
    path = write_finetuned(pretrained.parent / "finetuned.pt", pretrained, data)
    expected = logits(load_finetuned(path).model)
    assert torch.equal(logits(load_finetuned(rewrite_as_of_2020(path)).model), expected)


def test_dictionary_may_come_from_the_data(pretrained: Path, data: Path) -> None:
    path = write_finetuned(pretrained.parent / "finetuned.pt", pretrained, data)
    symbols = load_finetuned(path).dictionary.symbols
    gone = str(pretrained.parent / "gone")
    rewrite(path, lambda s: (s["task_state"].clear(), s["cfg"]["task"].update(data=gone)))
    assert "dict.ltr.txt" in refusal(load_finetuned, path)
    assert load_finetuned(path, data).dictionary.symbols == symbols


def test_finetuned_refuses_the_rest(pretrained: Path, data: Path) -> None:
    assert "not a finetuned model" in refusal(load_finetuned, pretrained)
    path = write_finetuned(pretrained.parent / "finetuned.pt", pretrained, data)
    whole = path.read_bytes()
    rewrite(path, lambda s: s["model"].pop("w2v_encoder.proj.bias"))
    assert "proj.bias" in refusal(load_finetuned, path)
    path.write_bytes(whole)
    rewrite(path, lambda s: s["cfg"]["model"].update(_name="conformer_ctc_of_others"))
    assert "conformer_ctc_of_others" in refusal(load_finetuned, path)
