"""What `speechprune average` refuses: files without a common mean, and bad command lines."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from averages import WEIGHT, Change, Runs, in_half_precision, names, run_command
from checkpoints import refusal, rewrite
from fairseq.data.dictionary import Dictionary
from torch import Tensor

from speechprune.masking.mask_set import MaskSet
from speechprune.models.mask_reading import read_mask_set
from speechprune.rewriting.averaging import average
from speechprune.rewriting.masks import apply_masks


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("average"))


def set_weight(key: str, change: Callable[[Tensor], Tensor]) -> Change:
    return lambda state: state["model"].update({key: change(state["model"][key])})


@pytest.mark.parametrize(
    "kind, change, reason",
    [
        ("plain", set_weight(WEIGHT, lambda w: w[:, :5]), f"{WEIGHT} is float32 [64, 5] in "),
        ("plain", lambda state: state["model"].pop(WEIGHT), f"{WEIGHT} is in "),
        ("plain", lambda state: state["model"].update(more=torch.ones(1)), "more is in "),
        ("counted", set_weight("steps", lambda n: n + 1), "steps, int64 [], differs between "),
    ],
)
def test_what_has_no_mean_is_refused_by_name(
    runs: Runs, tmp_path: Path, kind: str, change: Change, reason: str
) -> None:
    source = shutil.copy(getattr(runs, kind, runs.plain), tmp_path / "source.pt")
    if kind == "counted":
        rewrite(source, in_half_precision)
    first = runs.save(tmp_path, "checkpoint_1_1.pt", 1, source=source)
    other = runs.save(tmp_path, "checkpoint_1_2.pt", 2, source=source, change=change)
    message = refusal(average, tmp_path, by="last")
    assert reason in message and str(first) in message and str(other) in message
    assert sorted(first.parent.iterdir()) == [first, other]
    # Each by itself has a mean.
    assert names(tmp_path, by="last", num=1) == ["checkpoint_1_2.pt"]


@pytest.mark.parametrize("fixed", [{"fix_mask": True}, {"_name": "wav2vec_ctc_masked"}])
def test_fixed_masks_that_differ_are_refused(
    runs: Runs, tmp_path: Path, fixed: dict[str, Any]
) -> None:
    """No run of ours leaves such a folder."""

    def fix(state: dict[str, Any]) -> None:
        state["cfg"]["model"].update(fixed)

    masks = read_mask_set(runs.masked)
    others = MaskSet({name: mask.flip(0) for name, mask in masks.items()})
    apply_masks(runs.masked, masks, tmp_path / "one.pt")
    apply_masks(runs.masked, others, tmp_path / "other.pt")
    for updates, name in enumerate(("one", "other"), start=1):
        file = f"checkpoint_1_{updates}.pt"
        path = runs.save(tmp_path, file, updates, source=tmp_path / f"{name}.pt", change=fix)
    message = refusal(average, tmp_path, by="last")
    assert f"{path} has fixed masks, but another of the checkpoints has other ones" in message


def test_other_lost_layers_are_refused(runs: Runs, tmp_path: Path) -> None:
    """As deep as each other, and with other layers in the same places."""
    for updates, dropped in ((1, [0]), (2, [1])):

        def tell(state: dict[str, Any], dropped: list[int] = dropped) -> None:
            told = {"layers": 3, "dropped": dropped}
            state["cfg"]["model"].setdefault("w2v_args", {})["dropped_layers"] = told

        runs.save(tmp_path, f"checkpoint_1_{updates}.pt", updates, change=tell)
    assert "have lost different layers: they are not of one run" in refusal(
        average, tmp_path, by="last"
    )


def test_heads_of_other_symbols_are_refused(runs: Runs, tmp_path: Path) -> None:
    """Their rows do not belong together, though their shapes do."""

    def reverse(state: dict[str, Any]) -> None:
        dictionary = Dictionary()
        for symbol in "EDCBA|":
            dictionary.add_symbol(symbol)
        state["task_state"]["target_dictionary"] = dictionary

    first = runs.save(tmp_path, "checkpoint_1_1.pt", 1, change=reverse)
    second = runs.save(tmp_path, "checkpoint_1_2.pt", 2)
    told = f"{second} and {first} have other symbols, or the same in another order"
    assert refusal(average, tmp_path, by="last").startswith(told)


def test_what_is_no_tensor_is_refused(runs: Runs, tmp_path: Path) -> None:
    def add_text(state: dict[str, Any]) -> None:
        state["model"]["note"] = "text"

    path = runs.save(tmp_path, "checkpoint_1_1.pt", 1, change=add_text)
    assert refusal(average, tmp_path, by="last").startswith(f"{path}: note is not a tensor")


def test_what_is_not_finite_is_refused(runs: Runs, tmp_path: Path) -> None:
    spoil = set_weight(WEIGHT, lambda w: w.index_fill(0, torch.tensor([3]), float("nan")))
    runs.save(tmp_path, "checkpoint_1_1.pt", 1)
    path = runs.save(tmp_path, "checkpoint_1_2.pt", 2, change=spoil)
    assert refusal(average, tmp_path, by="last").startswith(f"{path}: {WEIGHT} is not finite")


@pytest.mark.parametrize(
    "metrics, subsets, reason",
    [
        ("wer wer", "valid valid,more", None),
        ("wer loss", "valid valid", "by loss of valid, the smaller the better"),
        ("wer wer", "valid more,valid", "by wer of more, the smaller the better"),
    ],
)
def test_values_of_two_kinds_are_not_compared(
    runs: Runs, tmp_path: Path, metrics: str, subsets: str, reason: str | None
) -> None:
    """fairseq's value is that of the first subset."""
    for updates, (metric, subset) in enumerate(zip(metrics.split(), subsets.split()), start=1):

        def validate_on(state: dict[str, Any], subset: str = subset) -> None:
            state["cfg"]["dataset"] = {"valid_subset": subset}

        name = f"checkpoint_1_{updates}.pt"
        measure = {"change": validate_on, "best_checkpoint_metric": metric}
        runs.save(tmp_path, name, updates, 2.0, **measure)
    if reason is None:
        assert len(names(tmp_path)) == 2
    else:
        message = refusal(average, tmp_path)
        assert "by wer of valid, the smaller the better" in message and reason in message
    assert len(names(tmp_path, by="last")) == 2


@pytest.fixture(scope="module")
def bad(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What bad command lines name."""
    folder = tmp_path_factory.mktemp("bad")
    named = {name: folder / name for name in ("good", "missing", "empty", "quiet", "cut", "alien")}
    (named["empty"] / "checkpoints").mkdir(parents=True)
    named["checkpoint"] = runs.save(named["good"], "checkpoint_1_1.pt", 1, 2.0)
    named["duplicate"] = runs.save(named["good"], "checkpoint_last.pt", 1, 2.0)
    runs.save(named["quiet"], "checkpoint_1_1.pt", 1)
    cut = runs.save(named["cut"], "checkpoint_1_1.pt", 1, 2.0)
    cut.write_bytes(cut.read_bytes()[:-3000])
    runs.save(
        named["alien"], "a.pt", 1, 2.0, change=lambda state: state.update(optimizer_history=[])
    )
    named["nowhere"] = folder / "no" / "such" / "folder.pt"
    return named


@pytest.mark.parametrize(
    "line, reason",
    [
        ("", "RUN"),
        ("missing", "is not the folder of a training run: no "),
        ("checkpoint", "is not the folder of a training run: no "),
        ("empty", "holds no checkpoints to average"),
        ("quiet", "has a validation value of its own: average --by last, or validate at each"),
        ("cut", "truncated"),
        ("alien", "does not tell its number of updates"),
        ("good --num 0", "--num"),
        ("good --by best", "--by"),
        ("good checkpoint", "checkpoint_1_1.pt would be overwritten"),
        ("good duplicate", "checkpoint_last.pt would be overwritten"),
        ("good nowhere", "cannot be written: No such file"),
    ],
)
def test_bad_input_is_told_in_one_line(bad: dict[str, Path], line: str, reason: str) -> None:
    before = {p: p.read_bytes() for p in bad["good"].parent.rglob("*.pt")}
    result = run_command(*(bad.get(word, word) for word in line.split()))
    assert result.exit_code != 0
    assert result.stderr.startswith("speechprune: error: ") and result.stderr.count("\n") == 1
    assert reason in result.stderr
    assert result.stdout == ""
    assert {p: p.read_bytes() for p in bad["good"].parent.rglob("*.pt")} == before


def test_python_callers_are_told_too(bad: dict[str, Path]) -> None:
    assert "num must be at least 1" in refusal(average, bad["good"], num=0)
    assert "one of valid, last" in refusal(average, bad["good"], by="best")


def test_a_full_disk_leaves_the_earlier_average(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.save(tmp_path, "checkpoint_1_1.pt", 1, 2.0)
    out = average(tmp_path).out
    before, files = out.read_bytes(), sorted(out.parent.iterdir())
    runs.save(tmp_path, "checkpoint_1_1.pt", 3, 1.0)

    def fill(state: Any, file: Any) -> None:
        file.write(b"half of a checkpoint")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fill)
        assert "No space left" in refusal(average, tmp_path)
    assert out.read_bytes() == before and sorted(out.parent.iterdir()) == files
    average(tmp_path)
    assert out.read_bytes() != before
