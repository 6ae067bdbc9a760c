"""Banks that are damaged, or that say what is not so: one line, and never other masks."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
from backports import zstd
from banks import (
    HEAD_KEY,
    base,
    equal,
    flipped,
    own,
    random_masks,
    say,
    task,
    write_bank,
)
from checkpoints import refusal
from safetensors.numpy import load_file, save_file

from benchmarks.mutations import mutated_bytes, mutations
from speechprune.bank.bank import Bank
from speechprune.bank.coding import encode
from speechprune.bank.header import FORMAT, masks_at, metadata_of
from speechprune.bank.stored import StoredTensors
from speechprune.checksums import checksum
from speechprune.errors import UserError

FIRST = random_masks(0.3, 1)
TASKS = {"es": FIRST, "it": flipped(FIRST, 0.02, 2)}
FC1 = "encoder.layers.0.fc1.weight"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "bank.safetensors"
    write_bank(path, *(task(name, masks, seed=7) for name, masks in TASKS.items()))
    assert Bank(path).beside("it") == "es"
    return path


def read_all(path: Path) -> Bank:
    bank = Bank(path)
    bank.check_base()
    for name in bank.names:
        bank.task(name)
        bank.sizes(name)
    return bank


def is_whole(bank: Bank) -> bool:
    """Whether all that a bank holds is what was written."""
    return equal(base(), dict(bank.base)) and all(
        bank.masks(name) == TASKS[name] and equal(own(7), dict(bank.own(name)))
        for name in bank.names
    )


def test_whatever_byte_is_wrong_nothing_else_is_read(path: Path) -> None:
    whole, refused = path.read_bytes(), 0
    for content in mutated_bytes(whole, 400, seed=0):
        path.write_bytes(content)
        try:
            assert is_whole(read_all(path))
        except UserError as error:
            assert "\n" not in str(error) and str(path) in str(error)
            refused += 1
    assert refused > 380


def test_damage_is_found_where_it_is(path: Path) -> None:
    """What others need can still be read."""
    tensors = load_file(path)
    metadata = dict(StoredTensors(path).metadata)
    for damaged in ("base/" + FC1, f"tasks/es/own/{HEAD_KEY}", masks_at("it")):
        changed = {name: array.copy() for name, array in tensors.items()}
        changed[damaged].reshape(-1).view(np.uint8)[5] ^= 1
        save_file(changed, path, metadata)
        bank = Bank(path)
        if damaged.startswith("base/"):
            assert "damaged in its shared weights" in refusal(bank.check_base)
            assert bank.masks("it") == TASKS["it"]
        elif "/es/" in damaged:
            for look in (bank.own, bank.masks, bank.task):
                assert "the task 'es' is damaged" in refusal(look, "es")
            # Its masks are told by those of the other.
            assert "'es' is damaged" in refusal(bank.masks, "it")
            bank.check_base()
        else:
            assert bank.masks("es") == TASKS["es"]
            assert "the task 'it' is damaged" in refusal(bank.masks, "it")


def test_whatever_a_header_says_it_is_borne_out_or_refused(path: Path, tmp_path: Path) -> None:
    """With a checksum that fits: whoever wrote it knows how."""
    whole, tensors = dict(StoredTensors(path).metadata), load_file(path)
    header = json.loads(whole[FORMAT])
    header.pop("sha256")
    marker, refused = tmp_path / "executed", 0
    for mutation in mutations(header, 400, 0, marker):
        told = f"{'.'.join(map(str, mutation.place))}: {mutation.change}"
        try:
            save_file(tensors, path, metadata_of(mutation.value))
        except (TypeError, AttributeError):
            continue  # nothing that JSON can say
        try:
            bank = read_all(path)
            assert is_whole(bank), told
        except UserError as error:
            assert "\n" not in str(error) and str(path) in str(error), told
            refused += 1
        except Exception as error:
            raise AssertionError(told) from error
        assert not marker.exists()
    assert refused > 150


def entry(header: dict[str, Any], name: str = "it") -> dict[str, Any]:
    found: dict[str, Any] = header["tasks"][name]
    return found


def masks_of(header: dict[str, Any], name: str = "it") -> dict[str, Any]:
    found: dict[str, Any] = entry(header, name)["masks"]
    return found


LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "cycle": lambda h: masks_of(h, "es").update(beside="it"),
    "itself": lambda h: masks_of(h).update(beside="it"),
    "unknown": lambda h: masks_of(h).update(beside="fr"),
    "beside": lambda h: masks_of(h).update(beside=["es"]),
    "nobody": lambda h: masks_of(h).update(beside=None),
    "lie": lambda h: masks_of(h).update(beside={}),
    "transposed": lambda h: masks_of(h)["shapes"].update({FC1: [50, 60]}),
    "gigantic": lambda h: masks_of(h)["shapes"].update({FC1: [1 << 40, 1 << 20]}),
    "negative": lambda h: masks_of(h)["shapes"].update({FC1: [-60, -50]}),
    "half": lambda h: masks_of(h)["shapes"].update({FC1: [60.0, 50.0]}),
    "strange": lambda h: masks_of(h)["shapes"].update({"encoder.other": [1]}),
    "shapeless": lambda h: masks_of(h).update(shapes={}),
    "fewer": lambda h: masks_of(h)["shapes"].pop(FC1),
    "both": lambda h: [masks_of(h, n)["shapes"].pop(FC1) for n in TASKS],
    "stream": lambda h: masks_of(h).update(streams=[[-5, False]]),
    "longer": lambda h: masks_of(h)["streams"][0].__setitem__(0, 1 << 50),
    "streams": lambda h: masks_of(h)["streams"].append([0, True]),
    "provenance": lambda h: masks_of(h).update(provenance={"a": 1}),
    "precision": lambda h: entry(h).update(precision="int8"),
    "about": lambda h: entry(h).update(about=[]),
    "sha": lambda h: entry(h).update(sha256="0" * 64),
    "no task": lambda h: h["tasks"].pop("it"),
    "one more": lambda h: h["tasks"].update(fr=entry(h)),
    "slash": lambda h: h["tasks"].update({"a/b": h["tasks"].pop("it")}),
    "auto": lambda h: h["tasks"].update(auto=h["tasks"].pop("it")),
    "tasks": lambda h: h.update(tasks=[]),
    "base": lambda h: h.update(base={}),
    "no settings": lambda h: h["base"]["settings"].pop("model"),
    "settings": lambda h: h["base"]["settings"].update(task=[]),
    "deep": lambda h: entry(h).update(about=_nested(300)),
}


def _nested(depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(depth):
        found = {"a": found}
    return found


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_found(path: Path, lie: str) -> None:
    say(path, LIES[lie])
    start = time.monotonic()
    message = refusal(read_all, path)
    assert str(path) in message and len(message) < 500
    assert time.monotonic() - start < 2


def test_json_deeper_than_any_reader_goes_is_refused(path: Path) -> None:
    for text in ("[" * 100_000, '{"version":1,"sha256":"","a":' + "[" * 900 + "]" * 900 + "}"):
        save_file(load_file(path), path, {FORMAT: text})
        assert "damaged bank" in refusal(Bank, path)


def forge(path: Path, name: str, array: np.ndarray | None) -> None:
    """Put another tensor into a bank, or take one out, with checksums that fit."""
    tensors = {key: found.copy() for key, found in load_file(path).items()}
    tensors.pop(name, None)
    if array is not None:
        tensors[name] = array

    def change(header: dict[str, Any]) -> None:
        header["base"]["sha256"] = checksum({}, below("base/", tensors))
        said, masks = entry(header), tensors.get(masks_at("it"), np.zeros(1))
        own = below("tasks/it/own/", tensors)
        said["sha256"] = checksum({}, {"masks": masks, **own})
        if name == masks_at("it"):
            said["masks"].update(streams=[[len(masks), False]], beside=None)

    say(path, change, tensors)


def below(start: str, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name[len(start) :]: a for name, a in tensors.items() if name.startswith(start)}


ENTRIES = 60 * 50 + 50 * 61 + 6  # the second mask fills no byte
HEAD = f"tasks/it/own/{HEAD_KEY}"
BOMB = np.frombuffer(b"\0" + zstd.compress(bytes(10**9)), np.uint8)
#: Of more entries than the sites have, and of bits beyond the end of one.
OTHER = np.frombuffer(encode(np.zeros(5, np.uint8), 40), np.uint8)
BEYOND = np.frombuffer(encode(np.full(ENTRIES // 8, 255, np.uint8), ENTRIES), np.uint8)


@pytest.mark.parametrize(
    ("name", "array", "what"),
    [
        (f"base/{FC1}", np.full((60, 50), np.nan, np.float32), "not finite"),
        (HEAD, np.array([np.inf], np.float16), "not finite"),
        (f"base/{FC1}", np.zeros((60, 50), np.uint8), "another type"),
        (HEAD, np.arange(5), "another type"),
        (HEAD, np.empty((0, 5), np.float32), "is empty"),
        (f"base/{FC1}", np.zeros((50, 60), np.float32), "has the shape"),
        (f"base/{FC1}", None, "of which there is no tensor"),
        (masks_at("it"), np.zeros(9, np.float32), "no masks"),
        (masks_at("it"), None, "no masks"),
        ("other/tensor", np.zeros(9, np.float32), "belongs to nothing"),
        ("tasks/fr/own/a", np.zeros(9, np.float32), "belongs to nothing"),
        (masks_at("it"), BOMB, "another number of bytes"),
        (masks_at("it"), OTHER, "another number of bytes"),
        (masks_at("it"), BEYOND, "beyond the end"),
    ],
)
def test_tensors_that_do_not_belong_are_found(
    path: Path, name: str, array: np.ndarray | None, what: str
) -> None:
    forge(path, name, array)
    before, start = peak(), time.monotonic()
    assert what in refusal(read_all, path)
    assert peak() - before < 200 << 20 and time.monotonic() - start < 2


def peak() -> int:
    """The most bytes that this process ever had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
