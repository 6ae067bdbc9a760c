"""Hostile and damaged banks and checkpoints are used or refused in one line, and run nothing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from banks import say
from checkpoints import refusal
from mask_files import MASKED
from model_banks import Lab
from safetensors.numpy import load_file, save_file

from benchmarks.mutations import mutations
from speechprune.bank.stored import StoredTensors
from speechprune.errors import UserError
from speechprune.models.loading import load_finetuned
from speechprune.rewriting.banking import add, extract


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def state(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "code": lambda h: h["base"]["settings"]["model"].update(conv_feature_layers=CODE),
    "code of a task": lambda h: _about(h)["pretraining"]["model"].update(conv_feature_layers=CODE),
    "a million layers": lambda h: h["base"]["settings"]["model"].update(encoder_layers=10**6),
    "wide": lambda h: h["base"]["settings"]["model"].update(encoder_ffn_embed_dim=1 << 40),
    "no model": lambda h: h["base"]["settings"].pop("model"),
    "no settings": lambda h: _about(h).pop("settings"),
    "symbols": lambda h: _about(h).update(target_dictionary=[["a", -1]]),
    "fewer symbols": lambda h: _about(h)["target_dictionary"].pop(),
    "what is no symbol": lambda h: _about(h).update(target_dictionary=[[["a"], 1]]),
    "another type": lambda h: _about(h).update(saved="int64"),
    "provenance": lambda h: _about(h).update(provenance=[1]),
    "updates": lambda h: _about(h).update(updates="many"),
}
CODE = "[__import__('pathlib').Path('executed').touch(), (512, 10, 5)][1:]"


def _about(header: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = header["tasks"]["es"]["about"]
    return found


@pytest.mark.parametrize("change", HOSTILE)
def test_a_hostile_bank_runs_nothing(
    lab: Lab, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lab.folder)
    add(lab.bank, "es", lab.finetuned("source", MASKED))
    say(lab.bank, HOSTILE[change])
    message = refusal(extract, lab.bank, "es", lab.folder / "out.pt")
    assert str(lab.bank) in message
    assert not (lab.folder / "executed").exists() and not (lab.folder / "out.pt").exists()


def test_damage_of_the_base_is_not_taken_for_another_base(lab: Lab) -> None:
    source = lab.finetuned("source", MASKED)
    add(lab.bank, "es", source)
    tensors, metadata = load_file(lab.bank), dict(StoredTensors(lab.bank).metadata)
    changed = {name: array.copy() for name, array in tensors.items()}
    changed["base/encoder.layers.0.fc1.weight"][3, 3] += 1
    save_file(changed, lab.bank, metadata)
    assert "damaged in its shared weights" in refusal(add, lab.bank, "fr", source)
    assert "damaged in its shared weights" in refusal(
        extract, lab.bank, "es", lab.folder / "out.pt"
    )


def test_whatever_a_bank_says_is_used_or_refused_in_one_line(lab: Lab) -> None:
    """With checksums that fit."""
    add(lab.bank, "es", lab.finetuned("source", MASKED))
    whole, out, marker = lab.bank.read_bytes(), lab.folder / "out.pt", lab.folder / "executed"
    found: dict[str, Any] = {}
    say(lab.bank, lambda header: found.update(copy.deepcopy(header)))
    parts = {"about": found["tasks"]["es"]["about"], "settings": found["base"]["settings"]}
    refused = 0
    for mutation in mutations(parts, 80, 0, marker):
        told = f"{'.'.join(map(str, mutation.place))}: {mutation.change}"
        lab.bank.write_bytes(whole)

        def change(header: dict[str, Any], parts: dict[str, Any] = mutation.value) -> None:
            header["tasks"]["es"]["about"] = parts.get("about")
            header["base"]["settings"] = parts.get("settings")

        try:
            say(lab.bank, change)
        except (TypeError, AttributeError):
            continue  # nothing that JSON can say
        try:
            extract(lab.bank, "es", out)
            load_finetuned(out)
        except UserError as error:
            assert "\n" not in str(error), told
            refused += 1
        except Exception as error:
            raise AssertionError(told) from error
        assert not marker.exists(), told
    assert refused > 15


def test_damaged_checkpoints_are_added_or_refused_in_one_line(lab: Lab) -> None:
    whole = state(lab.finetuned("source", MASKED))
    damaged, marker = lab.folder / "damaged.pt", lab.folder / "executed"
    before, refused = lab.bank.read_bytes(), 0
    for index, mutation in enumerate(mutations(whole, 80, 1, marker)):
        torch.save(mutation.value, damaged)
        told = f"{'.'.join(map(str, mutation.place))}: {mutation.change}"
        try:
            add(lab.bank, f"task{index}", damaged)
            extract(lab.bank, f"task{index}", lab.folder / "out.pt")
        except UserError as error:
            assert "\n" not in str(error), told
            refused += 1
        except Exception as error:
            raise AssertionError(told) from error
        assert not marker.exists(), told
        lab.bank.write_bytes(before)
    assert refused > 30
