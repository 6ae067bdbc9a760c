"""A bank: one shared model, and for each task masks and a few tensors, in one safetensors file.

The file holds ``base/KEY``, the tensors of the encoder under the names of a pretrained model,
``tasks/NAME/masks``, coded streams (see `speechprune.bank.streams`), and ``tasks/NAME/own/KEY``.
All else is JSON in its metadata. Nothing is read before it is asked for, and a task is compared
with its checksum when it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Union

import numpy as np
from safetensors.numpy import save_file

from speechprune.bank.stored import StoredTensors
from speechprune.bank.streams import decode_masks, encode_masks
from speechprune.bank.task import Task
from speechprune.checksums import checksum, verified, with_checksum
from speechprune.errors import UserError
from speechprune.files import replacing_file
from speechprune.locks import locked_file
from speechprune.masking.bits import Shape
from speechprune.masking.mask_set import MaskSet
from speechprune.masking.overlap import overlap
from speechprune.registry import unknown_name

FORMAT = "speechprune.bank"
VERSION = 1
#: Seconds to wait for another process that changes a bank.
PATIENCE = 60.0
_BASE, _TASKS = "base/", "tasks/"


class Sizes(NamedTuple):
    """Bytes that a task takes in the file."""

    masks: int
    own: int


class Bank:
    """What the file of a bank holds; it stays the same here if another takes the file's place.

    Attributes:
        path: of the file.
        settings: of the shared model, as JSON can hold them.
        digest: SHA-256 of the shared tensors with their names, in hexadecimal.
        base: shared arrays by name, float32 or float16; read-only, and read when they are used.

    Raises UserError if the file is missing, damaged, or no bank.
    """

    def __init__(self, path: Union[str, Path]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"{path}: no such bank; make one with `speechprune bank create`")
        self._tensors = StoredTensors(self.path)
        header = _read_header(self.path, self._tensors.metadata)
        self.settings: Mapping[str, Any] = header["base"]["settings"]
        self.digest: str = header["base"]["sha256"]
        self.base = _Below(_BASE, self._tensors)
        self._tasks: dict[str, Any] = header["tasks"]
        self._masks: dict[str, MaskSet] = {}

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
        """A task's own arrays by key; read-only, and read when they are used."""
        self._entry(name)
        return _Below(f"{_TASKS}{name}/own/", self._tensors)

    def sizes(self, name: str) -> Sizes:
        """What a task takes."""
        own = sum(array.nbytes for array in self.own(name).values())
        return Sizes(self._tensors[_masks_at(name)].nbytes, own)

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
        try:
            coded = self._verified(name)
            reference = None if beside is None else self._reference(beside)
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
        return Task(name, masks, dict(self.own(name)), self.about(name), self.precision(name))

    def check_base(self) -> None:
        """Raise UserError if the shared tensors differ from their checksum; reads all of them."""
        if checksum({}, self.base) != self.digest:
            raise UserError(
                f"{self.path} is damaged: its shared weights differ from their checksum"
            )
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

    def _reference(self, name: str) -> MaskSet:
        """Masks that others are told by; kept, since there are few such and they are asked for
        often."""
        if name not in self._masks:
            if self.beside(name) is not None:
                raise UserError(f"its masks are told by those of {name!r}, which others tell too")
            self._masks[name] = self.masks(name)
        return self._masks[name]

    def _verified(self, name: str) -> bytes:
        """The coded masks of a task, whose tensors are as they were written."""
        coded = self._tensors[_masks_at(name)].tobytes()
        self._tensors.forget_pages_of(_masks_at(name))
        arrays = {"masks": np.frombuffer(coded, dtype=np.uint8), **self.own(name)}
        if checksum({}, arrays) != self._tasks[name]["sha256"]:
            raise UserError("its tensors differ from their checksum")
        return coded


class _Below(Mapping[str, np.ndarray]):
    """The arrays whose names begin in one way, by the rest of their names."""

    def __init__(self, start: str, tensors: StoredTensors) -> None:
        self._start = start
        self._tensors = tensors
        self._names = [name[len(start) :] for name in tensors if name.startswith(start)]

    def __getitem__(self, name: str) -> np.ndarray:
        return self._tensors[self._start + name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def shape(self, name: str) -> Shape:
        """The shape of an array, of which nothing is read."""
        return self._tensors.shape(self._start + name)

    def forget_pages_of(self, name: str) -> None:
        """Let go of what was read of an array."""
        self._tensors.forget_pages_of(self._start + name)


def create_bank(
    path: Union[str, Path], base: Mapping[str, np.ndarray], settings: Mapping[str, Any]
) -> Bank:
    """Write a bank without tasks.

    Args:
        base: float32 or float16, contiguous.

    Raises:
        UserError: it cannot be written, or something is there already.
    """
    path = Path(path)
    with locked_file(path, PATIENCE):
        if path.exists():
            raise UserError(f"{path} is there already; add to it, or name another file")
        described = {"settings": dict(settings), "sha256": checksum({}, base)}
        _write(path, described, base, {}, {})
    return Bank(path)


def add_task(path: Union[str, Path], task: Task) -> Bank:
    """Add a task to the bank at ``path``, which is written anew; another process that changes it is
    waited for.

    Raises:
        UserError: the name is taken, the masks are not of tensors that there are, or the file
            cannot be read or written.
    """
    with _changing(Path(path)) as bank:
        if task.name in bank.names:
            raise UserError(
                f"{path} holds a task {task.name!r} already; remove it, or choose another name"
            )
        bank.refuse_misfit(task)
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


class _Changing(Bank):
    """A bank that may be written anew."""

    def refuse_misfit(self, task: Task) -> None:
        """Raise UserError if a mask is of no tensor of its shape."""
        shapes = {name: self.base.shape(name) for name in self.base}
        shapes.update({name: tuple(array.shape) for name, array in task.own.items()})
        for site, shape in task.masks.shapes.items():
            if site in self.base and shapes[site] != shape:
                raise UserError(
                    f"the mask of {site} has the shape {list(shape)}, but the tensor in "
                    f"{self.path} {list(shapes[site])}"
                )

    def change(self, names: list[str], new: Mapping[str, Task]) -> None:
        """Write the tasks ``names``, those of ``new`` as they are there."""
        entries: dict[str, Any] = {}
        arrays: dict[str, np.ndarray] = {}
        for name in names:
            if name in new:
                entries[name], of_task = self._encoded(new[name], entries)
            else:
                entries[name] = self._tasks[name]
                of_task = {"masks": self._tensors[_masks_at(name)], **_under_own(self.own(name))}
            arrays.update({f"{_TASKS}{name}/{key}": array for key, array in of_task.items()})
        described = {"settings": self.settings, "sha256": self.digest}
        _write(self.path, described, self.base, entries, arrays)

    def _encoded(
        self, task: Task, before: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """A task's entry and arrays.

        Args:
            before: entries of the tasks by whose masks its own may be told.
        """
        nearest = self._nearest(task.masks, before)
        reference = None if nearest is None else self.masks(nearest)
        data, streams = encode_masks(task.masks, reference)
        masks = np.frombuffer(data, dtype=np.uint8)
        own = {key: np.ascontiguousarray(array) for key, array in sorted(task.own.items())}
        entry = {
            "masks": {
                "streams": streams,
                "beside": nearest if any(differs for _, differs in streams) else None,
                "shapes": {site: list(shape) for site, shape in task.masks.shapes.items()},
                "provenance": task.masks.provenance,
            },
            "precision": task.precision,
            "about": dict(task.about),
            "sha256": checksum({}, {"masks": masks, **own}),
        }
        return entry, {"masks": masks, **_under_own(own)}

    def _nearest(self, masks: MaskSet, before: Mapping[str, Any]) -> str | None:
        """The task whose masks are most like ``masks``, of those that are told as they are."""
        likeness = {
            name: overlap(masks, self.masks(name)).iou
            for name, entry in before.items()
            if name in self._tasks
            and entry["masks"]["beside"] is None
            and _fits(entry["masks"]["shapes"], masks)
        }
        return max(likeness, key=likeness.__getitem__, default=None)


@contextmanager
def _changing(path: Path) -> Iterator[_Changing]:
    """A bank that nobody else changes meanwhile."""
    if not path.is_file():
        Bank(path)  # says what is wrong, and leaves no lock behind
    with locked_file(path, PATIENCE):
        yield _Changing(path)


def _fits(shapes: Mapping[str, Any], masks: MaskSet) -> bool:
    return {site: tuple(shape) for site, shape in shapes.items()} == masks.shapes


def _masks_at(name: str) -> str:
    return f"{_TASKS}{name}/masks"


def _under_own(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"own/{key}": array for key, array in arrays.items()}


def _write(
    path: Path,
    described: Mapping[str, Any],
    base: Mapping[str, np.ndarray],
    entries: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
) -> None:
    header = {"format": FORMAT, "version": VERSION, "base": described, "tasks": dict(entries)}
    # safetensors writes metadata in hash order: a single key keeps the bytes the same.
    metadata = {FORMAT: json.dumps(with_checksum(header), ensure_ascii=False)}
    tensors = {**{f"{_BASE}{name}": array for name, array in base.items()}, **arrays}
    with replacing_file(path) as file:
        save_file(tensors, file.name, metadata)


def _read_header(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What a bank says of itself; UserError if it is none, or damaged."""
    if FORMAT not in metadata:
        raise UserError(f"{path}: a safetensors file, but not a bank")
    try:
        header = dict(json.loads(metadata[FORMAT]))
        version = header["version"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged bank: its header cannot be read") from error
    if version != VERSION:
        raise UserError(f"{path}: bank of version {version}; this program reads {VERSION}")
    try:
        return verified(header)
    except UserError as error:
        raise UserError(f"{path}: damaged bank: {error}") from error
