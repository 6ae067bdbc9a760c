"""What cannot be exported, or is no exported file, is refused in one line that leaves nothing."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from checkpoints import refusal, rewrite
from exported_models import Pair, Workshop
from nano import write_wav2vec2
from onnx import TensorProto, helper

from speechprune.exporting.onnx_description import KEY
from speechprune.exporting.onnx_export import Bounds, export_onnx
from speechprune.exporting.onnx_model import load_any, load_onnx


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    yield Workshop(tmp_path_factory.mktemp("refused"))


@pytest.fixture(scope="module")
def pair(shop: Workshop) -> Pair:
    return shop.pair("hubert")


def test_unknown_layouts_and_opsets(pair: Pair, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    assert "sherpa-onnx" in refusal(export_onnx, pair.checkpoint, out, layout="sherpa")
    assert "from 20 to 23" in refusal(export_onnx, pair.checkpoint, out, opset=12)
    assert "--normalize-inside" in refusal(
        export_onnx, pair.checkpoint, out, layout="onnx-asr", normalize_inside=True
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("layout", ["onnx-asr", "sherpa-onnx"])
def test_another_sample_rate_than_that_of_a_layout(pair: Pair, tmp_path: Path, layout: str) -> None:
    path = Path(shutil.copy(pair.checkpoint, tmp_path / "telephone.pt"))
    rewrite(path, lambda state: state["cfg"]["task"].update(sample_rate=8000))
    message = refusal(export_onnx, path, tmp_path / "out", layout=layout)
    assert f"at 8000 Hz, but {layout} gives every model 16000 Hz; leave out --layout" in message
    assert [each.name for each in tmp_path.iterdir()] == ["telephone.pt"]


def test_a_pretrained_model(tmp_path: Path) -> None:
    pretrained = write_wav2vec2(tmp_path / "p.pt", layers=1)
    assert "finetune" in refusal(export_onnx, pretrained, tmp_path / "out.onnx")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_package_that_is_not_installed(
    pair: Pair, tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = refusal(export_onnx, pair.checkpoint, tmp_path / "out.onnx")
    assert "pip install 'speechprune[onnx]'" in message and package in message
    if package == "onnxruntime":
        assert "speechprune[onnx]" in refusal(load_onnx, pair.path)


def test_where_nothing_can_be_written(pair: Pair, tmp_path: Path) -> None:
    note = tmp_path / "note.txt"
    note.write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")
    assert "another kind" in refusal(export_onnx, pair.checkpoint, note)
    assert "device" in refusal(export_onnx, pair.checkpoint, "/dev/null")
    assert "overwritten" in refusal(export_onnx, pair.checkpoint, pair.checkpoint)
    assert "no folder" in refusal(export_onnx, pair.checkpoint, tmp_path / "a" / "b.onnx")
    for taken in (tmp_path / "full", note):
        assert "there already" in refusal(export_onnx, pair.checkpoint, taken, layout="onnx-asr")
    assert note.read_text() == "mine" and len(list(tmp_path.iterdir())) == 2


def test_a_file_that_differs_is_not_kept(pair: Pair, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    message = refusal(export_onnx, pair.checkpoint, out, bounds=Bounds(tolerance=0.0))
    assert "nothing was written" in message and "differ" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_file(pair: Pair, tmp_path: Path, share: float) -> None:
    data = pair.path.read_bytes()
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(data[: int(share * len(data))])
    assert "damaged.onnx" in refusal(load_any, damaged, None)


def test_files_of_others(tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(b"PK\x03\x04 nothing of the kind")
    assert "not an ONNX file" in refusal(load_onnx, path)
    some = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n",))
    same = helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n",))
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "g", [some], [same])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    assert "was not exported by speechprune" in refusal(load_onnx, path)
    assert "missing" in refusal(load_onnx, tmp_path / "nowhere.onnx")
    assert "leave out --task" in refusal(load_any, path, "es")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("symbols", ["a"]),
        ("symbols", ["a", "b", "c", "d", "e"]),
        ("sample_rate", -1),
        ("sample_rate", True),
        ("density", "much"),
        ("layout", "sherpa-onnx"),
        ("layout", "other"),
        ("form", 2),
        ("costs", {}),
        ("costs", {"convolutions": [[1, 0, 1]], "fixed": 0, "of_frame": 0, "of_pair": 0}),
    ],
)
def test_what_a_file_says_of_itself_is_checked(
    pair: Pair, tmp_path: Path, field: str, value: object
) -> None:
    model = onnx.load(pair.path)
    (told,) = model.metadata_props
    assert told.key == KEY
    told.value = json.dumps({**json.loads(told.value), field: value})
    path = tmp_path / "changed.onnx"
    onnx.save(model, path)
    assert "damaged" in refusal(load_onnx, path)


def test_scores_of_another_shape(pair: Pair, tmp_path: Path) -> None:
    """The file runs, and gives a frame more than it says."""
    model = onnx.load(pair.path)
    (told,) = model.metadata_props
    described = json.loads(told.value)
    described["costs"]["convolutions"][0][0] += 330
    told.value = json.dumps(described)
    path = tmp_path / "changed.onnx"
    onnx.save(model, path)
    session = load_onnx(path).model.session
    message = refusal(session.run, np.zeros((1, 16000), np.float32), np.array([16000]))
    assert "scores of shape" in message
