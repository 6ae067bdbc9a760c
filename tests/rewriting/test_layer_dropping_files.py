"""Layers dropped from checkpoint files: what is noted, what is left behind, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import refusal, rewrite
from kinds import Finetuned, write_pretrained
from nano import write_wav2vec2
from states import difference

from speechprune import __version__
from speechprune.checkpoint import digest, read
from speechprune.checkpoint.file import PROVENANCE
from speechprune.checkpoint.layers import depth
from speechprune.errors import UserError
from speechprune.models.loading import load_finetuned
from speechprune.recipes.nano import ASSET
from speechprune.rewriting.layer_dropping import drop_layers


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory: pytest.TempPathFactory) -> Finetuned:
    return Finetuned(tmp_path_factory.mktemp("finetuned"))


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    return write_wav2vec2(tmp_path / "pretrained.pt", layers=3)


def test_where_it_came_from_is_noted(finetuned: Finetuned, tmp_path: Path) -> None:
    path, out = finetuned("plain"), tmp_path / "short.pt"
    drop_layers(path, {3, 1}, out, {"measure": "cka", "dropped_by": "a plan"})
    assert read(out)[PROVENANCE] == {
        "version": __version__,
        "layers_dropped_from": digest(path),
        "layers": 4,
        "dropped": [1, 3],
        "measure": "cka",
        "dropped_by": "a plan",
    }
    drop_layers(out, [0], tmp_path / "shorter.pt")
    noted = read(tmp_path / "shorter.pt")[PROVENANCE]
    assert noted["layers_dropped_from"] == digest(out)
    # Layers 0 and 2 were left; their numbers are those that they had at first.
    assert (noted["layers"], noted["dropped"]) == (4, [0, 1, 3])
    assert noted["measure"] == "cka"


def test_what_was_noted_before_stays(finetuned: Finetuned, tmp_path: Path) -> None:
    path, out = finetuned("folded"), tmp_path / "short.pt"
    drop_layers(path, [1], out)
    before, after = read(path)[PROVENANCE], read(out)[PROVENANCE]
    assert before["folded_from"] and after["folded_from"] == before["folded_from"]
    (path.parent / "dict.ltr.txt").rename(tmp_path / "dict.ltr.txt")
    try:
        assert len(load_finetuned(out).dictionary) > 4
    finally:
        (tmp_path / "dict.ltr.txt").rename(path.parent / "dict.ltr.txt")


def test_the_optimizer_is_left_behind_and_the_rest_stays(
    finetuned: Finetuned, tmp_path: Path
) -> None:
    path, out = tmp_path / "whole.pt", tmp_path / "short.pt"
    path.write_bytes(finetuned("plain").read_bytes())
    rewrite(path, lambda state: state.update(last_optimizer_state={"state": {0: torch.ones(9)}}))
    drop_layers(path, [1], out)
    before, after = read(path), read(out)
    assert after["last_optimizer_state"] is None
    for key in set(before) - {"model", "cfg", "last_optimizer_state"}:
        assert difference(_plain(before[key]), _plain(after[key]), key) == []
    model = before["cfg"]["model"]
    model["w2v_args"]["model"]["encoder_layers"] = 3
    assert difference(after["cfg"], before["cfg"]) == []


def _plain(value: Any) -> Any:
    """A value that can be compared: a dictionary is its symbols."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return getattr(value, "symbols", value)


def test_averages_of_the_weights_lose_the_layers_too(pretrained: Path, tmp_path: Path) -> None:
    def average(state: dict[str, Any]) -> None:
        averages = {key: {k: v + 1 for k, v in state["model"].items()} for key in names}
        state["extra_state"].update(averages)

    names = ("ema", "ema_fp32_params")
    rewrite(pretrained, average)
    drop_layers(pretrained, [0], tmp_path / "short.pt")
    short = read(tmp_path / "short.pt")
    for name in names:
        expected = {key: value + 1 for key, value in short["model"].items()}
        assert difference(short["extra_state"][name], expected) == []
    assert short["extra_state"]["train_iterator"]["epoch"] == 1


def test_depth_is_counted(pretrained: Path, tmp_path: Path) -> None:
    """Layers are counted by their weights; settings may leave their number out."""
    assert depth(pretrained) == 3
    assert depth(write_pretrained(tmp_path / "data2vec.pt", "data2vec")) == 4
    assert depth(ASSET) == len({k.split(".")[2] for k in read(ASSET)["model"] if ".fc1.w" in k})
    rewrite(pretrained, lambda state: state["cfg"]["model"].pop("encoder_layers"))
    assert depth(pretrained) == 3
    out = tmp_path / "short.pt"
    drop_layers(pretrained, [1], out)
    assert read(out)["cfg"]["model"]["encoder_layers"] == 2


@pytest.mark.parametrize(
    ("dropped", "message"),
    [
        ([], "no layer of .* is to be dropped; name some of 0..2"),
        ([3], "cannot drop layer 3: .* has layers 0..2"),
        ([0, -1], "cannot drop layer -1: .* has layers 0..2"),
        ([0, 1, 2, 1], "cannot drop every layer of .*: at least one must stay"),
    ],
)
def test_impossible_layers_are_refused(pretrained: Path, dropped: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        drop_layers(pretrained, dropped, pretrained.parent / "short.pt")
    assert "\n" not in str(refused.value)
    assert list(pretrained.parent.iterdir()) == [pretrained]


def test_numbered_adapters_are_refused(pretrained: Path) -> None:
    numbered = {"layer_type": "trf_adp", "adp_trf_idx": "0:2"}
    rewrite(pretrained, lambda state: state["cfg"]["model"].update(numbered))
    out = pretrained.with_name("short.pt")
    assert "adp_trf_idx=0:2 numbers the layers" in refusal(drop_layers, pretrained, [0], out)
    rewrite(pretrained, lambda state: state["cfg"]["model"].update(adp_trf_idx="all"))
    drop_layers(pretrained, [0], out)


def test_files_without_known_layers_are_refused(pretrained: Path, finetuned: Finetuned) -> None:
    out = pretrained.parent / "short.pt"
    missing = pretrained.with_name("missing.pt")
    for action in (depth, lambda path: drop_layers(path, [0], out)):
        assert "does not exist" in refusal(action, missing)
    whole = pretrained.read_bytes()
    pretrained.write_bytes(whole[: len(whole) // 2])
    assert "truncated" in refusal(drop_layers, pretrained, [0], out)
    for change in ({"_name": "wavlm"}, {"_name": None}):
        pretrained.write_bytes(whole)
        rewrite(pretrained, lambda state, change=change: state["cfg"]["model"].update(change))
        for action in (depth, lambda path: drop_layers(path, [0], out)):
            message = refusal(action, pretrained)
            assert f"called '{change['_name']}'" in message and "wav2vec2" in message
    pretrained.write_bytes(whole)
    rewrite(pretrained, lambda state: _remove(state["model"], ".layers."))
    assert "no weights of transformer layers" in refusal(drop_layers, pretrained, [0], out)
    rewrite(pretrained, lambda state: state["cfg"].update(model=None))
    assert "called 'None'" in refusal(depth, pretrained)
    pretrained.write_bytes(finetuned("plain").read_bytes())
    rewrite(pretrained, lambda state: state["cfg"]["model"].update(w2v_args=None))
    assert "called 'wav2vec_ctc'" in refusal(drop_layers, pretrained, [0], out)
    assert list(pretrained.parent.iterdir()) == [pretrained]


def test_the_source_is_not_replaced(pretrained: Path) -> None:
    before = pretrained.read_bytes()
    link = pretrained.with_name("link.pt")
    link.symlink_to(pretrained)
    for out in (pretrained, link, pretrained.parent / "." / pretrained.name):
        assert "would be overwritten" in refusal(drop_layers, pretrained, [0], out)
    assert pretrained.read_bytes() == before
    assert link.is_symlink()


def test_what_cannot_be_written_leaves_nothing(pretrained: Path) -> None:
    out = pretrained.parent / "no" / "folder.pt"
    assert "cannot be written" in refusal(drop_layers, pretrained, [0], out)
    assert list(pretrained.parent.iterdir()) == [pretrained]


def _remove(weights: dict[str, Any], part: str) -> None:
    for key in [key for key in weights if part in key]:
        del weights[key]
