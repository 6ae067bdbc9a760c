"""Switching between tasks: whatever came before, the weights are base * mask, and what is own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from speechprune.bank.bank import Bank, add_task, create_bank
from speechprune.bank.switching import Switch
from speechprune.bank.task import Task
from speechprune.errors import UserError
from speechprune.masking.mask_set import MaskSet
from speechprune.state_names import ENCODER

#: The size of one is not a multiple of eight, and one is larger than a block.
SHAPES = {
    "encoder.layers.0.fc1.weight": (300, 256),
    "encoder.layers.0.fc2.weight": (7, 13),
    "encoder.layers.1.fc1.weight": (64, 24),
    "encoder.layer_norm.weight": (24,),
}
NORM = "encoder.layer_norm.weight"
RNG = np.random.default_rng(5)
BASE = {name: RNG.standard_normal(shape, dtype=np.float32) for name, shape in SHAPES.items()}
SETTINGS: dict[str, object] = {"task": {}, "model": {}}
FC1, FC2, LATER, _ = SHAPES


def mask(site: str, density: float) -> np.ndarray:
    found: np.ndarray = RNG.random(SHAPES[site]) < density
    return found


def near(like: np.ndarray, share: float) -> np.ndarray:
    """A mask with some entries flipped."""
    return like ^ (RNG.random(like.shape) < share)


def task(
    name: str, masks: Mapping[str, np.ndarray], precision: str = "float32", **own: np.ndarray
) -> Task:
    return Task(
        name,
        MaskSet({site: torch.from_numpy(found) for site, found in masks.items()}),
        {f"{ENCODER}{key.replace('__', '.')}": array for key, array in own.items()},
        precision=precision,
    )


ES = {FC1: mask(FC1, 0.9), FC2: mask(FC2, 0.5)}
TASKS = (
    task("es", ES),
    task("fr", {FC1: near(ES[FC1], 0.01), FC2: near(ES[FC2], 0.1)}),  # few groups change
    task("it", {FC1: mask(FC1, 0.3), LATER: mask(LATER, 0.7)}),  # other sites
    task("half", {FC1: mask(FC1, 0.9)}, "float16"),
    task("brain", {FC1: mask(FC1, 0.9)}, "bfloat16"),
    task(
        "own",
        {FC1: mask(FC1, 0.9)},
        encoder__layer_norm__weight=RNG.standard_normal(24, dtype=np.float32),
        encoder__layers__1__fc1__weight=RNG.standard_normal((64, 24), dtype=np.float32),
    ),
)


def expected(wanted: Task) -> dict[str, np.ndarray]:
    """By the definition."""
    found = {}
    for name, values in BASE.items():
        precision = getattr(torch, wanted.precision)
        value = torch.from_numpy(values).to(precision).float().numpy()
        if name in wanted.masks:
            value = value * wanted.masks[name].numpy()
        found[name] = wanted.own.get(ENCODER + name, value)
    return found


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    path = tmp_path / "tasks.bank"
    found = create_bank(path, BASE, SETTINGS)
    for each in TASKS:
        found = add_task(path, each)
    return found


def empty() -> dict[str, torch.Tensor]:
    return {name: torch.full(shape, torch.nan) for name, shape in SHAPES.items()}


def assert_is(tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, np.ndarray]) -> None:
    for name, value in wanted.items():
        assert np.array_equal(tensors[name].numpy(), value), name


@pytest.mark.parametrize("keep_removed", [False, True])
def test_a_thousand_switches_end_where_a_fresh_load_does(bank: Bank, keep_removed: bool) -> None:
    tensors = empty()
    switch = Switch(bank, tensors, keep_removed=keep_removed)
    assert_is(tensors, BASE)
    for number in np.random.default_rng(1).integers(len(TASKS), size=1000):
        switch.use(TASKS[number].name)
        assert switch.current == TASKS[number].name
        assert_is(tensors, expected(TASKS[number]))


@pytest.mark.parametrize("keep_removed", [False, True])
def test_half_precision_models_switch_too(bank: Bank, keep_removed: bool) -> None:
    tensors = {name: tensor.half() for name, tensor in empty().items()}
    switch = Switch(bank, tensors, keep_removed=keep_removed)
    for wanted in (*TASKS, *reversed(TASKS)):
        switch.use(wanted.name)
        rounded = {name: value.astype(np.float16) for name, value in expected(wanted).items()}
        assert_is(tensors, rounded)


def test_a_base_in_half_precision_fills_a_model_in_single(tmp_path: Path) -> None:
    path = tmp_path / "half.bank"
    create_bank(path, {name: value.astype(np.float16) for name, value in BASE.items()}, SETTINGS)
    bank = add_task(path, TASKS[0])
    tensors = empty()
    Switch(bank, tensors).use("es")
    for site, found in ES.items():
        value = BASE[site].astype(np.float16).astype(np.float32) * found
        assert np.array_equal(tensors[site].numpy(), value)


def test_what_ends_a_switch_halfway_leaves_no_trace(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = empty()
    switch = Switch(bank, tensors)
    switch.use("own")
    with monkeypatch.context() as patch:
        patch.setattr(switch, "_patch", lambda *rest: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            switch.use("it")
    assert switch.current is None
    switch.use("fr")
    assert_is(tensors, expected(TASKS[1]))


def test_what_is_kept_beside_the_model_is_enough(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No weight is written by way of the machine's memory, where a GPU's weights are not."""
    monkeypatch.setattr(Switch, "_patch", lambda *rest: pytest.fail("not on a GPU"))
    twin = task("twin", {FC1: mask(FC1, 0.9), FC2: ES[FC2]})  # of seven by thirteen, unchanged
    tensors = empty()
    switch = Switch(add_task(bank.path, twin), tensors, keep_removed=True)
    for wanted in (TASKS[0], twin, *TASKS[:3], twin):
        switch.use(wanted.name)
        assert_is(tensors, expected(wanted))


def test_an_unknown_task_changes_nothing(bank: Bank) -> None:
    tensors = empty()
    switch = Switch(bank, tensors)
    switch.use("fr")
    with pytest.raises(UserError, match="unknown task 'fre'; did you mean 'fr'"):
        switch.use("fre")
    assert switch.current == "fr"
    assert_is(tensors, expected(TASKS[1]))


def test_the_file_may_be_replaced_while_it_is_in_use(bank: Bank) -> None:
    tensors = empty()
    switch = Switch(bank, tensors)
    switch.use("es")
    bank.path.unlink()
    create_bank(bank.path, {name: value + 1 for name, value in BASE.items()}, SETTINGS)
    for wanted in TASKS:
        switch.use(wanted.name)
        assert_is(tensors, expected(wanted))


@pytest.mark.parametrize("name", [FC1, NORM])
def test_tensors_of_another_model_are_refused(bank: Bank, name: str) -> None:
    tensors = empty()
    tensors[name] = torch.zeros(3)
    with pytest.raises(UserError, match=f"its tensor {name} does not fit the model"):
        Switch(bank, tensors)
    del tensors[name]
    with pytest.raises(UserError, match=f"its tensor {name} does not fit the model"):
        Switch(bank, tensors)


@pytest.mark.cuda
def test_a_gpu_switches_as_the_cpu_does(bank: Bank) -> None:
    tensors = {name: tensor.cuda() for name, tensor in empty().items()}
    switch = Switch(bank, tensors)
    for number in np.random.default_rng(2).integers(len(TASKS), size=50):
        switch.use(TASKS[number].name)
        on_cpu = {name: tensor.cpu() for name, tensor in tensors.items()}
        assert_is(on_cpu, expected(TASKS[number]))
