"""A bank gives back what was put in, in a file that depends on nothing else."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from banks import (
    HEAD_KEY,
    HEAD_SHAPE,
    HEAD_SITE,
    SETTINGS,
    SHAPES,
    base,
    equal,
    flipped,
    own,
    random_masks,
    task,
    write_bank,
)
from checkpoints import refusal

from speechprune.bank import bank as bank_module
from speechprune.bank.bank import Bank, add_task, create_bank, remove_task
from speechprune.bank.task import Task
from speechprune.masking.mask_set import MaskSet

TESTS = Path(__file__).resolve().parent.parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bank.safetensors"


def test_what_was_put_in_comes_back(path: Path) -> None:
    masks = random_masks(0.3, 1, {**SHAPES, HEAD_SITE: HEAD_SHAPE})
    tasks = [
        task("español", seed=1, kind="letters", outputs=[["|", 1], ["ñ", 2]]),
        Task("2nd-task.v1", masks, own(2), {"rate": 0.5}, "float16"),
    ]
    bank = write_bank(path, *tasks)
    assert bank.names == ["español", "2nd-task.v1"]
    assert equal(base(), dict(bank.base)) and bank.settings["model"] == {"_name": "toy"}
    bank.check_base()
    for each in tasks:
        found = bank.task(each.name)
        assert found.masks == each.masks and found.masks.provenance == each.masks.provenance
        assert equal(each.own, found.own) and equal(each.own, dict(bank.own(each.name)))
        assert found.about == each.about and found.precision == each.precision
        assert bank.sizes(each.name).own == sum(array.nbytes for array in each.own.values())
    total = sum(sum(bank.sizes(name)) for name in bank.names)
    stored = sum(array.nbytes for array in base().values()) + total
    assert stored < path.stat().st_size < stored + 4000


def test_arrays_of_any_layout_are_kept(path: Path) -> None:
    transposed = {**base(), "encoder.layers.0.fc1.weight": np.ones((50, 60), np.float32).T}
    transposed["encoder.layers.0.fc1.weight"][0, 1] = 2
    create_bank(path, transposed, SETTINGS)
    Bank(path).check_base()
    assert Bank(path).base["encoder.layers.0.fc1.weight"][0, 1] == 2


def test_alike_masks_are_told_by_the_nearest(path: Path) -> None:
    spanish, tatar = random_masks(0.3, 1), random_masks(0.3, 2)
    tasks = {
        "es": spanish,
        "tt": tatar,
        "it": flipped(spanish, 0.02, 3),
        "ky": flipped(tatar, 0.02, 4),
        "fr": flipped(spanish, 0.03, 5),
    }
    bank = write_bank(path, *(task(name, masks) for name, masks in tasks.items()))
    told = {name: bank.beside(name) for name in tasks}
    assert told == {"es": None, "tt": None, "it": "es", "ky": "tt", "fr": "es"}
    assert all(bank.masks(name) == masks for name, masks in tasks.items())
    assert bank.sizes("it").masks < 0.4 * bank.sizes("es").masks


def test_masks_may_be_told_by_masks_that_are_told_but_not_for_ever(path: Path) -> None:
    """Seeds of one language are nearest to each other, whatever the first of them is beside."""
    masks = random_masks(0.3, 1)
    tasks = {"t0": masks}
    for number in range(1, 8):
        masks = flipped(masks, 0.02, number)
        tasks[f"t{number}"] = masks
    tasks["again"] = tasks["t3"]
    bank = write_bank(path, *(task(name, found) for name, found in tasks.items()))
    told = {name: bank.beside(name) for name in tasks}
    assert told["again"] == "t3" and bank.sizes("again").masks < 100
    assert [told[f"t{number}"] for number in range(5)] == [None, "t0", "t1", "t2", "t3"]
    assert told["t5"] != "t4"
    assert all(bank.masks(name) == found for name, found in tasks.items())
    left = dict(tasks)
    for name in ("t2", "t0", "t4"):
        bank = remove_task(path, name)
        del left[name]
        assert all(bank.masks(other) == found for other, found in left.items())


def test_those_that_were_told_by_a_task_are_told_anew_without_it(path: Path) -> None:
    spanish = random_masks(0.3, 1)
    tasks = {
        "es": spanish,
        "it": flipped(spanish, 0.02, 3),
        "ky": random_masks(0.3, 9),
        "fr": flipped(spanish, 0.02, 5),
    }
    write_bank(path, *(task(name, masks, seed=7) for name, masks in tasks.items()))
    bank = remove_task(path, "es")
    assert bank.names == ["it", "ky", "fr"]
    assert [bank.beside(name) for name in bank.names] == [None, None, "it"]
    for name in bank.names:
        assert bank.masks(name) == tasks[name] and equal(own(7), dict(bank.own(name)))
    for name in ("it", "ky", "fr"):
        remove_task(path, name)
    assert Bank(path).names == [] and equal(base(), dict(Bank(path).base))
    assert "holds no task yet" in refusal(Bank(path).masks, "it")


def test_masks_of_heads_with_other_symbols_do_not_hinder_each_other(path: Path) -> None:
    shapes = {**SHAPES, HEAD_SITE: HEAD_SHAPE}
    for name, symbols in (("es", "A B"), ("fr", "A C")):
        masks = MaskSet(random_masks(0.3, 1, shapes), {"symbols": symbols})
        bank = (
            write_bank(path, task(name, masks))
            if name == "es"
            else add_task(path, task(name, masks))
        )
    assert bank.masks("fr").provenance["symbols"] == "A C" and bank.beside("fr") == "es"


WRITER = """
import sys
from pathlib import Path
from banks import random_masks, flipped, task, write_bank
first = random_masks(0.4, 1)
write_bank(Path(sys.argv[1]), task("b", first), task("a", flipped(first, 0.01, 2), rate=1.5))
"""


def test_equal_content_is_equal_bytes(tmp_path: Path) -> None:
    digests = set()
    for seed in ("0", "1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(TESTS)}
        out = tmp_path / f"{seed}.safetensors"
        subprocess.run([sys.executable, "-c", WRITER, str(out)], env=environment, check=True)
        digests.add(hashlib.sha256(out.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_adding_and_removing_leaves_the_bytes_as_they_were(path: Path) -> None:
    write_bank(path, task("es"))
    before = path.read_bytes()
    add_task(path, task("fr", seed=1))
    assert path.read_bytes() != before
    remove_task(path, "fr")
    assert path.read_bytes() == before


def test_an_open_bank_stays_what_it_was(path: Path) -> None:
    bank = write_bank(path, task("es"), task("fr", seed=1))
    remove_task(path, "fr")
    assert bank.names == ["es", "fr"] and bank.masks("fr") == random_masks(0.3, 1)
    assert Bank(path).names == ["es"]


def test_names_that_cannot_be_are_refused(path: Path) -> None:
    bank = write_bank(path, task("spanish"), task("french", seed=1))
    before = path.read_bytes()
    for name in ("", "auto", "a/b", "../x", "a b", ".hidden", "-x", "x" * 65, "a\n"):
        assert "cannot be the name of a task" in refusal(task, name)
    assert "holds a task 'spanish' already" in refusal(add_task, path, task("spanish", seed=3))
    for look in (bank.masks, bank.own, bank.about, bank.task, bank.sizes, bank.beside):
        assert "did you mean 'spanish'?" in refusal(look, "spannish")
    assert "did you mean 'french'?" in refusal(remove_task, path, "frensh")
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("masks", "tensors", "what"),
    [
        ({"encoder.layers.0.fc1.weight": (50, 60)}, own(), "the shape [50, 60], the tensor"),
        ({"encoder.layers.7.fc1.weight": (60, 50)}, own(), "of which there is no tensor"),
        ({HEAD_SITE: (7, 51)}, own(), "the tensor [7, 50]"),
        ({HEAD_SITE: HEAD_SHAPE}, {"x": np.ones(1, np.float32)}, "of which there is no tensor"),
        (
            SHAPES,
            {"w2v_encoder.w2v_model.encoder.layer_norm.bias": np.ones(49, np.float32)},
            "that of the shared model [50]",
        ),
        (
            SHAPES,
            {"w2v_encoder.w2v_model.encoder.layers.0.fc1.weight": np.ones((60, 50), np.float32)},
            "and that tensor too",
        ),
        (SHAPES, {HEAD_KEY: np.array([1, np.nan], np.float32)}, "not finite"),
        (SHAPES, {HEAD_KEY: np.array([np.inf], np.float16)}, "not finite"),
        (SHAPES, {HEAD_KEY: np.empty(0, np.float32)}, "empty"),
        (SHAPES, {HEAD_KEY: np.ones(2)}, "float64"),
    ],
)
def test_tasks_of_another_model_are_refused(
    path: Path, masks: dict[str, tuple[int, ...]], tensors: dict[str, np.ndarray], what: str
) -> None:
    write_bank(path, task("es"))
    before = path.read_bytes()
    new = Task("fr", random_masks(0.5, 1, masks), tensors)
    assert what in refusal(add_task, path, new)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_a_base_that_is_not_finite_is_refused(path: Path) -> None:
    bad = {**base(), "encoder.layer_norm.bias": np.array([np.nan], np.float16)}
    assert "not finite" in refusal(create_bank, path, bad, SETTINGS)
    assert not list(path.parent.iterdir())


def test_nothing_is_replaced_by_a_new_bank(path: Path, tmp_path: Path) -> None:
    write_bank(path, task("es"))
    before = path.read_bytes()
    assert "is there already" in refusal(create_bank, path, base(), SETTINGS)
    assert path.read_bytes() == before
    refusal(create_bank, tmp_path / "no" / "folder" / "bank", base(), SETTINGS)
    assert "no such bank" in refusal(add_task, tmp_path / "none", task("fr"))
    assert list(path.parent.iterdir()) == [path]


ADDER = """
import sys
from pathlib import Path
from banks import task
from speechprune.bank.bank import add_task
print("ready", flush=True)
sys.stdin.readline()
add_task(Path(sys.argv[1]), task(sys.argv[2], seed=int(sys.argv[3])))
"""


def _adder(path: Path, name: str, seed: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ADDER, str(path), name, str(seed)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, env=environment, text=True, **pipes)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_of_many_that_add_at_once_none_is_lost(path: Path) -> None:
    """One of them by a link to the file."""
    write_bank(path)
    path.with_name("link").symlink_to(path)
    names = [f"task{number}" for number in range(4)]
    adders = [
        _adder(path.with_name("link") if number == 1 else path, name, number)
        for number, name in enumerate(names)
    ]
    for adder in adders:
        assert adder.stdin is not None
        adder.stdin.write("\n")
        adder.stdin.flush()
    for adder in adders:
        assert adder.wait(timeout=60) == 0, adder.stderr.read()
    bank = Bank(path)
    assert sorted(bank.names) == names
    for number, name in enumerate(names):
        assert bank.masks(name) == random_masks(0.3, number)
    assert path.with_name("link").is_symlink()
    assert {each.name for each in path.parent.iterdir()} == {path.name, "link"}


def test_whoever_does_not_get_his_turn_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bank(path)
    monkeypatch.setattr(bank_module, "PATIENCE", 0.2)
    with bank_module.locked_file(path):
        assert "another process is writing to" in refusal(add_task, path, task("es"))
    add_task(path, task("es"))


KILLED = """
import os, signal, sys
from pathlib import Path
from banks import task
from speechprune.bank import bank
save_file = bank.save_file

def save_half(tensors, name, metadata):
    save_file(tensors, name, metadata)
    os.truncate(name, os.path.getsize(name) // 2)
    os.kill(os.getpid(), signal.SIGKILL)

bank.save_file = save_half
bank.add_task(Path(sys.argv[1]), task("fr", seed=1))
"""


def test_a_kill_in_the_middle_leaves_the_old_bank(path: Path) -> None:
    write_bank(path, task("es"))
    before = path.read_bytes()
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    start = time.monotonic()
    assert add_task(path, task("fr", seed=1)).names == ["es", "fr"]
    assert time.monotonic() - start < 5  # the lock went with its holder


def test_a_full_disk_leaves_the_old_bank(path: Path) -> None:
    write_bank(path, task("es"))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        message = refusal(add_task, path, task("fr", seed=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert "cannot be written" in message
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_what_training_rounds_to_has_a_name() -> None:
    masks = MaskSet({"a": torch.ones(2, dtype=torch.bool)})
    assert "float64" in refusal(Task, "a", masks, {}, {}, "float64")
