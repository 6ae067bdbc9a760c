"""`speechprune bank`: what it prints, and banks from training to training."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from banks import task, write_bank
from click.testing import CliRunner, Result
from loop import Lab
from states import masks as masks_in

from speechprune.bank.bank import Bank
from speechprune.bank.coding import entropy
from speechprune.models.mask_reading import read_mask_set
from speechprune.tools.main import commands


def run(*arguments: object) -> Result:
    return CliRunner().invoke(commands, ["bank", *map(str, arguments)])


def succeed(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def fail(*arguments: object) -> str:
    """The one line of a command that fails."""
    result = run(*arguments)
    assert result.exit_code != 0 and not isinstance(result.exception, ValueError)
    assert result.stderr.startswith("speechprune: error: ") and result.stderr.count("\n") == 1
    return result.stderr


class Trained:
    """A bank of two trained tasks, Spanish and, with like masks, Italian."""

    def __init__(self, folder: Path) -> None:
        self.lab = Lab(folder)
        self.bank = folder / "bank.safetensors"
        settings = ("model.prune_rate=0.7", "checkpoint.best_checkpoint_metric=uer")
        self.spanish = self.lab.train("es", *settings, "common.seed=1").succeeded().path()
        self.italian = (
            self.lab.train("it", *settings, "common.seed=1", updates=3).succeeded().path()
        )
        succeed("create", self.lab.wav2vec2, self.bank)
        succeed("add", self.bank, "es", self.spanish)
        succeed("add", self.bank, "it", self.italian, "--data", self.lab.data, "--subset", "valid")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("bank"))


def test_list_counts_every_byte(trained: Trained) -> None:
    found = json.loads(succeed("list", trained.bank, "--json"))
    spanish, italian = found["tasks"]
    bank = Bank(trained.bank)
    for listed, path in ((spanish, trained.spanish), (italian, trained.italian)):
        masks = read_mask_set(path)
        assert listed["density"] == masks.density == pytest.approx(0.7, abs=1e-3)
        bound = sum(entropy(m.double().mean().item(), m.numel()) for m in masks.values())
        assert listed["entropy_bytes"] == round(bound)
        assert (listed["kind"], listed["labels"]) == ("letters", 6)
        head = torch.load(path, weights_only=True)["model"]
        assert listed["head_bytes"] == 4 * sum(
            t.numel() for k, t in head.items() if k.startswith("w2v_encoder.proj.")
        )
        # The embedding of masked spans trains too, but only in place of the shared one.
        assert listed["own_bytes"] in (listed["head_bytes"], listed["head_bytes"] + 4 * 32)
    assert (spanish["told_by"], italian["told_by"]) == (None, "es")
    assert italian["mask_bytes"] < spanish["mask_bytes"]
    base = sum(array.nbytes for array in bank.base.values())
    size = trained.bank.stat().st_size
    assert (found["base_bytes"], found["file_bytes"]) == (base, size)
    separate = 2 * base + spanish["head_bytes"] + italian["head_bytes"]
    assert found["separate_bytes"] == separate
    assert found["saving"] == pytest.approx(1 - size / separate)


def test_list_in_words(trained: Trained) -> None:
    found = json.loads(succeed("list", trained.bank, "--json"))
    lines = succeed("list", trained.bank).splitlines()
    assert lines[0].split()[:3] == ["task", "outputs", "labels"]
    assert re.match(r"es +letters +6 +0\.\d{4} +[\d,]+ +[\d,]+ +[\d,]+ +CER [\d.]+ %$", lines[1])
    assert re.match(r"it +letters +6 .* WER [\d.]+ % +es$", lines[2])
    assert f"saving           {100 * found['saving']:.1f} %" in lines[-1]
    assert "1 - bank / (tasks x model + heads)" in lines[-1]


def test_error_rates_are_those_of_evaluate_or_of_validation(trained: Trained) -> None:
    spanish, italian = json.loads(succeed("list", trained.bank, "--json"))["tasks"]
    validated = torch.load(trained.spanish, weights_only=True)["extra_state"]["val_loss"]
    assert spanish["error_rate"] == {"percent": validated, "name": "CER", "split": "valid"}
    on = ["--data", str(trained.lab.data), "--subset", "valid", "--json"]
    words = ["evaluate", str(trained.italian), *on]
    measured = json.loads(CliRunner().invoke(commands, words).stdout)
    expected = {"percent": 100 * measured["wer"], "name": "WER", "split": "valid"}
    assert italian["error_rate"] == expected


def test_a_given_error_rate_and_removing(trained: Trained, tmp_path: Path) -> None:
    bank = tmp_path / "bank.safetensors"
    bank.write_bytes(trained.bank.read_bytes())
    succeed("add", bank, "fr", trained.spanish, "--error-rate", "12.5")
    task = json.loads(succeed("list", bank, "--json"))["tasks"][-1]
    assert task["error_rate"] == {"percent": 12.5, "name": "WER", "split": None}
    assert task["told_by"] == "es" and task["mask_bytes"] < 300
    assert "2 tasks left" in succeed("remove", bank, "es")
    assert Bank(bank).names == ["it", "fr"]
    assert Bank(bank).masks("it") == read_mask_set(trained.italian)
    for name in ("it", "fr"):
        succeed("remove", bank, name)
    assert "0 tasks" in succeed("list", bank) and json.loads(succeed("list", bank, "--json")) == {
        "tasks": [],
        **{"base_bytes": _base(bank), "file_bytes": bank.stat().st_size, "separate_bytes": 0},
        "task_bytes": bank.stat().st_size - _base(bank),
        **{"saving": None, "formula": "1 - bank / (tasks x model + heads)"},
    }


def _base(bank: Path) -> int:
    return sum(array.nbytes for array in Bank(bank).base.values())


def test_an_extracted_checkpoint_is_finetuned_further_under_its_masks(trained: Trained) -> None:
    out = trained.lab.folder / "extracted.pt"
    succeed("extract", trained.bank, "es", out)
    run = trained.lab.train(
        "further",
        f"checkpoint.finetune_from_model={out}",
        *("model.fix_mask=true", "model.prune_rate=0.7"),
    )
    model, before = run.succeeded().model(), torch.load(trained.spanish, weights_only=True)["model"]
    first, second = masks_in(model), masks_in(before)
    assert first.keys() == second.keys() and all((first[k] == second[k]).all() for k in first)
    assert not torch.equal(model["w2v_encoder.proj.weight"], before["w2v_encoder.proj.weight"])
    # And it goes back into the bank, beside the one that it came from.
    succeed("add", trained.bank, "further", run.path())
    assert Bank(trained.bank).beside("further") == "es"
    succeed("remove", trained.bank, "further")


def test_training_in_half_precision_shares_the_rounded_weights(trained: Trained) -> None:
    run = trained.lab.train("bf16", "common.bf16=true").succeeded()
    succeed("add", trained.bank, "bf16", run.path())
    bank = Bank(trained.bank)
    assert bank.precision("bf16") == "bfloat16"
    own = {key for key in bank.own("bf16") if not key.startswith("w2v_encoder.proj.")}
    assert own <= {"w2v_encoder.w2v_model.mask_emb"}
    out = trained.lab.folder / "bf16.pt"
    succeed("extract", trained.bank, "bf16", out)
    mine, theirs = (torch.load(path, weights_only=True)["model"] for path in (out, run.path()))
    assert all(torch.equal(mine[k], t) for k, t in theirs.items() if not k.endswith("scores"))
    succeed("remove", trained.bank, "bf16")


def test_extracted_checkpoints_are_read_by_other_commands(trained: Trained) -> None:
    out = trained.lab.folder / "read.pt"
    succeed("extract", trained.bank, "it", out)
    on = ["--data", str(trained.lab.data), "--subset", "valid", "--json"]
    reports: list[Any] = []
    for path in (out, trained.italian):
        found = json.loads(CliRunner().invoke(commands, ["evaluate", str(path), *on]).stdout)
        changing = ("checkpoint", "checkpoint_digest", "seconds_of_audio_per_second")
        reports.append({k: v for k, v in found.items() if k not in changing})
    assert reports[0] == reports[1]
    folded = [trained.lab.folder / name / "folded.pt" for name in ("a", "b")]
    for path, source in zip(folded, (out, trained.italian)):
        path.parent.mkdir()
        words = ["masks", "fold", str(source), str(path)]
        assert CliRunner().invoke(commands, words).exit_code == 0
    first, second = (torch.load(path, weights_only=True)["model"] for path in folded)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_bad_input_ends_in_one_line(trained: Trained, tmp_path: Path) -> None:
    bank, before = trained.bank, trained.bank.read_bytes()
    assert "already" in fail("add", bank, "es", trained.spanish)
    assert "did you mean 'es'?" in fail("extract", bank, "ess", tmp_path / "out.pt")
    assert "did you mean 'it'?" in fail("remove", bank, "iit")
    assert "cannot be the name" in fail("add", bank, "a/b", trained.spanish)
    assert "go together" in fail("add", bank, "fr", trained.spanish, "--data", tmp_path)
    both = ("--data", tmp_path, "--subset", "x", "--error-rate", 3)
    assert "not measured" in fail("add", bank, "fr", trained.spanish, *both)
    fail("add", bank, "fr", trained.spanish, "--error-rate", "nan")
    fail("add", bank, "fr", trained.spanish, "--data", tmp_path, "--subset", "none")
    assert "no such bank" in fail("list", tmp_path / "none")
    assert "not a bank" in fail("list", trained.spanish)
    read_mask_set(trained.spanish).save(tmp_path / "masks.safetensors")
    assert "but not a bank" in fail("list", tmp_path / "masks.safetensors")
    assert bank.read_bytes() == before and not (tmp_path / "out.pt").exists()


@pytest.mark.parametrize(
    "about",
    [
        {"kind": 3},
        {"labels": "many"},
        {"labels": [1]},
        {"error_rate": []},
        {"error_rate": {"percent": "1", "name": "WER"}},
        {"error_rate": {"percent": 1, "name": None}},
        {"error_rate": {"percent": 1, "name": "WER", "split": 5}},
    ],
    ids=str,
)
def test_what_a_bank_says_of_a_task_may_be_anything(tmp_path: Path, about: dict[str, Any]) -> None:
    path = tmp_path / "bank.safetensors"
    write_bank(path, task("es"), task("fr", seed=1, **about))
    assert "the task 'fr' is damaged" in fail("list", path)
