"""The map of claims: methods that train, and data whose minutes and speakers are what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
from nano import write_corpus

from benchmarks.claims.data import Fold, make_fold
from benchmarks.claims.map import Panel
from benchmarks.claims.methods import METHODS
from speechprune.manifests.audio import SAMPLE_RATE
from speechprune.manifests.manifest import Split, Utterance, read_split, write_manifest
from speechprune.training.rehearsal import rehearse


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Twenty utterances of 6 s in each split, by two speakers in turn; no recordings."""
    splits = []
    for name in ("train", "valid", "test"):
        utterances = tuple(
            Utterance(f"{name}/{n:02}.flac", 6 * SAMPLE_RATE, "ONE TWO", ("ann", "bob")[n % 2])
            for n in range(20)
        )
        splits.append(Split(name, tmp_path, utterances))
    folder = tmp_path / "whole"
    folder.mkdir()
    write_manifest(folder, splits, {})
    return folder


def test_a_speaker_is_heard_nowhere_but_in_the_split_of_the_unknown(
    whole: Path, tmp_path: Path
) -> None:
    fold = make_fold(whole, tmp_path / "folds", "bob", 0.5)
    heard = {
        name: {each.speaker for each in read_split(fold.folder, name).utterances}
        for name in ("train", "valid", "trained", "known", "unknown")
    }
    assert heard.pop("unknown") == {"bob"}
    assert all(speakers == {"ann"} for speakers in heard.values())


def test_more_minutes_are_the_same_and_more(whole: Path, tmp_path: Path) -> None:
    few, many = (
        read_split(make_fold(whole, tmp_path / "folds", "ann", minutes).folder, "train")
        for minutes in (0.3, 0.7)
    )
    assert many.utterances[: len(few.utterances)] == few.utterances
    assert 0.3 <= few.seconds / 60 < 0.4 and 0.7 <= many.seconds / 60 < 0.8


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_settings_that_train(name: str, tmp_path: Path) -> None:
    data = write_corpus(tmp_path / "data", train=2, valid=2)
    fold = Fold(data, "nobody")
    method = METHODS[name]
    run = Panel(1, 500, (fold,), tmp_path / "runs", 1).run(method, method.rates[0], 1)
    cfg = rehearse(["--config-name", run.config, *run.all_overrides])
    assert cfg.optimization.max_update == 500 and cfg.optimization.lr == [method.rates[0]]
    assert len(method.rates) == 3
    assert cfg.model.freeze_finetune_updates == (100 if "frozen" in name else 0)
