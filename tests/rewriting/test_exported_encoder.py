"""The encoder of a finetuned checkpoint as a pretrained one, to finetune on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import MASKS, refusal, rewrite
from kinds import FINETUNED, Finetuned, write_pretrained
from nano import write_finetuned
from states import difference

from speechprune import __version__
from speechprune.backbones import find_backbone
from speechprune.checkpoint import digest, read
from speechprune.checkpoint.file import PROVENANCE
from speechprune.checkpoint.pretrained import check_pretrained
from speechprune.models.loading import load_encoder, load_finetuned
from speechprune.rewriting.encoder import export_encoder
from speechprune.rewriting.layer_dropping import drop_layers

ENCODER = "w2v_encoder.w2v_model."


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory: pytest.TempPathFactory) -> Finetuned:
    return Finetuned(tmp_path_factory.mktemp("finetuned"))


def features(encoder: Any) -> torch.Tensor:
    source = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return find_backbone(encoder).features(encoder, source, None)[0]


def masked_weights(path: Path) -> dict[str, torch.Tensor]:
    """What the encoder of a finetuned checkpoint computes with."""
    encoder = load_encoder(path)
    weights = {}
    for name, _ in encoder.named_parameters():
        plain = name.replace("parametrizations.", "").removesuffix(".original")
        if not name.endswith(".scores"):
            owner, _, tensor = plain.rpartition(".")
            weights[plain] = getattr(encoder.get_submodule(owner), tensor)
    return weights


@pytest.mark.parametrize("kind", FINETUNED)
def test_the_encoder_is_a_pretrained_model(finetuned: Finetuned, tmp_path: Path, kind: str) -> None:
    path, out = finetuned(kind), tmp_path / "encoder.pt"
    export_encoder(path, out)
    check_pretrained(out, normalize=False)
    assert "task.normalize=false" in refusal(check_pretrained, out, normalize=True)
    assert torch.equal(features(load_encoder(out)), features(load_encoder(path)))
    expected = masked_weights(path)
    assert set(read(out)["model"]) == set(expected)
    assert all(torch.equal(t, expected[name]) for name, t in read(out)["model"].items())


@pytest.mark.parametrize("family", ["base", "xlsr", "data2vec"])
def test_finetuning_goes_on_from_it(finetuned: Finetuned, tmp_path: Path, family: str) -> None:
    """fairseq takes all of its tensors, and neither more nor fewer; no file but it is there."""
    source = write_pretrained(tmp_path / "pretrained.pt", family)
    path = write_finetuned(tmp_path / "masked.pt", source, finetuned.data, model=MASKS)
    source.unlink()
    short, out = tmp_path / "short.pt", tmp_path / "encoder.pt"
    drop_layers(path, [1], short)
    export_encoder(short, out)
    check_pretrained(out, normalize=family != "base")
    expected = read(out)["model"]
    for name, model in (("plain", None), ("masks", {**MASKS, "prune_rate": 0.9})):
        again = write_finetuned(tmp_path / f"{name}.pt", out, finetuned.data, model=model)
        found = read(again)["model"]
        weights = {key: found[ENCODER + key] for key in expected}
        assert difference(weights, expected) == []
        load_finetuned(again)
    zeros = expected["encoder.layers.2.fc1.weight"] == 0
    assert zeros.float().mean() == 0.5


def test_layers_can_be_dropped_from_it(finetuned: Finetuned, tmp_path: Path) -> None:
    """In either order."""
    path = finetuned("parp")
    export_encoder(path, tmp_path / "encoder.pt")
    drop_layers(tmp_path / "encoder.pt", [0], tmp_path / "first.pt")
    drop_layers(path, [0], tmp_path / "short.pt")
    export_encoder(tmp_path / "short.pt", tmp_path / "second.pt")
    first, second = (read(tmp_path / f"{name}.pt") for name in ("first", "second"))
    assert difference(first["model"], second["model"]) == []
    assert difference(first["cfg"], second["cfg"]) == []


def test_half_precision_stays_half(finetuned: Finetuned, tmp_path: Path) -> None:
    path = tmp_path / "half.pt"
    path.write_bytes(finetuned("st").read_bytes())
    weights = read(path)["model"]
    half = {k: v.half() for k, v in weights.items() if v.is_floating_point()}
    rewrite(path, lambda state: state["model"].update(half))
    export_encoder(path, tmp_path / "encoder.pt")
    exported = read(tmp_path / "encoder.pt")["model"]
    assert {tensor.dtype for tensor in exported.values()} == {torch.float16}


def test_a_plain_model_needs_no_dictionary(finetuned: Finetuned, tmp_path: Path) -> None:
    """Those that were published in 2020 hold none."""
    path, out = tmp_path / "plain.pt", tmp_path / "encoder.pt"
    path.write_bytes(finetuned("plain_2020").read_bytes())

    def forget(state: dict[str, Any]) -> None:
        state["task_state"].clear()
        state["args"].data = "/folder/that/is/gone"

    rewrite(path, forget)
    assert "dictionary" in refusal(load_finetuned, path)
    export_encoder(path, out)
    assert torch.equal(features(load_encoder(out)), features(load_encoder(finetuned("plain"))))


def test_it_says_where_it_came_from_and_holds_no_paths(
    finetuned: Finetuned, tmp_path: Path
) -> None:
    path, out = finetuned("folded"), tmp_path / "encoder.pt"
    export_encoder(path, out)
    state, before = read(out), read(path)[PROVENANCE]
    noted = state[PROVENANCE]
    assert (noted["encoder_of"], noted["version"]) == (digest(path), __version__)
    assert noted["folded_from"] == before["folded_from"]
    assert "target_dictionary" in before and "target_dictionary" not in noted
    assert not any("/" in text for text in texts({**state, "model": None}))


def texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in texts(item)]
    if isinstance(value, (list, tuple)):
        return [text for item in value for text in texts(item)]
    return [value] if isinstance(value, str) else []


def test_what_is_no_finetuned_model_is_refused(finetuned: Finetuned, tmp_path: Path) -> None:
    out = tmp_path / "encoder.pt"
    assert "not a finetuned model" in refusal(export_encoder, finetuned.pretrained, out)
    assert "does not exist" in refusal(export_encoder, tmp_path / "missing.pt", out)
    path = tmp_path / "finetuned.pt"
    path.write_bytes(finetuned("st").read_bytes())
    before = path.read_bytes()
    assert "would be overwritten" in refusal(export_encoder, path, path)
    assert path.read_bytes() == before
    rewrite(path, lambda state: state["cfg"]["model"].update(w2v_args=None))
    assert "w2v_args" in refusal(export_encoder, path, out)
    assert [file.name for file in tmp_path.iterdir()] == ["finetuned.pt"]
