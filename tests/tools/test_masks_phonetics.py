"""`speechprune masks phonetics`: what it prints and draws, and one line for bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mask_files import MASKED, Files, run, succeed

from speechprune.masking.mask_set import MaskSet

CODES = ("es", "fr", "it", "ru", "es")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("phonetics"))


def write_masks(path: Path, seed: int, layers: int = 2) -> Path:
    generator = torch.Generator().manual_seed(seed)
    names = [f"encoder.layers.{layer}.fc1.weight" for layer in range(layers)]
    MaskSet({name: torch.rand(16, 12, generator=generator) < 0.7 for name in names}).save(path)
    return path


@pytest.fixture
def masks(tmp_path: Path) -> list[Path]:
    return [write_masks(tmp_path / f"m{n}.safetensors", n) for n in range(len(CODES))]


def test_text_json_and_figures(masks: list[Path], tmp_path: Path) -> None:
    line = (*masks, "--languages", ",".join(CODES))
    pictures = [tmp_path / "pairs.png", tmp_path / "tree.svg"]
    text = succeed("phonetics", *line, "--figure", pictures[0], "--dendrogram", pictures[1])
    report = json.loads(succeed("phonetics", *line, "--json"))
    assert [each["language"] for each in report["languages"]] == ["es", "fr", "it", "ru"]
    assert report["languages"][0]["masks"] == ["m0", "m4"]
    assert report["correlations"]["exact"] and report["correlations"]["orders"] == 24
    assert f"{report['correlations']['all']['pearson']['r']:.3f}" in text
    assert pictures[0].read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in pictures[1].read_bytes()


def test_checkpoints_and_mask_files_count_alike(files: Files, tmp_path: Path) -> None:
    exported = tmp_path / "french.safetensors"
    succeed("export", files.french, exported)
    other = files.finetuned("italian", MASKED, seed=5)
    mixed = json.loads(
        succeed("phonetics", files.spanish, exported, other, "--languages", "spa,fr,it", "--json")
    )
    (overlap,) = json.loads(succeed("compare", files.spanish, files.french, "--json"))["pairs"]
    (pair,) = [p for p in mixed["pairs"] if (p["first"], p["second"]) == ("es", "fr")]
    assert pair["cosine"] == overlap["cosine"]
    assert pair["cosine_by_chance"] == overlap["cosine_by_chance"]
    assert mixed["correlations"] is None


def test_random_orders_have_a_number_and_a_seed(masks: list[Path]) -> None:
    line = (*masks, "--languages", "es,fr,it,ru,tr", "--permutations", "60")
    first, again, other = (
        json.loads(succeed("phonetics", *line, "--seed", seed, "--json"))["correlations"]
        for seed in (1, 1, 2)
    )
    assert (first["orders"], first["exact"]) == (60, False)
    assert first == again and first["all"]["pearson"]["r"] == other["all"]["pearson"]["r"]
    assert "by 60 random orders" in succeed("phonetics", *line)


def test_other_languages_are_read_from_a_file(masks: list[Path], tmp_path: Path) -> None:
    table = tmp_path / "own.tsv"
    table.write_text("language\tphoneme\nde\tp\nde\tb\n", encoding="utf-8")
    line = ("--languages", "de,fr", "--inventories", table, "--json")
    report = json.loads(succeed("phonetics", *masks[:2], *line))
    sizes = {each["language"]: each["phonemes"] for each in report["languages"]}
    assert sizes == {"de": 2, "fr": 34}


def test_processes_agree(masks: list[Path]) -> None:
    code = "import sys; from speechprune.tools.main import commands; commands(sys.argv[1:])"
    words = ["masks", "phonetics", *map(str, masks), "--languages", "es,fr,it,ru,tr"]
    printed = {
        subprocess.run(
            [sys.executable, "-c", code, *words, "--permutations", "50", "--json"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("m0 --languages es", "at least two"),
        ("m0 m1", "--languages"),
        ("m0 m1 --languages es", "--languages names 1 for 2 masks: give one to each"),
        ("m0 m1 --languages es,fr,it", "--languages names 3 for 2 masks"),
        ("m0 m1 --languages es,", "unknown language ''"),
        (
            "m0 m1 --languages es,frr",
            "did you mean 'fr'? (--inventories FILE gives the phonemes of",
        ),
        ("m0 m1 --languages es,fr:5", "'fr' has no inventory '5'"),
        ("m0 missing --languages es,fr", "does not exist"),
        ("m0 text --languages es,fr", "no PyTorch checkpoint"),
        ("m0 deep --languages es,fr", "m0 and deep: masks of another model: one has 2 layer(s)"),
        ("m0 m1 m0 --languages es,fr,es", "m0.safetensors is there twice"),
        ("m0 like1 like2 like3 --languages es,fr,it,ru", "masks of every two of these languages"),
        ("m0 m1 --languages es,fr --inventories missing", "is missing"),
        ("m0 m1 --languages es,fr --inventories empty", "neither the columns"),
        ("m0 m1 --languages es,fr --inventories text", "neither the columns"),
        ("m0 m1 --languages es,fr --inventories m2", "is not UTF-8 text"),
        ("m0 m1 --languages es,fr --figure out.jpg", "out.jpg cannot be drawn"),
        ("m0 m1 --languages es,fr --dendrogram out.jpg", "out.jpg cannot be drawn"),
        ("m0 m1 --languages es,fr --figure undrawn", "No such file"),
        ("m0 m1 --languages es,fr --figure m1", "would be overwritten"),
        ("m0 m1 --languages es,fr --figure a.png --dendrogram a.png", "would be overwritten"),
        ("m0 m1 --languages es,es --figure picture", "one language have no pairs"),
        ("m0 m1 --languages es,fr --permutations 0", "0 is not in the range"),
    ],
)
def test_bad_input_is_told_in_one_line_and_writes_nothing(
    masks: list[Path], tmp_path: Path, line: str, reason: str
) -> None:
    named = {path.stem: path for path in masks}
    named["deep"] = write_masks(tmp_path / "deep.safetensors", 9, layers=3)
    for name in ("like1", "like2", "like3"):
        named[name] = write_masks(tmp_path / f"{name}.safetensors", 0)
    for name, content in (("empty", b""), ("text", b"masks are not text\n")):
        named[name] = tmp_path / name
        named[name].write_bytes(content)
    named["missing"] = tmp_path / "missing"
    named["undrawn"] = tmp_path / "no" / "folder" / "map.png"
    named["picture"] = tmp_path / "picture.png"
    before = sorted(tmp_path.rglob("*"))
    result = run("phonetics", *(named.get(word, word) for word in line.split()))
    assert result.exit_code != 0
    assert result.stderr.startswith("speechprune: error: ") and result.stderr.count("\n") == 1
    assert reason in result.stderr
    assert result.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("a.png").exists()
