"""What is read of a checkpoint: each part of its type, or the file is refused and says why."""

from __future__ import annotations

import copy
import shutil
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from checkpoints import MASKS, logits, refusal, rewrite
from fairseq import checkpoint_utils
from nano import (
    rewrite_as_of_2020,
    write_corpus,
    write_finetuned,
    write_hubert,
    write_wav2vec2,
)
from omegaconf import OmegaConf

from speechprune.backbones import find_backbone
from speechprune.checkpoint import read
from speechprune.models.loading import load_encoder, load_finetuned
from speechprune.rewriting.conversion import convert
from speechprune.rewriting.folding import fold

FC1 = "encoder.layers.0.fc1.weight"
MASKED = f"w2v_encoder.w2v_model.{FC1.replace('fc1', 'fc2')}"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("contents")
    data = write_corpus(folder / "data", train=1, valid=1)
    pretrained = write_wav2vec2(folder / "pretrained.pt")
    finetuned = write_finetuned(folder / "finetuned.pt", pretrained, data)
    masked = write_finetuned(folder / "masked.pt", pretrained, data, model=MASKS)
    return {"pretrained": pretrained, "finetuned": finetuned, "masked": masked, "data": data}


Change = Callable[[dict[str, Any]], Any]


def changed(files: dict[str, Path], kind: str, folder: Path, change: Change) -> Path:
    return rewrite(Path(shutil.copy(files[kind], folder / "changed.pt")), change)


def tensor(name: str, new: Callable[[torch.Tensor], Any]) -> Change:
    """A change of one tensor."""
    return lambda state: state["model"].update({name: new(state["model"][name])})


def setting(name: str, value: Any, section: str = "model") -> Change:
    return lambda state: state["cfg"][section].update({name: value})


def doubling() -> dict[str, Any]:
    """Sections of two settings each, which take the whole section before them twice."""
    levels = {f"s{n}": dict.fromkeys("xy", f"${{s{n - 1}}}") for n in range(1, 19)}
    return {"s0": {"x": 1}, **levels}


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("pretrained", tensor(FC1, lambda w: w.long()), f"{FC1} is int64"),
        ("pretrained", tensor(FC1, lambda w: w.double()), f"{FC1} is float64"),
        ("pretrained", tensor(FC1, lambda w: w.to_sparse()), f"{FC1} is not a tensor"),
        ("pretrained", tensor(FC1, lambda w: "text"), f"{FC1} is not a tensor, but a str"),
        ("pretrained", tensor(FC1, lambda w: torch.ones(1).expand(w.shape)), "more entries than"),
        ("pretrained", tensor(FC1, lambda w: w.index_fill(0, torch.tensor([3]), torch.nan)), FC1),
        ("pretrained", tensor(FC1, lambda w: torch.full_like(w, -torch.inf)), "is not finite"),
        ("pretrained", tensor(FC1, lambda w: w.half().fill_(torch.nan)), "is not finite"),
        ("pretrained", tensor(FC1, lambda w: w[:, :16]), "size mismatch"),
        ("pretrained", tensor("mask_emb", lambda w: w[:16]), "encoder_embed_dim=32"),
        ("masked", tensor(f"{MASKED}_mask", lambda m: m.float()), "packed masks are uint8"),
        ("masked", tensor(f"{MASKED}_mask", lambda m: m[:3]), "3 bytes are not the bits"),
        ("pretrained", setting("encoder_layers", 1_000_000), "encoder_layers=1000000"),
        ("pretrained", setting("encoder_layers", 1), "encoder_layers=1"),
        ("pretrained", setting("encoder_layers", "12"), "encoder_layers is a str"),
        ("pretrained", setting("conv_feature_layers", "[(16, 10, 5)] * 90"), "conv_feature_layers"),
        ("pretrained", setting("pos_conv_depth", 10**9), "pos_conv_depth=1000000000"),
        ("pretrained", setting("latent_vars", 10**9), "latent_vars=1000000000"),
        ("pretrained", setting("encoder_ffn_embed_dim", 10**7), "encoder_ffn_embed_dim"),
        ("pretrained", setting("dropout", [[]]), "weights and configuration disagree"),
        ("pretrained", setting("_name", 3), "_name is an int"),
        ("pretrained", setting("dropout", torch.ones(1)), "cfg.model.dropout is a Tensor"),
        ("pretrained", setting("final_dim", "${oc.env:HOME}"), "names a function"),
        ("pretrained", setting("final_dim", "${a.b}${a.b}"), "is made of others"),
        ("pretrained", lambda state: state["cfg"].update(doubling()), "has more settings than any"),
        ("pretrained", lambda state: state.update(cfg=[1]), "its cfg is a list"),
        ("pretrained", lambda state: state["cfg"].update(model=[1]), "its cfg.model is a list"),
        ("pretrained", lambda state: state.update(args="text"), "its args are a str"),
        ("pretrained", lambda state: state.update(optimizer_history={}), "its optimizer_history"),
        ("pretrained", lambda state: state.update(extra_state=[1]), "its extra_state"),
        ("finetuned", lambda state: state.update(task_state=[1]), "its task_state"),
        ("finetuned", lambda state: state["task_state"].update(target_dictionary={}), "task_state"),
        ("finetuned", lambda state: state.update(last_optimizer_state=1), "last_optimizer_state"),
        ("finetuned", lambda state: state.update(speechprune=[1]), "its speechprune"),
        (
            "finetuned",
            lambda state: state["task_state"]["target_dictionary"].add_symbol("Z"),
            "its dictionary has 11 symbols, but its output layer 10 outputs",
        ),
        (
            "finetuned",
            lambda state: state["task_state"]["target_dictionary"].symbols.reverse(),
            "its task_state",
        ),
        (
            "finetuned",
            # fairseq would call what is named as the class of a meter.
            lambda s: s["extra_state"].update(metrics={"a": [(1, "b", "time_it", {"n": 1})]}),
            "its extra_state",
        ),
    ],
)
def test_what_is_damaged_is_refused_by_name(
    files: dict[str, Path], tmp_path: Path, kind: str, change: Change, reason: str
) -> None:
    path = changed(files, kind, tmp_path, change)
    message = refusal(load_encoder, path)
    assert str(path) in message and reason in message


def test_an_archive_that_would_fill_the_memory_is_refused(
    files: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "compressed.pt"
    with zipfile.ZipFile(files["pretrained"]) as source:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
            for part in source.infolist():
                target.writestr(part.filename, source.read(part))
    assert "it is compressed" in refusal(read, path)


def test_settings_that_take_from_others_are_resolved(
    files: dict[str, Path], tmp_path: Path
) -> None:
    def change(state: dict[str, Any]) -> None:
        state["cfg"]["task"]["normalize"] = "${common.heard}"
        state["cfg"]["common"] = {"heard": False, "lost": "${no.where}", "user_dir": "/code"}

    for form in (lambda state: None, lambda s: s.update(cfg=OmegaConf.create(s["cfg"]))):
        path = changed(files, "pretrained", tmp_path, lambda s, form=form: (change(s), form(s)))
        cfg = read(path)["cfg"]
        assert cfg["task"]["normalize"] is False
        assert cfg["common"] == {"heard": False, "lost": "${no.where}", "user_dir": None}


# --- as other times and tools write them ----------------------------------------------------------


def _stripped(state: dict[str, Any]) -> None:
    for part in set(state) - {"cfg", "model"}:
        del state[part]


def _without_history(state: dict[str, Any]) -> None:
    state.update(optimizer_history=[], extra_state={})


def _decoding(state: dict[str, Any]) -> None:
    """fairseq of 2021 kept settings of its decoder, of which some are None."""
    state["cfg"]["task"].update(eval_wer=False, eval_wer_config=None, autoregressive=False)
    state["cfg"]["generation"] = {"beam": 5}


def _in_omegaconf(state: dict[str, Any]) -> None:
    """As xlsr_53_56k.pt."""
    _decoding(state)
    state["cfg"]["criterion"] = {"_name": "wav2vec"}
    state["cfg"] = OmegaConf.create(state["cfg"])


def _in_namespaces(state: dict[str, Any]) -> None:
    for section, old in (("model", "arch"), ("task", "task")):
        settings = copy.copy(state["cfg"][section])
        state["cfg"][section] = Namespace(**settings, **{old: settings["_name"]})


def _of_a_task_elsewhere(state: dict[str, Any]) -> None:
    state["cfg"]["task"]["_name"] = "temp_sampled_audio_pretraining"


ERAS = [_stripped, _without_history, _decoding, _in_omegaconf, _in_namespaces, _of_a_task_elsewhere]


@pytest.mark.parametrize("change", ERAS)
def test_pretrained_files_of_every_kind_give_equal_features(
    files: dict[str, Path], tmp_path: Path, change: Change
) -> None:
    path = changed(files, "pretrained", tmp_path, change)
    first, second = features(files["pretrained"]), features(path)
    assert torch.equal(first, second)
    finetuned = write_finetuned_from(path, tmp_path / "finetuned.pt", files["data"])
    assert torch.equal(
        logits(load_finetuned(finetuned).model), logits(load_finetuned(files["finetuned"]).model)
    )


def features(path: Path) -> torch.Tensor:
    encoder = load_encoder(path)
    audio = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return find_backbone(encoder).features(encoder, audio, None)[0]


def write_finetuned_from(pretrained: Path, path: Path, data: Path) -> Path:
    """As `write_finetuned`, which reads the settings of files of today alone."""
    plain = pretrained.with_name("plain.pt")
    torch.save({**read(pretrained), "args": None}, plain)
    write_finetuned(path, plain, data)
    return path


@pytest.mark.parametrize("change", ERAS)
@pytest.mark.parametrize("kind", ["finetuned", "masked"])
def test_finetuned_files_of_every_kind_give_equal_logits(
    files: dict[str, Path], tmp_path: Path, kind: str, change: Change
) -> None:
    path = changed(files, kind, tmp_path, change)
    expected = logits(load_finetuned(files[kind]).model)
    assert torch.equal(logits(load_finetuned(path, files["data"]).model), expected)


def test_stripped_files_can_be_folded_and_converted(files: dict[str, Path], tmp_path: Path) -> None:
    path = changed(files, "masked", tmp_path, _stripped)
    fold(path, tmp_path / "folded.pt")
    folded = load_finetuned(tmp_path / "folded.pt").model
    torch.testing.assert_close(logits(folded), logits(load_finetuned(path, files["data"]).model))
    hubert = rewrite(write_hubert(tmp_path / "hubert.pt"), _stripped)
    convert(hubert, tmp_path / "converted.pt")
    assert torch.equal(features(tmp_path / "converted.pt"), features(hubert))


@pytest.mark.parametrize("kind", ["pretrained", "finetuned"])
def test_fairseqs_trainer_finds_what_it_looks_for(
    files: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    state = checkpoint_utils.load_checkpoint_to_cpu(str(changed(files, kind, tmp_path, _stripped)))
    assert state["optimizer_history"][-1]["num_updates"] == 0
    assert state["extra_state"]["train_iterator"] == {"epoch": 1, "iterations_in_epoch": 0}
    assert state.get("last_optimizer_state") is None


def test_files_of_2020_read_as_they_did(files: dict[str, Path], tmp_path: Path) -> None:
    whole = Path(shutil.copy(files["finetuned"], tmp_path / "finetuned.pt"))
    expected = logits(load_finetuned(whole).model)
    old = rewrite_as_of_2020(whole)
    assert isinstance(read(old)["args"], Namespace) and read(old)["args"].user_dir is None
    assert torch.equal(logits(load_finetuned(old).model), expected)


def test_a_file_opens_no_other_that_it_names(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not its pretrained model, nor a folder of code."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "__init__.py").write_text("raise AssertionError('imported')")

    def change(state: dict[str, Any]) -> None:
        state["cfg"]["common"]["user_dir"] = str(tmp_path / "code")
        state["cfg"]["model"]["w2v_args"]["common"] = {"user_dir": str(tmp_path / "code")}
        assert Path(state["cfg"]["model"]["w2v_path"]).is_file()

    opened = []
    load = torch.load
    monkeypatch.setattr(
        torch, "load", lambda file, *a, **o: opened.append(file) or load(file, *a, **o)
    )
    path = changed(files, "masked", tmp_path, change)
    opened.clear()
    assert torch.equal(
        logits(load_finetuned(path).model), logits(load_finetuned(files["masked"]).model)
    )
    assert set(opened) == {path, files["masked"]}
