"""Damaged files in a run's folder: not used, or refused in one line; never a wrong value."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checkpoints import rewrite
from nano import write_corpus, write_finetuned, write_wav2vec2

from benchmarks.mutations import mutated_bytes, mutations
from speechprune.checksums import CHECKSUM
from speechprune.errors import UserError
from speechprune.reports import runs
from speechprune.reports.runs import RunEvaluation, evaluate_run, kept_evaluations, read_run

SUMMARY = {
    **{"recipe": "omp", "label": "OMP", "sparsity": 0.5, "updates": 2},
    **{"final_updates": 2, "seed": 1, "freeze_finetune_updates": 0},
}
MEASURED = RunEvaluation(
    wer=12.5,
    cer=3.0,
    rate_names={"wer": "WER", "cer": "CER"},
    density=1.0,
    parameters=9000,
    removed=0,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with all of its files."""
    data = write_corpus(tmp_path / "data", train=1, valid=1)
    pretrained = write_wav2vec2(tmp_path / "pretrained.pt")
    path = tmp_path / "run" / "checkpoints" / "checkpoint_last.pt"
    path.parent.mkdir(parents=True)
    write_finetuned(path, pretrained, data)
    rewrite(path, lambda state: state["cfg"].update(dataset={"train_subset": "train"}))
    monkeypatch.setattr(runs, "measure", lambda *_: MEASURED)
    run = path.parent.parent
    (run / "summary.json").write_text(json.dumps(SUMMARY))
    evaluate_run(read_run(run), "valid", "digest")
    return run


@pytest.mark.parametrize("name", ["facts.json", "evaluation-valid.json", "summary.json"])
def test_damaged_files_are_not_used(folder: Path, tmp_path: Path, name: str) -> None:
    path, sound = folder / name, read_run(folder)
    content = path.read_text()
    damaged = [m.value for m in mutations(json.loads(content), 60, 0, tmp_path / "executed")]
    # Once with the checksum of before, once as a tool would write it that knows of none.
    texts = [json.dumps(value, default=str).encode() for value in damaged]
    texts += [json.dumps(_without_checksums(v), default=str).encode() for v in damaged]
    refused = 0
    for text in (*texts, *mutated_bytes(content.encode(), 60, 0), b"[" * 100_000, b"\xff"):
        path.write_bytes(text)
        try:
            run = read_run(folder)
            measured, _ = evaluate_run(run, "valid", "digest")
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
            continue
        assert isinstance(run.seed, int) and isinstance(run.label, str), text
        assert 0 <= (run.sparsity or 0.0) <= 1, text
        assert all(type(v) is type(getattr(MEASURED, k)) for k, v in vars(measured).items()), text
    assert refused if name == "summary.json" else not refused
    path.write_text(content)
    assert read_run(folder) == sound


@pytest.mark.parametrize("content", ["[]", "{", "3", '{"overrides": 1}', '{"overrides": [1]}'])
def test_damaged_overrides_of_an_unfinished_run(folder: Path, content: str) -> None:
    (folder / "overrides.json").write_text(content)
    (folder / "checkpoints" / "checkpoint_last.pt").unlink()
    with pytest.raises(UserError, match="unfinished: 0 of all updates are saved"):
        read_run(folder)


def test_an_evaluation_counts_as_long_as_it_is_whole(folder: Path) -> None:
    path = folder / "evaluation-valid.json"
    kept: dict[str, Any] = _without_checksums(json.loads(path.read_text()))
    kept["last"]["wer"] = 1.25
    path.write_text(json.dumps(kept))
    assert evaluate_run(read_run(folder), "valid", "digest")[0].wer == 1.25
    for wrong in ("1.25", -1.0, float("nan"), True, None):
        path.write_text(json.dumps({"last": {**kept["last"], "wer": wrong}}))
        assert evaluate_run(read_run(folder), "valid", "digest")[0] == MEASURED


def _without_checksums(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _without_checksums(each) for key, each in value.items() if key != CHECKSUM}


@pytest.mark.parametrize("kept", [{"data": 3}, {}])
def test_what_is_no_evaluation_is_not_shown_as_one(folder: Path, kept: object) -> None:
    assert kept_evaluations(folder, "last") == {"valid": (MEASURED, "digest")}
    assert kept_evaluations(folder, "best") == {}
    (folder / "evaluation-valid.json").write_text(json.dumps({"last": kept}))
    assert kept_evaluations(folder, "last") == {"valid": None}


def test_what_another_program_has_kept_does_not_count(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, facts = folder / "evaluation-valid.json", folder / "facts.json"
    mended = replace(MEASURED, wer=11.0)
    monkeypatch.setattr(runs, "measure", lambda *_: mended)
    known = facts.read_text()
    assert evaluate_run(read_run(folder), "valid", "digest")[0] == MEASURED
    monkeypatch.setattr(runs, "program_digest", lambda: "that of other sources")
    assert kept_evaluations(folder, "last") == {"valid": None}
    assert evaluate_run(read_run(folder), "valid", "digest")[0] == mended
    assert kept_evaluations(folder, "last") == {"valid": (mended, "digest")}
    assert facts.read_text() != known
    # Earlier versions told a version in its place.
    kept = _without_checksums(json.loads(path.read_text()))
    del kept["last"]["program"]
    path.write_text(json.dumps({"last": {**kept["last"], "version": "0.1.0", "wer": 1.5}}))
    assert kept_evaluations(folder, "last") == {"valid": None}
    assert evaluate_run(read_run(folder), "valid", "digest")[0] == mended
