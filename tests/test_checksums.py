"""A changed byte of a file with a checksum is refused, or changes nothing that the file says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from matrices import some_matrix
from safetensors.numpy import load_file, save_file

from speechprune.checksums import (
    CHECKSUM,
    read_entries,
    read_json,
    verified,
    with_checksum,
    write_entries,
    write_json,
)
from speechprune.errors import UserError
from speechprune.layers.matrix import SimilarityMatrix
from speechprune.layers.plan import LayerPlan, LayerPlans
from speechprune.made_with import SETTINGS, claim
from speechprune.masking.mask_set import MaskSet

#: Some bits, and all that make a digit another one or a letter a capital.
FLIPS = (0x01, 0x02, 0x08, 0x20, 0x80)
ENTRIES: dict[str, dict[str, Any]] = {
    "last": {"checkpoint": "ab" * 8, "wer": 0.25, "removed": 12},
    "best": {"wer": 1 / 3},
}


def masks(path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    sites = {f"layers.{i}.fc1.weight": torch.rand(6, 9, generator=generator) > 0.5 for i in (0, 1)}
    MaskSet(sites, {"backbone": "wav2vec2 ∅", "density": "0.5"}).save(path)


def masks_found(path: Path) -> Any:
    found = MaskSet.load(path)
    return {name: mask.tolist() for name, mask in found.items()}, found.provenance


def matrix_found(path: Path) -> Any:
    found = SimilarityMatrix.load(path)
    return found.values.tolist(), found.measure, found.floor, found.provenance


def plans(path: Path) -> None:
    found = tuple(LayerPlan(6, dropped, 1 / len(dropped) / 3) for dropped in ((1, 2), (0, 3, 5)))
    LayerPlans(found, 6, {"seed": 1, "of": {"text": "ß"}}, ({"wer": 0.1}, {"wer": 0.2})).save(path)


def plans_found(path: Path) -> Any:
    found = LayerPlans.load(path, 6)
    return found.plans, found.provenance


def settings_found(path: Path) -> Any:
    claim(path.parent, {"drop": 3, "measures": ["svcca", "dc"]})  # refused if it says another thing
    return {"drop": 3, "measures": ["svcca", "dc"]}


def report(path: Path) -> None:
    write_json(path, {"wer": 0.1, "by": ["ü", None]})


def report_found(path: Path) -> Any:
    found = read_json(path)
    return found["wer"], found["by"]


KINDS: dict[str, tuple[str, Callable[[Path], Any], Callable[[Path], Any]]] = {
    "masks": ("masks.safetensors", masks, masks_found),
    "matrix": ("dc.safetensors", lambda path: some_matrix().save(path), matrix_found),
    "plans": ("plans.json", plans, plans_found),
    "report": ("report.json", report, report_found),
    "settings": (SETTINGS, settings_found, settings_found),
}


def with_one_byte_changed(whole: bytes) -> Iterator[bytes]:
    for place in range(len(whole)):
        changed = whole[place] ^ FLIPS[place % len(FLIPS)]
        yield whole[:place] + bytes([changed]) + whole[place + 1 :]


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_byte_is_refused_or_changes_nothing(kind: str, tmp_path: Path) -> None:
    name, write, find = KINDS[kind]
    path = tmp_path / name
    write(path)
    whole, expected, refused = path.read_bytes(), find(path), 0
    assert CHECKSUM.encode() in whole
    for changed in with_one_byte_changed(whole):
        path.write_bytes(changed)
        try:
            assert find(path) == expected, changed
        except UserError as error:
            assert str(path.parent) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > len(whole) / 2


def test_what_is_kept_of_a_run_is_whole_or_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "evaluation-valid.json"
    write_entries(path, ENTRIES)
    whole = path.read_bytes()
    assert read_entries(path) == ENTRIES
    for changed in with_one_byte_changed(whole):
        path.write_bytes(changed)
        for which, entry in read_entries(path).items():
            # A name that nobody asks for, or what it was; perhaps with a checksum under another.
            assert ENTRIES.get(which, {}).items() <= entry.items(), changed


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"last": 3}', "[" * 100000])
def test_nothing_is_kept_in_what_is_no_object(text: str, tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_text(text)
    assert read_entries(tmp_path / "facts.json") == {}


def test_what_has_no_checksum_is_read_as_it_was_by_earlier_versions(tmp_path: Path) -> None:
    for name, write, find in KINDS.values():
        path = tmp_path / name
        write(path)
        expected = find(path)
        if name.endswith("json"):
            content = json.loads(path.read_text())
            del content[CHECKSUM]
            path.write_text(json.dumps(content))
        else:
            forget_checksum(path)
        assert CHECKSUM.encode() not in path.read_bytes()
        assert find(path) == expected


def forget_checksum(path: Path) -> None:
    """Write a safetensors file of ours again as earlier versions did."""
    from safetensors import safe_open

    with safe_open(str(path), framework="numpy") as file:
        ((key, text),) = file.metadata().items()
    header = json.loads(text)
    del header[CHECKSUM]
    save_file(load_file(path), path, {key: json.dumps(header)})


def test_equal_content_has_equal_checksums() -> None:
    first = with_checksum({"a": (1, 2.5), "b": {"x": None, "y": "é"}})
    assert first == with_checksum({"b": {"y": "é", "x": None}, "a": [1, 2.5]}) | {"a": (1, 2.5)}
    assert verified(json.loads(json.dumps(first))) == {"a": [1, 2.5], "b": {"x": None, "y": "é"}}
    for other in ({"a": (1, 2.5)}, {**first, "a": [1, 2]}, {**first, "c": 1}, {**first, "b": {}}):
        with pytest.raises(UserError, match="checksum"):
            verified({**other, CHECKSUM: first[CHECKSUM]})


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"a"', "[" * 100000, "\xff", '{"a": 1'])
def test_what_is_no_object_of_json_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=f"{path}.*; restore it"):
        read_json(path, "restore it")
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path / "missing.json")


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.json"
    path.write_text('{"es": ["a"], "es": ["b"]}', encoding="utf-8")
    with pytest.raises(UserError, match="'es' is there twice"):
        read_json(path)
