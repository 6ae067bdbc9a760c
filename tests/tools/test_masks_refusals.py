"""`speechprune masks` on bad input: one line, a non-zero exit, and nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mask_files import ENCODER, Files, run, succeed

from speechprune.checkpoint import read, write
from speechprune.masking.mask_set import MaskSet


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("masks"))


@pytest.fixture
def bad(files: Files, tmp_path: Path) -> dict[str, Path]:
    """Everything a bad command line below names."""
    whole = tmp_path / "whole.safetensors"
    succeed("export", files.spanish, whole)
    contents = whole.read_bytes()
    named = {
        "plain": files.plain,
        "spanish": files.spanish,
        "deep": files.deep,
        "pretrained": files.pretrained,
        "whole": whole,
        "missing": tmp_path / "missing.pt",
        "folder": tmp_path,
        "out": tmp_path / "out.pt",
        "nowhere": tmp_path / "no" / "folder" / "out.pt",
        "undrawn": tmp_path / "no" / "folder" / "map.png",
    }
    for name, content in {
        "empty": b"",
        "cut": contents[:-7],
        "cut_header": contents[:60],
        "cut_checkpoint": files.spanish.read_bytes()[:-5000],
        "text": b"masks are not text\n",
    }.items():
        named[name] = tmp_path / name
        named[name].write_bytes(content)
    few = MaskSet.load(whole)
    named["half"] = tmp_path / "half.safetensors"
    MaskSet({s: m for s, m in few.items() if ".1." not in s}).save(named["half"])
    named["gap"] = tmp_path / "gap.safetensors"
    MaskSet({s: m for s, m in few.items() if ".1.fc2." not in s}).save(named["gap"])
    biases = {s.replace("weight", "bias"): m[..., 0] for s, m in few.items()}
    named["biased"] = tmp_path / "biased.safetensors"
    MaskSet({**few, **biases}).save(named["biased"])
    named["none_kept"] = tmp_path / "none_kept.safetensors"
    MaskSet({s: torch.zeros_like(m) for s, m in few.items()}).save(named["none_kept"])
    state = read(files.spanish)
    state["model"][f"{ENCODER}encoder.layers.0.fc1.weight_mask"] = torch.zeros(3, dtype=torch.uint8)
    named["damaged"] = tmp_path / "damaged.pt"
    write(state, named["damaged"])
    return named


@pytest.mark.parametrize(
    "line, reason",
    [
        ("stats missing", "does not exist"),
        ("stats folder", "folder"),
        ("stats empty", "empty"),
        ("stats text", "no PyTorch checkpoint"),
        ("stats cut", "not a mask file, or damaged"),
        ("stats cut_header", "not a mask file, or damaged"),
        ("stats cut_checkpoint", "truncated"),
        ("stats plain", "holds no masks"),
        ("stats pretrained", "is a pretrained model: masks are learned by finetuning it"),
        ("stats damaged", "layers.0.fc1.weight is damaged"),
        ("export whole out", "no PyTorch checkpoint, but another file (safetensors)"),
        ("export plain out", "holds no masks"),
        ("export spanish nowhere", "No such file"),
        ("export spanish spanish", "would be overwritten"),
        ("apply missing whole out", "does not exist"),
        ("apply plain missing out", "does not exist"),
        ("apply plain cut out", "damaged"),
        ("apply pretrained whole out", "finetune"),
        ("apply deep whole out", "no site 'encoder.layers.2.fc1.weight'"),
        ("apply plain deep out", "the model has no site 'encoder.layers.2.fc1.weight'"),
        ("apply plain half out", "no site 'encoder.layers.1.fc1.weight'"),
        ("apply plain none_kept out", "keep nothing"),
        ("apply plain whole nowhere", "No such file"),
        ("apply plain whole whole", "would be overwritten"),
        ("apply plain whole plain", "would be overwritten"),
        ("compare whole", "at least two"),
        ("compare whole missing", "does not exist"),
        ("compare whole deep", "masks of another model: one has 2 layer(s), the other 3"),
        ("compare half whole", "masks of another model: one has 1 layer(s), the other 2"),
        ("compare whole gap", "masks of another model: they have no site 'encoder.layers.1.fc2.w"),
        (
            "compare whole biased",
            "one has masks of biases, the other has none; train with model.prune",
        ),
        (
            "compare biased whole",
            "one has masks of biases, the other has none; train with model.prune",
        ),
        ("compare whole spanish --heat-map undrawn", "No such file"),
        ("compare whole spanish --heat-map whole", "would be overwritten"),
        ("compare whole missing --heat-map map.jpg", "map.jpg cannot be drawn; name a file that"),
        ("compare whole spanish --measure jaccard", "jaccard"),
        ("fold missing out", "does not exist"),
        ("fold spanish nowhere", "No such file"),
        ("fold spanish spanish", "would be overwritten"),
    ],
)
def test_bad_input_is_told_in_one_line_and_writes_nothing(
    bad: dict[str, Path], tmp_path: Path, line: str, reason: str
) -> None:
    before = {path: path.read_bytes() for path in [*bad.values()] if path.is_file()}
    names = sorted(tmp_path.rglob("*"))
    result = run(*(bad.get(word, word) for word in line.split()))
    assert result.exit_code != 0
    assert result.stderr.startswith("speechprune: error: ") and result.stderr.count("\n") == 1
    assert reason in result.stderr
    assert result.stdout == ""
    assert sorted(tmp_path.rglob("*")) == names
    assert all(path.read_bytes() == content for path, content in before.items())
