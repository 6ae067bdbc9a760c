"""The recipe of a small RoBERTa: its file, its dictionary, and what fairseq makes of both."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from fairseq import checkpoint_utils
from fairseq.models.roberta import RobertaModel
from fairseq.tasks.sentence_prediction import SentencePredictionConfig, SentencePredictionTask
from omegaconf import OmegaConf

from speechprune.checkpoint.file import PROVENANCE
from speechprune.errors import UserError
from speechprune.manifests.dictionary import symbols_digest
from speechprune.manifests.glue.preparation import TextSettings, prepare_text
from speechprune.recipes.nano_text import dictionary_beside, pretrain_nano_text
from speechprune.tools.main import commands

SMALL = (
    "model.encoder_layers=1",
    "model.encoder_embed_dim=16",
    "model.encoder_ffn_embed_dim=32",
    "model.encoder_attention_heads=2",
)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the recipe ran for two updates on a little text."""
    folder = tmp_path_factory.mktemp("nano_text")
    lines = [f"a {word} film, and number {n % 7}" for n in range(30) for word in ("good", "bad")]
    (folder / "train.txt").write_text("\n".join([*lines, "", "rare"]) + "\n")
    (folder / "valid.txt").write_text("\n".join(lines[:9]) + "\n")
    pretrain(folder, folder / "nano.pt")
    return folder


def pretrain(folder: Path, out: Path, **settings: int) -> None:
    pretrain_nano_text(
        out,
        folder / "nano",
        folder / "train.txt",
        folder / "valid.txt",
        overrides=SMALL,
        **{"updates": 2, "min_count": 2, **settings},
    )


def test_the_file_is_small_and_knows_its_dictionary(pretrained: Path) -> None:
    state = torch.load(pretrained / "nano.pt", map_location="cpu", weights_only=True)
    assert all(tensor.dtype == torch.float16 for tensor in state["model"].values())
    assert state["optimizer_history"][-1]["num_updates"] == 2
    assert "last_optimizer_state" not in state and str(pretrained) not in str(state["cfg"])
    words = dictionary_beside(pretrained / "nano.pt").read_text().split("\n")
    assert words[:3] == [", 60", "a 60", "and 60"]
    assert not [word for word in words if word.startswith("rare")]
    dictionary = dictionary_beside(pretrained / "nano.pt")
    assert state[PROVENANCE]["dictionary"] == symbols_digest(dictionary)
    # fairseq's four symbols, and the mask.
    rows = state["model"]["encoder.sentence_encoder.embed_tokens.weight"].shape[0]
    assert rows == len(dictionary.read_text().splitlines()) + 5
    run = checkpoint_utils.load_checkpoint_to_cpu(
        str(pretrained / "nano/run/checkpoints/checkpoint_last.pt")
    )["model"]
    assert run.keys() == state["model"].keys()
    assert all(torch.equal(run[name].half(), state["model"][name]) for name in run)
    embedded, shared = (
        state["model"][f"encoder.{name}.weight"]
        for name in ("sentence_encoder.embed_tokens", "lm_head")
    )
    assert embedded.data_ptr() == shared.data_ptr()  # stored once


def test_fairseq_finetunes_from_it(pretrained: Path, tmp_path: Path) -> None:
    (tmp_path / "SST-2").mkdir()
    for split in ("train", "dev"):
        table = "sentence\tlabel\na good film\t1\na bad, bad film\t0\n"
        (tmp_path / "SST-2" / f"{split}.tsv").write_text(table)
    dictionary = dictionary_beside(pretrained / "nano.pt")
    prepare_text(tmp_path, tmp_path / "out", TextSettings("SST-2", dictionary=dictionary))
    cfg = SentencePredictionConfig(data=str(tmp_path / "out"), num_classes=2, init_token=0)
    cfg.max_positions, cfg.regression_target, cfg.classification_head_name = 128, False, "head"
    cfg.seed = 1
    task = SentencePredictionTask.setup_task(cfg)
    state = checkpoint_utils.load_checkpoint_to_cpu(str(pretrained / "nano.pt"))
    settings = OmegaConf.create(OmegaConf.to_container(state["cfg"]["model"]))
    model = task.build_model(settings)
    assert isinstance(model, RobertaModel)
    stored = dict(state["model"])  # loading adds the new head to the state
    model.load_state_dict(state["model"], strict=True)
    loaded = model.state_dict()
    assert len(stored) > 20
    assert all(torch.equal(loaded[name].half(), tensor) for name, tensor in stored.items())
    example = task.load_dataset("train")[0]
    tokens = example["net_input.src_tokens"][None]
    logits, _ = model(tokens, features_only=True, classification_head_name="head")
    assert logits.shape == (1, 2) and 3 not in tokens  # no word is unknown


def test_what_is_there_is_used(pretrained: Path, tmp_path: Path) -> None:
    checkpoint = pretrained / "nano/run/checkpoints/checkpoint_last.pt"
    stamp = checkpoint.stat().st_mtime_ns
    pretrain(pretrained, tmp_path / "again.pt")
    assert checkpoint.stat().st_mtime_ns == stamp
    first, again = (
        torch.load(path, weights_only=True)["model"]
        for path in (pretrained / "nano.pt", tmp_path / "again.pt")
    )
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    with pytest.raises(UserError, match="was made with other settings"):
        pretrain(pretrained, tmp_path / "other.pt", updates=3)
    with pytest.raises(UserError, match="was prepared with min_count 2, not 1"):
        pretrain(pretrained, tmp_path / "other.pt", min_count=1)
    assert not (tmp_path / "other.pt").exists()


@pytest.mark.parametrize(
    "train, out, expected",
    [
        ("train.txt task.data=there", "nano.pt", "task.data is set by this recipe itself; name an"),
        ("train.txt optimization.max_update=9", "nano.pt", "set by this recipe itself; use --upd"),
        ("gone.txt", "nano.pt", "gone.txt is missing"),
        ("empty.txt", "nano.pt", "empty.txt has no words"),
        ("train.txt", ".", "is a folder; name a file"),
    ],
)
def test_bad_input_gets_one_line(train: str, out: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a film\n" * 9)
    (tmp_path / "empty.txt").write_text("\n")
    train, *overrides = train.split()
    words = ["--train", train, "--valid", "train.txt", "--out", out, "--folder", "nano"]
    places = [word if word.startswith("-") else str(tmp_path / word) for word in words]
    places += overrides
    result = CliRunner().invoke(commands, ["pretrain-nano-text", *places])
    assert result.exit_code == 1 and len(result.output.splitlines()) == 1
    assert expected in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.txt", "train.txt"]
