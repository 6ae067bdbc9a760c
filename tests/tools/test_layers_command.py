"""`speechprune layers`: what it prints and writes, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from nano import write_corpus, write_finetuned, write_wav2vec2

from speechprune.dropping.similarity import options_of, warnings
from speechprune.layers.matrix import SimilarityMatrix
from speechprune.layers.plan import LayerPlans
from speechprune.models.loading import load_finetuned
from speechprune.tools.main import commands

LAYERS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained and a finetuned model, a corpus, and matrices of the pretrained one."""
    folder = tmp_path_factory.mktemp("layers")
    data = write_corpus(folder / "data", train=8, valid=6)
    pretrained = write_wav2vec2(folder / "pretrained.pt", layers=LAYERS)
    write_finetuned(folder / "finetuned.pt", pretrained, data)
    for suffix in ("tsv", "ltr", "wrd"):
        (data / f"test.{suffix}").write_text((data / f"valid.{suffix}").read_text())
    (data / "empty.tsv").write_text((data / "valid.tsv").read_text().splitlines()[0] + "\n")
    (data / "empty.ltr").write_text("")
    (data / "silent.tsv").write_text((data / "valid.tsv").read_text())
    (data / "silent.ltr").write_text("\n" * 6)
    result = run(
        *("similarity", pretrained, "--data", data, "--subset", "train", "--out", folder / "sim"),
        *("--measure", "svcca", "--measure", "dc", "--measure", "cka", "--batch-size", 4),
    )
    assert result.exit_code == 0, result.output
    return folder


def run(*arguments: object) -> Any:
    return CliRunner().invoke(commands, ["layers", *map(str, arguments)], catch_exceptions=True)


def refused(*arguments: object) -> str:
    """The one line with which a command fails."""
    result = run(*arguments)
    assert result.exit_code not in (0, None) and isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if line.startswith("speechprune: error:")]
    assert len(lines) == 1, result.output
    return lines[0]


def test_similarity_writes_a_matrix_a_figure_and_a_floor(folder: Path) -> None:
    for name in ("svcca", "dc", "cka"):
        matrix = SimilarityMatrix.load(folder / "sim" / f"{name}.safetensors")
        assert matrix.values.shape == (LAYERS + 1, LAYERS + 1) and matrix.measure == name
        assert matrix.floor is not None and 0 <= matrix.floor <= 1
        assert matrix.provenance["utterances"] == 8
        assert matrix.provenance["count"] == 8 and len(matrix.provenance["checkpoint"]) == 64
        assert (folder / "sim" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_similarity_of_a_finetuned_model_is_that_of_its_encoder(
    folder: Path, tmp_path: Path
) -> None:
    """The head was put on the pretrained weights as they were."""
    result = run(
        *("similarity", folder / "finetuned.pt", "--data", folder / "data", "--subset", "train"),
        *("--measure", "cka", "--out", tmp_path),
    )
    assert result.exit_code == 0, result.output
    ours = SimilarityMatrix.load(tmp_path / "cka.safetensors").values
    assert np.array_equal(ours, SimilarityMatrix.load(folder / "sim" / "cka.safetensors").values)


def test_search_prints_rows_that_are_plans(folder: Path, tmp_path: Path) -> None:
    matrix, out = folder / "sim" / "svcca.safetensors", tmp_path / "plans.json"
    result = run("search", matrix, "--drop", 2, "--method", "exact", "--json", "--out", out)
    rows = json.loads(result.stdout)
    assert [sorted(row) for row in rows] == [["drop", "score"]] * 6  # of 4 over 2
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    assert [list(p.dropped) for p in LayerPlans.load(out, LAYERS).plans] == [
        r["drop"] for r in rows
    ]
    for method, count in (("greedy", 1), ("beam", 6), ("exhaustive", 6), ("random", 6)):
        found = json.loads(run("search", matrix, "--drop", 2, "--method", method, "--json").stdout)
        assert len(found) == count
        assert method == "greedy" or found == rows  # all six, in the same order
    np.save(tmp_path / "bare.npy", SimilarityMatrix.load(matrix).values)
    bare = run("search", tmp_path / "bare.npy", "--drop", 2, "--json", "--top", 3)
    assert json.loads(bare.stdout) == rows[:3]


def test_verify_greedy_and_drop(folder: Path, tmp_path: Path) -> None:
    checkpoint, plans = folder / "finetuned.pt", tmp_path / "plans.json"
    run("search", folder / "sim" / "dc.safetensors", "--drop", 2, "--out", plans, "--top", 4)
    where = ("--data", folder / "data", "--subset", "valid", "--json")
    out = tmp_path / "verified.json"
    verified = json.loads(run("verify", checkpoint, plans, *where, "--out", out).stdout)
    rates = [row["cer"] for row in verified["plans"]]
    assert len(rates) == 4 and rates == sorted(rates) and verified["by"] == "cer"
    assert verified["passes"]["front_end"] == 6 and verified["passes"]["front_end_alone"] == 24
    best = LayerPlans.load(out, LAYERS).plans[0].dropped
    assert list(best) == verified["plans"][0]["drop"]
    found = json.loads(run("greedy", checkpoint, "--drop", 2, *where).stdout)
    assert [len(step["drop"]) for step in found["steps"]] == [1, 2]
    assert set(found["steps"][0]["drop"]) <= set(found["plans"][0]["drop"])
    for plan, kept in ((str(out), best), ("0,3", (0, 3))):
        result = run("drop", checkpoint, plan, tmp_path / "small.pt")
        assert "2 of 4 layers" in result.stdout
        loaded = load_finetuned(tmp_path / "small.pt")
        assert loaded.provenance["dropped"] == list(kept)
        assert len(loaded.model.w2v_encoder.w2v_model.encoder.layers) == 2


def test_files_of_plans_tell_what_was_measured(folder: Path, tmp_path: Path) -> None:
    line = [folder / "finetuned.pt", "--data", folder / "data", "--subset", "valid", "--json"]
    for name, words in (("verify", ["1,2"]), ("greedy", ["--drop", 2])):
        out = tmp_path / f"{name}.json"
        result = run(name, line[0], *words, *line[1:], "--out", out)
        assert result.exit_code == 0, result.output
        (row,) = json.loads(out.read_text())["plans"]
        (told,) = json.loads(result.stdout)["plans"]
        assert row == told and {"drop", "cer", "wer", "utterances", "stopped"} <= set(row)
        assert LayerPlans.load(out, LAYERS).plans[0].dropped == tuple(row["drop"])


def test_measures_get_the_settings_that_they_have() -> None:
    rows, distances = {"mode": "T", "threshold": 0.9}, {"mode": "seq", "batch_size": 4}
    assert options_of(["svcca", "cka", "dc"], rows, distances) == {
        "svcca": rows,
        "cka": {"mode": "T"},
        "dc": distances,
    }


def test_advice_on_floors_is_of_the_measure() -> None:
    matrices = {n: SimilarityMatrix(np.eye(3), n, 0.95) for n in ("svcca", "dc", "dc-unbiased")}
    told = dict(zip(matrices, warnings(matrices)))
    assert "mode T, or more utterances, would lower it" in told["svcca"]
    assert "larger batches, or dc-unbiased, would lower it" in told["dc"]


def test_plain_output_tells_of_passes_and_of_the_race(folder: Path) -> None:
    where = ("--data", folder / "data", "--subset", "valid", "--race", "--level", 0.1)
    result = run("verify", folder / "finetuned.pt", "1,2", *where)
    assert "plan by plan: 6 and 12" in result.stdout
    assert "at most 0.1 in each race" in result.stdout and "seed 0" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "{sim}/svcca.safetensors", "--drop", 0], "cannot drop 0 of 4 layers"),
        (["search", "{sim}/svcca.safetensors", "--drop", 4], "cannot drop 4 of 4 layers"),
        (["search", "{here}/gone.npy", "--drop", 1], "no such file of a similarity matrix"),
        (["search", "{here}/finetuned.pt", "--drop", 1], "is not a similarity matrix"),
        (["search", "{bad}/wide.npy", "--drop", 1], "square"),
        (["search", "{bad}/nan.npy", "--drop", 1], "not finite"),
        (
            ["verify", "{ckpt}", "{bad}/other.json", *"--data {data} --subset valid".split()],
            "of 12",
        ),
        (["verify", "{ckpt}", "7", *"--data {data} --subset valid".split()], "drops layer 7"),
        (["verify", "{ckpt}", "1", *"--data {data} --subset test".split()], "--allow-test"),
        (["verify", "{ckpt}", "1", *"--data {data} --subset empty".split()], "lists no recording"),
        (["verify", "{ckpt}", "1", *"--data {data} --subset gone".split()], "is missing"),
        (
            ["verify", "{pre}", "1", *"--data {data} --subset valid".split()],
            "is not a finetuned",
        ),
        (["greedy", "{ckpt}", "--drop", 4, *"--data {data} --subset valid".split()], "1 to 3"),
        (
            ["greedy", "{ckpt}", "--drop", 1, *"--data {data} --subset test".split()],
            "named as test",
        ),
        (["drop", "{ckpt}", "0,1,2,3", "{bad}/out.pt"], "at least one must stay"),
        (["drop", "{ckpt}", "4", "{bad}/out.pt"], "layers 0..3"),
        (["drop", "{ckpt}", "{bad}/other.json", "{bad}/out.pt"], "model of 12 layers, not of 4"),
        (["drop", "{ckpt}", "1", "{ckpt}"], "finetuned.pt would be overwritten"),
        (["drop", "{ckpt}", "{bad}/plan.json", "{bad}/plan.json"], "would be overwritten"),
        (["drop", "{ckpt}", "1", "."], ". is a folder; name a file"),
        (
            ["search", "{sim}/dc.safetensors", *"--drop 1 --out {sim}/dc.safetensors".split()],
            "would be overwritten",
        ),
        (
            ["verify", "{ckpt}", "1", *"--data {data} --subset valid --out {ckpt}".split()],
            "would be overwritten",
        ),
        (
            ["verify", "{ckpt}", "{bad}/plan.json", "--out", "{bad}/plan.json"]
            + "--data {data} --subset valid".split(),
            "would be overwritten",
        ),
        (
            ["greedy", "{ckpt}", *"--drop 1 --data {data} --subset valid --out {ckpt}".split()],
            "would be overwritten",
        ),
        (
            ["verify", "{ckpt}", "1", *"--data {data} --subset silent".split()],
            "no utterance of silent has a text",
        ),
        (
            ["similarity", "{pre}", *"--data {data} --subset empty --out {bad}/sim".split()],
            "lists no recording",
        ),
        (
            ["similarity", "{pre}", *"--data {data} --subset train --measure ccs".split()],
            "unknown similarity measure 'ccs'",
        ),
        (["search", "{sim}/dc.safetensors", "--drop", 1, "--seed", -1], "-1 is not in the range"),
        (["verify", "{ckpt}", "", *"--data {data} --subset valid".split()], "no plan is named"),
        (
            ["verify", "{ckpt}", "1", *"--data {data} --subset valid --race --level 0".split()],
            "level of a race",
        ),
        (
            ["verify", "{ckpt}", "1", *"--data {data} --subset valid --out {bad}/a/b".split()],
            "there is no folder",
        ),
        (
            ["similarity", "{pre}", *"--data {data} --subset train --out {ckpt}/x".split()],
            "is a file",
        ),
        (
            ["similarity", "{pre}", *"--data {data} --subset train --utterances 9".split()],
            "train has 8 utterances, not 9",
        ),
        (
            ["similarity", "{pre}", *"--data {data} --subset train --mode X".split()],
            "is not one of",
        ),
        (
            ["similarity", "{pre}", *"--data {data} --subset train --measure dc".split()],
            "8 utterances are too few",
        ),
    ],
)
def test_bad_input_gets_one_line(
    folder: Path, tmp_path: Path, arguments: list[Any], message: str
) -> None:
    np.save(tmp_path / "wide.npy", np.ones((3, 4)))
    np.save(tmp_path / "nan.npy", np.full((4, 4), np.nan))
    (tmp_path / "other.json").write_text('{"layers": 12, "plans": [{"drop": [1]}]}')
    (tmp_path / "plan.json").write_text('[{"drop": [1]}]')
    places = {
        "here": folder,
        "sim": folder / "sim",
        "bad": tmp_path,
        "data": folder / "data",
        "ckpt": folder / "finetuned.pt",
        "pre": folder / "pretrained.pt",
    }
    before = sorted(tmp_path.iterdir())
    assert message in refused(*(str(a).format(**places) for a in arguments))
    assert sorted(tmp_path.iterdir()) == before
