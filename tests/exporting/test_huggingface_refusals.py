"""What cannot be exported or imported is refused in one line, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import refusal, rewrite
from click.testing import CliRunner
from exported import Exports
from sentences import write_roberta
from slim_files import silence

from speechprune.exporting import huggingface_export, huggingface_import
from speechprune.exporting.huggingface_export import export_huggingface
from speechprune.exporting.huggingface_import import import_huggingface
from speechprune.rewriting.slimming import apply
from speechprune.tools.main import commands


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory.mktemp("exports"))


@pytest.fixture
def folder(exports: Exports, tmp_path: Path) -> Path:
    """A copy of an exported CTC model."""
    return Path(shutil.copytree(exports.folder_of(exports.ctc("base")), tmp_path / "folder"))


def refused(folder: Path) -> str:
    """The line with which the import of a folder is refused."""
    out = folder.parent / "out.pt"
    message = refusal(import_huggingface, folder, out)
    assert not out.exists() and not list(folder.parent.glob(".*"))
    return message


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_slim_model_names_onnx(exports: Exports, tmp_path: Path) -> None:
    path = Path(shutil.copy(exports.ctc("base"), tmp_path / "slim.pt"))
    rewrite(path, lambda state: silence(state["model"], 0, channels=[1, 2]))
    apply(path, tmp_path / "cut.pt")
    message = refusal(export_huggingface, tmp_path / "cut.pt", tmp_path / "out")
    assert "speechprune export onnx" in message and not (tmp_path / "out").exists()


def test_a_model_of_text_is_refused(tmp_path: Path) -> None:
    path = write_roberta(tmp_path / "text.pt")
    assert "is a model of text" in refusal(export_huggingface, path, tmp_path / "out")


@pytest.mark.parametrize("kind", ["file", "folder", "empty folder", "dangling link"])
def test_what_is_there_is_not_replaced(kind: str, exports: Exports, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "dangling link":
        out.symlink_to(tmp_path / "nothing")
    else:
        out.mkdir()
        if kind == "folder":
            (out / "mine").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    message = refusal(export_huggingface, exports.ctc("base"), out)
    assert "is there already" in message and sorted(tmp_path.rglob("*")) == before


def test_a_blank_with_a_weight_is_refused(exports: Exports, tmp_path: Path) -> None:
    path = Path(shutil.copy(exports.ctc("base"), tmp_path / "weighted.pt"))
    rewrite(path, lambda state: state["cfg"]["model"].update(blank_weight=2.0))
    assert "model.blank_weight" in refusal(export_huggingface, path, tmp_path / "out")


@pytest.mark.parametrize(
    ("setting", "value"),
    [("activation_fn", "gelu_fast"), ("layer_type", "conformer"), ("pos_conv_depth", 2)],
)
def test_other_networks_are_refused(
    setting: str, value: object, exports: Exports, tmp_path: Path
) -> None:
    path = Path(shutil.copy(exports.pretrained("base"), tmp_path / "other.pt"))
    rewrite(path, lambda state: state["cfg"]["model"].update({setting: value}))
    refusal(export_huggingface, path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["export", "import"])
def test_without_transformers_one_line_says_how_to_install_it(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from speechprune.huggingface import availability

    def missing(name: str) -> object:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(availability, "import_module", missing)
    line = [command, "huggingface", str(tmp_path / "a"), str(tmp_path / "b")]
    result = CliRunner().invoke(commands, line)
    assert result.exit_code == 1 and "pip install 'speechprune[huggingface]'" in result.output


def test_a_name_of_the_hub_is_no_folder(tmp_path: Path) -> None:
    message = refusal(import_huggingface, "facebook/wav2vec2-base", tmp_path / "out.pt")
    assert "hf download NAME" in message


def _config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", **changes)


def _text(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _cut_short(folder: Path) -> None:
    with open(folder / "model.safetensors", "r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) - 100)


def _tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def rewrite_tensors(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = folder / "model.safetensors"
        tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
        change(tensors)
        save_file(tensors, path)

    return rewrite_tensors


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"wav2vec2.masked_spec_embed": Marker(folder)}, folder / "pytorch_model.bin")


class Marker:
    """Makes a file when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return Path.touch, (self.folder.parent / "executed",)


def _elsewhere(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "weights.safetensors")
    index = {"weight_map": {"a": "../weights.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _vocabulary(change: Callable[[dict[str, int]], Any]) -> Callable[[Path], None]:
    def rewrite_vocabulary(folder: Path) -> None:
        vocabulary = json.loads((folder / "vocab.json").read_text())
        change(vocabulary)
        (folder / "vocab.json").write_text(json.dumps(vocabulary))

    return rewrite_vocabulary


_LAYER = "wav2vec2.encoder.layers.1.feed_forward.intermediate_dense.weight"
#: What is wrong with a folder, and a part of the line that says so.
DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "another family": (_config(model_type="bert"), "is of a 'bert' model"),
    "a list for a family": (_config(model_type=["wav2vec2"]), "is of a ['wav2vec2'] model"),
    "no config": (_without("config.json"), "config.json cannot be read"),
    "a config that is no object": (_text("config.json", "[1]"), "config.json cannot be used"),
    "a config that is no JSON": (_text("config.json", "{"), "config.json is damaged"),
    "a config too deep": (_text("config.json", "[" * 100_000), "config.json is damaged"),
    "a size that is text": (_config(hidden_size="32"), "config.json"),
    "a negative size": (_config(intermediate_size=-64), "intermediate_size=-64"),
    "a size beyond bounds": (_config(num_hidden_layers=10**12), "num_hidden_layers"),
    "a stride of nought": (_config(conv_stride=[5, 2, 2, 2, 2, 2, 0]), "convolutions"),
    "fewer strides": (_config(conv_stride=[5, 2]), "config.json"),
    "another eps": (_config(layer_norm_eps=1e-6), "layer_norm_eps=1e-06"),
    "an adapter": (_config(add_adapter=True), "add_adapter=True"),
    "an activation": (_config(hidden_act="mish"), "hidden_act='mish'"),
    "a share above one": (_config(hidden_dropout=1.5), "hidden_dropout=1.5"),
    "more layers than tensors": (_config(num_hidden_layers=3), "layers.2"),
    "fewer layers than tensors": (_config(num_hidden_layers=1), "layers.1"),
    "other heads": (_config(num_attention_heads=5), "5 heads"),
    "a wrong shape": (_config(intermediate_size=32), "[64, 32], but its settings ask for [32, 32]"),
    "no weights": (_without("model.safetensors"), "has no model.safetensors"),
    "cut short": (_cut_short, "model.safetensors is missing or damaged"),
    "no safetensors": (_text("model.safetensors", "no"), "model.safetensors is missing or damaged"),
    "a missing tensor": (_tensors(lambda t: t.pop(_LAYER)), f"lacks the tensor {_LAYER[9:]}"),
    "an unknown tensor": (
        _tensors(lambda t: t.update({"wav2vec2.adapter": torch.ones(2)})),
        "has a tensor adapter, for which fairseq has no place",
    ),
    "whole numbers": (
        _tensors(lambda t: t.update({_LAYER: t[_LAYER].to(torch.int8)})),
        "weights are floating-point",
    ),
    "not a number": (_tensors(lambda t: t[_LAYER].fill_(torch.nan)), "is not finite"),
    "code in a pickle": (_pickled, "not known to be safe"),
    "an index that leads elsewhere": (_elsewhere, "which is not in its folder"),
    "no extractor": (_without("preprocessor_config.json"), "whether audio is normalised"),
    "no vocabulary": (_without("vocab.json"), "but no vocab.json"),
    "a token less": (_vocabulary(lambda v: v.pop("A")), "has 9 tokens for the 10 outputs"),
    "a token more": (_vocabulary(lambda v: v.update(Z=10)), "has 11 tokens for the 10 outputs"),
    "a number twice": (_vocabulary(lambda v: v.update(A=v["B"])), "tokens for the 10 outputs"),
    "a number that is none": (_vocabulary(lambda v: v.update(A="5")), "a number for each token"),
    "languages": (_vocabulary(lambda v: v.update(eng={"a": 1})), "is of several languages"),
    "a blank": (_vocabulary(lambda v: v.update({" ": v.pop("A")})), "cannot hold the token ' '"),
    "another blank": (_config(pad_token_id=3), "is not the output 3"),
    "a larger vocabulary": (_config(vocab_size=12), "has 10 tokens for the 12 outputs"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_refused(name: str, folder: Path) -> None:
    damage, said = DAMAGE[name]
    damage(folder)
    message = refused(folder)
    assert said in message, message
    assert str(folder) in message and not (folder.parent / "executed").exists()


def test_what_differs_is_not_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = huggingface_import.settings_of
    monkeypatch.setattr(
        huggingface_import,
        "settings_of",
        lambda network: {**right(network), "activation_fn": "relu"},
    )
    assert "the outputs of the checkpoint differ" in refused(folder)


def test_a_checkpoint_that_was_there_stays(folder: Path, exports: Exports) -> None:
    out = Path(shutil.copy(exports.ctc("base"), folder.parent / "out.pt"))
    before = out.read_bytes()
    (folder / "vocab.json").unlink()
    refusal(import_huggingface, folder, out)
    assert out.read_bytes() == before


def test_a_full_disk_leaves_nothing(
    exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_export, "save_file", full)
    message = refusal(export_huggingface, exports.ctc("base"), tmp_path / "out")
    assert "No space left" in message and list(tmp_path.iterdir()) == []
