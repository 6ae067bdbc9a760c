"""`speechprune masks` on models of text: made, compared, and put on finetuned ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from nano import write_corpus, write_finetuned, write_wav2vec2
from sentences import write_finetuned_roberta, write_roberta, write_sentences
from torch import Tensor

from speechprune.checkpoint import read
from speechprune.masking.mask_set import MaskSet
from speechprune.models.loading import load_finetuned
from speechprune.tools.main import commands

LAYERS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    data = write_sentences(folder / "data")
    pretrained = write_roberta(folder / "pretrained.pt", layers=LAYERS, strength=10.0)
    write_finetuned_roberta(folder / "dense.pt", pretrained, data, "model._name=roberta_pruned")
    write_finetuned_roberta(folder / "routed.pt", pretrained, data, "model.prune_rate=0.6")
    succeed("fold", folder / "dense.pt", folder / "plain.pt")
    return folder


def run(*arguments: object) -> Any:
    return CliRunner().invoke(commands, ["masks", *map(str, arguments)])


def succeed(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def logits(path: Path, masks: MaskSet | None = None) -> Tensor:
    """What a model makes of a text, with its weights multiplied by masks."""
    model = load_finetuned(path).model
    for name, mask in (masks or {}).items():
        model.get_parameter(name).data.mul_(mask)
    symbols = torch.tensor([[0, 4, 7, 5, 9, 2]])
    with torch.inference_mode():
        found, _ = model(
            src_tokens=symbols,
            features_only=True,
            classification_head_name="sentence_classification_head",
        )
    return found


@pytest.mark.parametrize("source", ["dense", "plain"])
@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--by", "global-magnitude"], "roberta_masked"),
        (["--by", "global-random", "--no-biases"], "roberta_st"),
        (["--by", "magnitude", "--no-biases", "--fix-attn"], "roberta_st"),
    ],
)
def test_masks_on_a_finetuned_model_are_a_product(
    folder: Path, tmp_path: Path, source: str, options: list[str], name: str
) -> None:
    made, applied = tmp_path / "made.safetensors", tmp_path / "applied.pt"
    succeed("make", folder / "pretrained.pt", made, "--sparsity", 0.4, *options)
    succeed("apply", folder / f"{source}.pt", made, applied)
    masks, model = MaskSet.load(made), read(applied)["cfg"]["model"]
    assert masks.density == pytest.approx(0.6, abs=2e-3) and model["_name"] == name
    loaded = load_finetuned(applied)
    assert loaded.model.mask_controller.mask_set() == masks
    assert loaded.density == pytest.approx(masks.density)
    assert torch.equal(logits(applied), logits(folder / "dense.pt", masks))
    assert not torch.allclose(logits(applied), logits(folder / "dense.pt"))


def test_masks_of_one_model_take_the_place_of_another_ones(folder: Path, tmp_path: Path) -> None:
    made, applied = tmp_path / "made.safetensors", tmp_path / "applied.pt"
    succeed(
        "make", folder / "dense.pt", made, "--by", "magnitude", "--sparsity", 0.5, "--no-biases"
    )
    succeed("apply", folder / "routed.pt", made, applied)
    assert load_finetuned(applied).model.mask_controller.mask_set() == MaskSet.load(made)
    back = tmp_path / "back.pt"
    succeed("apply", applied, folder / "routed.pt", back)
    assert torch.equal(logits(back), logits(folder / "routed.pt"))


def test_stats_and_overlaps_name_the_sites_of_text(folder: Path, tmp_path: Path) -> None:
    made = tmp_path / "made.safetensors"
    succeed(
        "make", folder / "dense.pt", made, "--by", "magnitude", "--sparsity", 0.5, "--no-biases"
    )
    found = json.loads(succeed("stats", folder / "routed.pt", "--json"))
    assert set(found["layers"]) == {"0", "1"} and len(found["densities"]) == 6 * LAYERS
    exported = tmp_path / "exported.safetensors"
    succeed("export", folder / "routed.pt", exported)
    (pair,) = json.loads(succeed("compare", made, exported, "--json"))["pairs"]
    both, either = 0, 0
    for name, mask in MaskSet.load(made).items():
        other = MaskSet.load(exported)[name]
        both, either = both + int((mask & other).sum()), either + int((mask | other).sum())
    assert pair["iou"] == pytest.approx(both / either)


def test_masks_of_another_model_are_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    speech = write_corpus(tmp_path / "speech", train=1, valid=1)
    ctc = write_finetuned(tmp_path / "ctc.pt", write_wav2vec2(tmp_path / "w2v.pt"), speech)
    write_roberta(tmp_path / "deep.pt", layers=LAYERS + 1)
    made = {}
    for name, path in (
        ("text", folder / "dense.pt"),
        ("speech", ctc),
        ("deep", tmp_path / "deep.pt"),
    ):
        made[name] = tmp_path / f"{name}.safetensors"
        succeed("make", path, made[name], "--by", "magnitude", "--sparsity", 0.5)
    for checkpoint, masks in (
        (ctc, made["text"]),
        (folder / "dense.pt", made["speech"]),
        (folder / "dense.pt", made["deep"]),
    ):
        result = run("apply", checkpoint, masks, tmp_path / "out.pt")
        (line,) = result.stderr.splitlines()
        assert result.exit_code != 0 and "cannot take these masks" in line
        assert not (tmp_path / "out.pt").exists()
    result = run("compare", made["text"], made["speech"])
    assert result.exit_code != 0 and len(result.stderr.splitlines()) == 1
