"""A bank: one shared model, and for each task masks and a few tensors, in one safetensors file.

The file holds ``base/KEY``, the tensors of the encoder under the names of a pretrained model,
``tasks/NAME/masks``, coded streams (see `speechprune.bank.streams`), and ``tasks/NAME/own/KEY``.
All else is JSON in its metadata. Nothing is read before it is asked for, and a task is compared
with its checksum when it is.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Union

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from speechprune.bank.header import (
    BASE,
    MOST_STEPS,
    check_fit,
    masks_at,
    metadata_of,
    own_at,
    read_header,
    steps_of,
)
from speechprune.bank.stored import StoredTensors, TensorsBelow, is_number
from speechprune.bank.streams import decode_masks, encode_masks
from speechprune.bank.task import Task, check_name
from speechprune.checksums import checksum
from speechprune.errors import UserError
from speechprune.files import replacing_file
from speechprune.locks import locked_file
from speechprune.masking.bits import popcount
from speechprune.masking.mask_set import MaskSet
from speechprune.registry import unknown_name

#: Seconds to wait for another process that changes a bank.
PATIENCE = 60.0


class Sizes(NamedTuple):
    """Bytes that a task takes in the file."""

    masks: int
    own: int


class Bank:
    """What the file of a bank holds; it stays the same here if another takes the file's place.

    Attributes:
        path: of the file.
        settings: of the shared model's pretraining, as JSON can hold them: `task` and `model`.
        digest: SHA-256 of the shared tensors with their names, in hexadecimal.
        base: shared arrays by name, float32, float16 or counters; read-only, and read when they
            are used.

    Raises UserError if the file is missing, damaged, or no bank.
    """

    def __init__(self, path: Union[str, Path]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"{path}: no such bank; make one with `speechprune bank create`")
        self._tensors = StoredTensors(self.path)
        header = read_header(self.path, self._tensors)
        self.settings: Mapping[str, Any] = header["base"]["settings"]
        self.digest: str = header["base"]["sha256"]
        self.base = TensorsBelow(BASE, self._tensors)
        self._tasks: dict[str, Any] = header["tasks"]
        self._reference: tuple[str, MaskSet] | None = None
        self._sound: set[str] = set()

    @property
    def names(self) -> list[str]:
        """The tasks, in the order in which they were added."""
        return list(self._tasks)

    def about(self, name: str) -> Mapping[str, Any]:
        """What else is known of a task; raises UserError if there is none of this name."""
        about: Mapping[str, Any] = self._entry(name)["about"]
        return about

    def precision(self, name: str) -> str:
        """What the shared weights were rounded to in a task's training."""
        return str(self._entry(name)["precision"])

    def own(self, name: str) -> Mapping[str, np.ndarray]:
        """A task's own arrays by key; read-only, and read when they are used.

        Raises:
            UserError: there is no such task, or it is damaged.
        """
        self._verify(name)
        return self._own(name)

    def sizes(self, name: str) -> Sizes:
        """What a task takes."""
        own = self._own(name)
        return Sizes(self._tensors.nbytes(masks_at(name)), sum(map(own.nbytes, own)))

    def beside(self, name: str) -> str | None:
        """The task by whose masks those of ``name`` are told; None if they are told as they are."""
        beside: str | None = self._entry(name)["masks"]["beside"]
        return beside

    def masks(self, name: str) -> MaskSet:
        """The masks of a task.

        Raises:
            UserError: there is no such task, or it is damaged.
        """
        entry, beside = self._entry(name), self.beside(name)
        self._verify(name)
        coded = self._tensors[masks_at(name)].tobytes()
        self._tensors.forget_pages_of(masks_at(name))
        try:
            reference = None if beside is None else self._told_by(beside)
            return MaskSet.from_packed(
                decode_masks(
                    coded,
                    entry["masks"]["streams"],
                    {site: tuple(shape) for site, shape in entry["masks"]["shapes"].items()},
                    reference,
                ),
                entry["masks"]["provenance"],
            )
        except UserError as error:
            raise UserError(f"{self.path}: the task {name!r} is damaged: {error}") from error

    def task(self, name: str) -> Task:
        """All of a task; raises UserError as `masks`."""
        masks = self.masks(name)
        return Task(name, masks, dict(self._own(name)), self.about(name), self.precision(name))

    def check_base(self) -> None:
        """Raise UserError if the shared tensors differ from their checksum, or are not finite;
        reads all of them."""
        try:
            if checksum({}, self.base) != self.digest:
                raise UserError("they differ from their checksum")
            _check_numbers(self.base)
        except UserError as error:
            raise UserError(f"{self.path} is damaged in its shared weights: {error}") from error
        finally:
            self.forget_pages()

    def forget_pages(self) -> None:
        """Let go of what was read of the file."""
        self._tensors.forget_pages()

    def _entry(self, name: str) -> dict[str, Any]:
        if name not in self._tasks:
            if not self._tasks:
                raise UserError(
                    f"{self.path} holds no task yet; add one with `speechprune bank add`"
                )
            raise UserError(f"{self.path}: {unknown_name('task', name, self.names)}")
        entry: dict[str, Any] = self._tasks[name]
        return entry

    def _own(self, name: str) -> TensorsBelow:
        self._entry(name)
        return TensorsBelow(own_at(name), self._tensors)

    def _told_by(self, name: str) -> MaskSet:
        """Masks that others are told by; the last are kept, since others may ask for them too."""
        if self._reference is None or self._reference[0] != name:
            self._reference = (name, self.masks(name))
        return self._reference[1]

    def _verify(self, name: str) -> None:
        """Raise UserError unless a task is what was added; looked at once."""
        entry, own = self._entry(name), self._own(name)
        if name in self._sound:
            return
        try:
            if checksum({}, {"masks": self._tensors[masks_at(name)], **own}) != entry["sha256"]:
                raise UserError("its tensors differ from their checksum")
            _check_numbers(own)
        except UserError as error:
            raise UserError(f"{self.path}: the task {name!r} is damaged: {error}") from error
        self._sound.add(name)


def create_bank(
    path: Union[str, Path], base: Mapping[str, np.ndarray], settings: Mapping[str, Any]
) -> Bank:
    """Write a bank without tasks.

    Args:
        base: float32 or float16, and counters, by the names of a pretrained model.
        settings: of that model's pretraining, as JSON can hold them: `task` and `model`.

    Raises:
        UserError: a tensor is not finite, empty or of another type; the file cannot be written, or
            something is there already.
    """
    with _alone_at(Path(path)) as path:
        if path.exists():
            raise UserError(f"{path} is there already; add to it, or name another file")
        _check_numbers(base)
        described = {"settings": dict(settings), "sha256": checksum({}, base)}
        _write(path, described, base, {}, {})
    return Bank(path)


def add_task(path: Union[str, Path], task: Task, onto: str | None = None) -> Bank:
    """Add a task to the bank at ``path``, which is written anew; another process that changes it is
    waited for.

    Args:
        onto: the digest of the shared tensors that the task was made for, if it was for some.

    Raises:
        UserError: the name is taken, the task is not of tensors that there are, or has some as
            `create_bank` refuses; or the file cannot be read or written.
    """
    with _changing(Path(path)) as bank:
        refuse_taken(bank, task.name)
        if onto not in (None, bank.digest):
            raise UserError(f"{path} has become another bank meanwhile; add the task again")
        own = {key: tuple(array.shape) for key, array in task.own.items()}
        try:
            check_fit(task.masks.shapes, own, bank.base.shapes)
            _check_numbers(task.own)
        except UserError as error:
            raise UserError(f"{task.name} does not fit {path}: {error}") from error
        bank.change([*bank.names, task.name], {task.name: task})
    return Bank(path)


def remove_task(path: Union[str, Path], name: str) -> Bank:
    """Remove a task from the bank at ``path``; else as `add_task`."""
    with _changing(Path(path)) as bank:
        bank.about(name)
        # Masks that were told by those that go are told anew.
        told = [other for other in bank.names if bank.beside(other) == name]
        left = [other for other in bank.names if other != name]
        bank.change(left, {other: bank.task(other) for other in told})
    return Bank(path)


def refuse_taken(bank: Bank, name: str) -> None:
    """Raise UserError if ``name`` cannot be that of a further task."""
    check_name(name)
    if name in bank.names:
        raise UserError(
            f"{bank.path} holds a task {name!r} already; remove it, or choose another name"
        )


class _Changing(Bank):
    """A bank that may be written anew."""

    def change(self, names: list[str], new: Mapping[str, Task]) -> None:
        """Write the tasks ``names``, those of ``new`` as they are there."""
        entries: dict[str, Any] = {}
        arrays: dict[str, np.ndarray] = {}
        for name in names:
            if name in new:
                # Those that are told anew have others that are told by them.
                most = MOST_STEPS if name not in self._tasks else self._steps(name)
                entries[name], masks = self._encoded(new[name], entries, most)
                own = new[name].own
            else:
                entries[name], masks = self._tasks[name], self._tensors[masks_at(name)]
                own = self._own(name)
            arrays[masks_at(name)] = masks
            arrays.update({f"{own_at(name)}{key}": array for key, array in own.items()})
        described = {"settings": self.settings, "sha256": self.digest}
        _write(self.path, described, self.base, entries, arrays)

    def _steps(self, name: str) -> int:
        """How many tasks tell the masks of one."""
        return steps_of(self.beside(name), self._tasks)

    def _encoded(
        self, task: Task, before: Mapping[str, Any], most: int
    ) -> tuple[dict[str, Any], np.ndarray]:
        """A task's entry and its coded masks.

        Args:
            before: entries of the tasks by whose masks its own may be told.
            most: tasks that may tell its masks, one by another's.
        """
        nearest = self._nearest(task.masks, before, most)
        reference = None if nearest is None else self.masks(nearest)
        data, streams = encode_masks(task.masks, reference)
        masks = np.frombuffer(data, dtype=np.uint8)
        entry = {
            "masks": {
                "streams": streams,
                "beside": nearest if any(differs for _, differs in streams) else None,
                "shapes": {site: list(shape) for site, shape in task.masks.shapes.items()},
                "provenance": task.masks.provenance,
            },
            "precision": task.precision,
            "about": dict(task.about),
            "sha256": checksum({}, {"masks": masks, **task.own}),
        }
        return entry, masks

    def _nearest(self, masks: MaskSet, before: Mapping[str, Any], most: int) -> str | None:
        """The task from whose masks ``masks`` differ in the fewest entries, of those whose own are
        told by fewer than ``most`` others; the first of equals."""
        differing = {
            name: _differing(masks, self.masks(name))
            for name, entry in before.items()
            if name in self._tasks
            and steps_of(entry["masks"]["beside"], before) < most
            and _fits(entry["masks"]["shapes"], masks)
        }
        return min(differing, key=differing.__getitem__, default=None)


@contextmanager
def _alone_at(path: Path) -> Iterator[Path]:
    """A file, by the name that it has without links, that nobody else changes meanwhile."""
    target = Path(os.path.realpath(path))
    with locked_file(target, PATIENCE):
        yield target


@contextmanager
def _changing(path: Path) -> Iterator[_Changing]:
    """A bank that nobody else changes meanwhile."""
    if not path.is_file():
        Bank(path)  # says what is wrong, and leaves no lock behind
    with _alone_at(path) as target:
        yield _Changing(target)


def _fits(shapes: Mapping[str, Any], masks: MaskSet) -> bool:
    return {site: tuple(shape) for site, shape in shapes.items()} == masks.shapes


def _differing(first: MaskSet, second: MaskSet) -> int:
    """In how many entries masks of the same sites differ."""
    return sum(popcount(first.packed(s).bits ^ second.packed(s).bits) for s in first)


def _check_numbers(arrays: Mapping[str, np.ndarray]) -> None:
    """Raise UserError unless arrays are what a bank can keep: finite weights, and counters."""
    for name in arrays:
        array = arrays[name]
        if not is_number(array.dtype, array.shape):
            raise UserError(f"{name} is {array.dtype}, but weights are float32 or float16")
        if not array.size:
            raise UserError(f"{name} is empty")
        if not np.isfinite(array).all():
            raise UserError(f"{name} is not finite (it holds NaN or infinity)")


def _write(
    path: Path,
    described: Mapping[str, Any],
    base: Mapping[str, np.ndarray],
    entries: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
) -> None:
    tensors = {**{f"{BASE}{name}": array for name, array in base.items()}, **arrays}
    metadata = metadata_of({"base": described, "tasks": dict(entries)})
    with replacing_file(path) as file:
        try:
            # The library takes each array for one contiguous piece of memory.
            plain = {name: np.asarray(array, order="C") for name, array in tensors.items()}
            _read_ahead(plain.values())
            save_file(plain, file.name, metadata)
        except SafetensorError as error:
            raise UserError(
                f"{path} cannot be written: no space left on the disk, or the file grew too large"
            ) from error


def _read_ahead(arrays: Iterable[np.ndarray]) -> None:
    """Read a byte of each page of arrays that may lie in another file.

    What is still on the disk when it is written gets into the kernel's cache in small pieces, from
    which the new file is read at two thirds of the pace.
    """
    for array in arrays:
        array.reshape(-1).view(np.uint8)[:: mmap.PAGESIZE].max()
