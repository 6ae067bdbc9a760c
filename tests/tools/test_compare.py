"""`speechprune compare`: medians over seeds, measured sparsity, kept evaluations, fair warnings."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from loop import Lab
from nano import write_corpus
from torch import Tensor

from speechprune.checkpoint import read
from speechprune.decoding import inference
from speechprune.decoding.inference import evaluate
from speechprune.manifests.manifest import read_split
from speechprune.models.loading import load_finetuned
from speechprune.rewriting.baseline_masks import Ranking
from speechprune.rewriting.folding import fold
from speechprune.tools.main import commands

PARP = ("model._name=wav2vec_ctc_parp", "model.fix_attn=false")
KINDS = {
    "dense-1": ("model._name=wav2vec_ctc",),
    "dense-2": ("model._name=wav2vec_ctc", "common.seed=2"),
    "parp-1": (*PARP, "model.sparsity=0.5"),
    "parp-2": (*PARP, "model.sparsity=0.5", "common.seed=2"),
    "parp-p": (*PARP, "model.sparsity=0.7", "model.start_sparsity=0.2", "model.prune_every=1"),
    "gradual": (*PARP, "model.policy=gradual_magnitude", "model.prune_every=1"),
    "router": ("model.prune_rate=0.3", "model.fix_attn=false"),
}


class Runs(Lab):
    """Finished runs, trained when they are first asked for."""

    def __getitem__(self, name: str) -> Path:
        if not (self.folder / name).exists():
            self.train(name, *self.overrides(name)).succeeded()
        return self.folder / name

    def overrides(self, name: str) -> tuple[str, ...]:
        if name != "masked":
            return KINDS[name]
        mask = self.folder / "mask.safetensors"
        Ranking(self.wav2vec2, "global-magnitude").masks(0.4).save(mask)
        return ("model._name=wav2vec_ctc_masked", "model.fix_attn=false", f"model.mask_file={mask}")

    def copy(self, name: str, folder: Path, **summary: Any) -> Path:
        """A run that a test may change, with a summary if there is anything to say in it."""
        target = folder / name
        shutil.copytree(self[name], target, ignore=shutil.ignore_patterns("evaluation-*"))
        if summary:
            whole = {
                **{"recipe": "omp", "label": "OMP", "sparsity": 0.5, "updates": 2},
                **{"final_updates": 2, "seed": 1, "freeze_finetune_updates": 0, **summary},
            }
            (target / "summary.json").write_text(json.dumps(whole))
        return target


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("compare"))


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The checkpoints that are evaluated."""
    found: list[Path] = []

    def noted(loaded: Any, *args: Any) -> Any:
        found.append(loaded.path)
        return evaluate(loaded, *args)

    monkeypatch.setattr(inference, "evaluate", noted)
    return found


def run(*arguments: object) -> Result:
    return CliRunner().invoke(commands, ["compare", *map(str, arguments), "--subset", "valid"])


def report(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def count_removed(weights: dict[str, Tensor]) -> tuple[int, int]:
    """Removed and all entries that have a mask, counted here from the bits of a state dict."""
    removed = entries = 0
    for key, bits in weights.items():
        if key.endswith("_mask"):
            count = weights[key[: -len("_mask")]].numel()
            kept = np.unpackbits(bits.numpy(), count=count, bitorder="little").sum()
            removed, entries = removed + count - int(kept), entries + count
    return removed, entries


def test_rows_are_medians_over_seeds_of_what_evaluation_finds(runs: Runs) -> None:
    names = ("parp-2", "parp-1", "dense-1", "dense-2")
    found = report(*(runs[name] for name in names))
    split = read_split(runs.data, "valid")
    expected: dict[str, Any] = {}
    for name in names:
        path = runs[name] / "checkpoints" / "checkpoint_last.pt"
        removed, entries = count_removed(read(path)["model"])
        expected[name] = (evaluate(load_finetuned(path), split), removed, entries)
    assert [(row["label"], row["seeds"]) for row in found["rows"]] == [
        ("dense control", [1, 2]),
        ("PARP", [1, 2]),
    ]
    for row, pair in zip(found["rows"], (("dense-1", "dense-2"), ("parp-1", "parp-2"))):
        (first, removed, entries), (second, _, _) = (expected[name] for name in pair)
        for rate, counts in (("wer", "words"), ("cer", "characters")):
            values = [getattr(evaluation, counts).rate for evaluation in (first, second)]
            assert row[rate] == pytest.approx(median(values))
            ends = row[f"{rate}_least"], row[f"{rate}_most"]
            assert ends == (pytest.approx(min(values)), pytest.approx(max(values)))
        assert row["parameters_kept"] == first.parameters - removed
        assert row["sparsity"] == pytest.approx(removed / entries if entries else 0, abs=5e-4)
    dense, parp = found["rows"]
    assert dense["cer_least"] < dense["cer"] < dense["cer_most"] and parp["sparsity"] == 0.5
    assert found["warnings"] == []


def test_the_table_shows_what_json_says_and_a_figure_is_drawn(runs: Runs, tmp_path: Path) -> None:
    folders = [runs[name] for name in ("parp-1", "dense-1", "dense-2", "router")]
    figure = tmp_path / "compare.svg"
    result = run(*folders, "--figure", figure)
    assert result.exit_code == 0, result.output
    header, dense, parp, router = result.stdout.splitlines()
    assert header.split()[:3] == ["method", "seeds", "sparsity"]
    rows = report(*folders)["rows"]
    assert dense.startswith("dense control") and parp.split()[:3] == ["PARP", "1", "50.0"]
    assert router.split()[:3] == ["S3-Router", "1", "69.9"]  # rounded up in small tensors
    first = rows[0]
    middle, least, most = (f"{100 * first[f'wer{end}']:.1f}" for end in ("", "_least", "_most"))
    assert "WER % (least to most)" in header and f"{middle} ({least} to {most})" in dense
    assert " to " not in parp and f"{rows[1]['parameters_kept']:,}" in parp
    words = " ".join(re.findall("<!-- (.*?) -->", figure.read_text(), re.DOTALL)).split()
    assert "median, least and most of seeds 1, 2; 2 updates in all, not every seed" in " ".join(
        words
    )
    assert "warning: seeds differ: 1, 2 (dense control); 1 (PARP at 50.0 %" in result.stderr


def test_without_a_summary_a_checkpoint_tells_its_method(runs: Runs) -> None:
    names = ("masked", "parp-p", "gradual", "router", "parp-1")
    found = report(*(runs[name] for name in names))
    assert [row["label"] for row in found["rows"]] == [
        "fixed mask",
        "PARP-P",
        "gradual_magnitude",
        "S3-Router",
        "PARP",
    ]
    assert [row["sparsity"] for row in found["rows"]] == [0.4, 0.7, 0.5, 0.699, 0.5]
    assert all(row["updates"] == row["final_updates"] == [2] for row in found["rows"])
    assert found["warnings"] == ["no dense control among the runs (model._name=wav2vec_ctc)"]


def test_a_summary_tells_of_all_rounds(runs: Runs, tmp_path: Path) -> None:
    first = runs.copy("parp-1", tmp_path, updates=6000, seed=7)
    second = runs.copy("parp-2", tmp_path, updates=6000, seed=8)
    other = runs.copy("parp-p", tmp_path, label="IMP", sparsity=0.7, seed=7)
    rows = report(first, other, second)["rows"]
    assert [(row["label"], row["seeds"], row["updates"]) for row in rows] == [
        ("OMP", [7, 8], [6000]),
        ("IMP", [7], [2]),
    ]
    assert rows[0]["final_updates"] == [2]


def test_an_evaluation_is_kept_until_something_changes(
    runs: Runs, tmp_path: Path, evaluated: list[Path]
) -> None:
    folder = runs.copy("dense-1", tmp_path)
    data = tmp_path / "data"
    shutil.copytree(runs.data, data)
    line = [folder, "--data", data]
    found = report(*line)
    assert len(evaluated) == 1
    assert report(*line) == found and len(evaluated) == 1
    kept = folder / "evaluation-valid.json"
    assert list(json.loads(kept.read_text())) == ["last"]
    # The best checkpoint has an entry of its own.
    for _ in range(2):
        report(*line, "--checkpoint", "best")
    assert [path.stem for path in evaluated] == ["checkpoint_last", "checkpoint_best"]
    assert report(*line) == found and len(evaluated) == 2
    # Another text, another checkpoint, a damaged file.
    labels = (data / "valid.ltr").read_text().splitlines()
    (data / "valid.ltr").write_text("\n".join([labels[0] + " A |", *labels[1:]]) + "\n")
    assert report(*line)["rows"] != found["rows"] and len(evaluated) == 3
    last = folder / "checkpoints" / "checkpoint_last.pt"
    shutil.copy(runs["dense-2"] / "checkpoints" / "checkpoint_last.pt", last)
    report(*line)
    assert len(evaluated) == 4
    for damage in ("{", "[]", '{"last": 3}', '{"last": {"checkpoint": "x"}}'):
        kept.write_text(damage)
        report(*line)
    assert len(evaluated) == 8


def test_a_result_that_cannot_be_kept_is_shown(runs: Runs, tmp_path: Path) -> None:
    folder = runs.copy("dense-1", tmp_path)
    (folder / "evaluation-valid.json").mkdir()
    found = report(folder)
    assert found["rows"] == report(runs["dense-1"])["rows"]
    assert "evaluation-valid.json is a folder" in found["warnings"][0]
    assert len(found["warnings"]) == 1


def test_what_makes_a_comparison_unfair_is_told(runs: Runs, tmp_path: Path) -> None:
    data = write_corpus(tmp_path / "data", train=5, valid=4)
    own = ("model._name=wav2vec_ctc", f"task.data={data}")
    alone = Runs(tmp_path)
    alone.train("elsewhere", *own).succeeded()
    frozen = runs.copy("parp-1", tmp_path, freeze_finetune_updates=9, sparsity=0.6)
    longer = runs.copy("parp-2", tmp_path, label="longer", final_updates=4)
    warnings = report(tmp_path / "elsewhere", runs["dense-1"], frozen, longer)["warnings"]
    expected = (
        "model.freeze_finetune_updates differs: 0 (dense control, longer); 9 (OMP)",
        "the final trainings differ in updates: 2 (dense control, OMP); 4 (longer)",
        f"training data differ: train of {data} (dense control); train of {runs.data} (dense",
        f"valid is not the same data for all: {data} (dense control); {runs.data} (dense",
        "dense control: runs with equal seeds are not independent samples",
        f"{frozen / 'checkpoints' / 'checkpoint_last.pt'} has 50.0 % sparsity, but the run was",
    )
    assert len(warnings) == len(expected)
    for line, start in zip(warnings, expected):
        assert line.startswith(start)
    shared = report(tmp_path / "elsewhere", runs["dense-2"], "--data", runs.data)["warnings"]
    assert len(shared) == 1 and shared[0].startswith("training data differ")


@pytest.fixture(scope="module")
def bad(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What bad command lines name."""
    folder = tmp_path_factory.mktemp("bad")
    named = {"good": runs["dense-1"], "missing": folder / "missing", "empty": folder / "empty"}
    named["empty"].mkdir()
    for name in ("cut", "pretrained", "folded", "unsummed", "half"):
        (folder / name).mkdir()
        named[name] = runs.copy("parp-1", folder / name)
    checkpoints = {n: p / "checkpoints" / "checkpoint_last.pt" for n, p in named.items()}
    checkpoints["cut"].write_bytes(checkpoints["cut"].read_bytes()[:-3000])
    shutil.copy(runs.wav2vec2, checkpoints["pretrained"])
    fold(checkpoints["half"], checkpoints["folded"])
    (named["unsummed"] / "summary.json").write_text("{")
    (named["half"] / "summary.json").write_text('{"label": "OMP"}')
    named["file"] = checkpoints["good"]
    named["nowhere"] = folder / "no" / "figure.png"
    return named


@pytest.mark.parametrize(
    "line, reason",
    [
        ("", "RUN"),
        ("good missing", "missing does not exist; name the folders of training runs"),
        ("empty", "no finished training run is among these: "),
        ("file pretrained", "checkpoint_last.pt is not a finetuned CTC model)"),
        ("good good", "is given twice"),
        ("good cut", "truncated"),
        ("good folded", "is folded"),
        ("good unsummed", "summary.json is damaged; restore or remove it"),
        ("good half", "no 'sparsity'"),
        ("good --data missing", "valid.tsv cannot be read: No such file"),
        ("good --checkpoint first", "first"),
        ("good --figure nowhere", "No such file"),
    ],
)
def test_bad_input_is_told_in_one_line(bad: dict[str, Path], line: str, reason: str) -> None:
    result = run(*(bad.get(word, word) for word in line.split()))
    assert result.exit_code != 0
    assert result.stderr.startswith("speechprune: error: ") and result.stderr.count("\n") == 1
    assert reason in result.stderr
    assert result.stdout == ""


def test_a_missing_subset_is_told_before_anything_is_evaluated(
    runs: Runs, tmp_path: Path, evaluated: list[Path]
) -> None:
    folder = runs.copy("dense-1", tmp_path)
    result = CliRunner().invoke(commands, ["compare", str(folder)])
    assert result.exit_code == 1 and "test.tsv cannot be read" in result.stderr
    assert "--subset" in result.stderr and result.stderr.count("\n") == 1
    assert evaluated == [] and not list(folder.glob("evaluation-*"))
