"""What the file of a bank says in words: read, and found to be of the tensors that it has.

Whoever writes a file may have it say anything. What is read here fits the file's own tensors, so
that nothing that is made of it can be larger than the file itself, but for the bits of masks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from speechprune.bank.stored import StoredTensors
from speechprune.bank.task import PRECISIONS, check_name
from speechprune.checksums import CHECKSUM, verified, with_checksum
from speechprune.errors import UserError
from speechprune.masking.bits import Shape
from speechprune.state_names import encoder_tensors, key_of

FORMAT = "speechprune.bank"
VERSION = 1
#: How the names of shared tensors and of those of tasks begin.
BASE, TASKS = "base/", "tasks/"
#: The settings of the shared model: of its pretraining's task, and its own.
SECTIONS = ("task", "model")
#: Deeper than any JSON of a bank is.
_DEEP = 100
#: Tasks whose masks have to be read for those of one, at most, besides its own.
MOST_STEPS = 4


def masks_at(name: str) -> str:
    """Where the masks of a task are."""
    return f"{TASKS}{name}/masks"


def own_at(name: str) -> str:
    """How the names of a task's own tensors begin."""
    return f"{TASKS}{name}/own/"


def metadata_of(header: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of a file: ``header`` with its checksum."""
    said = {"format": FORMAT, "version": VERSION, **header}
    # safetensors writes metadata in hash order: a single key keeps the bytes the same.
    return {FORMAT: json.dumps(with_checksum(said), ensure_ascii=False)}


def read_header(path: Path, tensors: StoredTensors) -> dict[str, Any]:
    """What a bank says of itself: ``base``, with its settings and SHA-256, and ``tasks`` by name.

    Raises:
        UserError: it is no bank, or damaged, or says what its tensors do not bear out.
    """
    if FORMAT not in tensors.metadata:
        raise UserError(f"{path}: a safetensors file, but not a bank")
    try:
        header = dict(json.loads(tensors.metadata[FORMAT]))
        version = header["version"]
        if version == VERSION:
            _require(CHECKSUM in header, "its header has no checksum")
            header = verified(header)
            _check(header, tensors)
    except UserError as error:
        raise UserError(f"{path}: damaged bank: {error}") from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged bank: its header cannot be read") from error
    if version != VERSION:
        raise UserError(
            f"{path}: bank of version {str(version)[:20]}; this program reads {VERSION}"
        )
    return header


def check_fit(
    masks: Mapping[str, Shape], own: Mapping[str, Shape], base: Mapping[str, Shape]
) -> None:
    """Raise UserError unless the masks and own tensors of a task are of one model with the shared
    tensors.

    Args:
        masks: shapes by site.
        own: shapes by key in a finetuned checkpoint.
        base: shapes by name.
    """
    for name, shape in encoder_tensors(own).items():
        if name in base and base[name] != shape:
            raise UserError(
                f"its tensor {name} has the shape {list(shape)}, that of the shared model "
                f"{list(base[name])}"
            )
    for site, shape in masks.items():
        if site in base and key_of(site) in own:
            raise UserError(f"it has a mask of {site} and that tensor too")
        masked = base.get(site, own.get(key_of(site)))
        if masked is None:
            raise UserError(f"it has a mask of {site}, of which there is no tensor")
        if masked != shape:
            raise UserError(
                f"its mask of {site} has the shape {list(shape)}, the tensor {list(masked)}"
            )


def _require(is_so: object, otherwise: str) -> None:
    if not is_so:
        raise UserError(otherwise)


def _check(header: Mapping[str, Any], tensors: StoredTensors) -> None:
    base, tasks = header["base"], header["tasks"]
    sections = [base["settings"][section] for section in SECTIONS]
    are_objects = all(isinstance(each, dict) for each in (*sections, tasks))
    _require(are_objects and isinstance(base["sha256"], str), "its header is not that of a bank")
    _check_depth(header)
    shared = _shapes(tensors, BASE)
    _require(shared, "it has no shared tensors")
    known = {f"{BASE}{name}" for name in shared}
    for name, entry in tasks.items():
        check_name(name)
        own = _shapes(tensors, own_at(name))
        try:
            _check_entry(entry, tensors, name)
            check_fit(_mask_shapes(entry), own, shared)
            _check_beside(entry, tasks)
        except UserError as error:
            raise UserError(f"the task {name!r}: {error}") from error
        known |= {masks_at(name), *(f"{own_at(name)}{key}" for key in own)}
    strange = sorted(set(tensors) - known)
    _require(not strange, f"it holds {strange[:1]}, which belongs to nothing")
    for name in sorted(known - {masks_at(task) for task in tasks}):
        _require(tensors.is_number(name), f"{name} is of another type than weights")
        _require(0 not in tensors.shape(name), f"{name} is empty")


def _check_entry(entry: Mapping[str, Any], tensors: StoredTensors, name: str) -> None:
    """Raise UserError unless a task's entry says what each reader of it relies on."""
    masks = entry["masks"]
    shapes, streams = masks["shapes"], masks["streams"]
    place = masks_at(name)
    _require(place in tensors and tensors.is_bytes(place), "it has no masks")
    _require(
        isinstance(shapes, dict)
        and shapes
        and all(isinstance(shape, list) and all(map(_is_count, shape)) for shape in shapes.values())
        and isinstance(streams, list)
        and all(_is_stream(stream) for stream in streams),
        "its masks are not described",
    )
    length = sum(stream[0] for stream in streams)
    _require((length,) == tensors.shape(place), "its masks have another number of bytes than said")
    _require(_are_texts(masks["provenance"]), "the provenance of its masks is not text")
    _require(entry["precision"] in PRECISIONS, "it is of an unknown precision")
    _require(
        isinstance(entry["about"], dict) and isinstance(entry["sha256"], str),
        "it is not described",
    )


def steps_of(name: str | None, tasks: Mapping[str, Any]) -> int:
    """How many tasks tell the masks that are told by those of ``name``, one by another's.

    Args:
        tasks: entries by name.

    Raises UserError if there are more than `MOST_STEPS`, or one of them is unknown.
    """
    steps = 0
    while name is not None:
        _require(
            steps < MOST_STEPS, f"its masks are told by more than {MOST_STEPS} tasks' in a row"
        )
        _require(isinstance(name, str) and name in tasks, "its masks are told by an unknown task's")
        name, steps = tasks[name]["masks"]["beside"], steps + 1
    return steps


def _check_beside(entry: Mapping[str, Any], tasks: Mapping[str, Any]) -> None:
    """Raise UserError unless the masks by which those of a task are told, if there are any, are of
    the same sites, and are told by few others in turn."""
    beside = entry["masks"]["beside"]
    if beside is None:
        differs = any(stream[1] for stream in entry["masks"]["streams"])
        _require(not differs, "its masks are told by another task's, which it does not name")
        return
    steps_of(beside, tasks)
    _require(
        tasks[beside]["masks"]["shapes"] == entry["masks"]["shapes"],
        f"its masks are told by those of {beside!r}, which are of other tensors",
    )


def _check_depth(header: Mapping[str, Any]) -> None:
    """Raise UserError for JSON that is nested deeper than any reader of it can go."""
    level: list[Any] = [header]
    for _ in range(_DEEP):
        level = [
            inner
            for value in level
            if isinstance(value, (dict, list))
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    raise UserError("its header is nested too deep")


def _mask_shapes(entry: Mapping[str, Any]) -> dict[str, Shape]:
    return {site: tuple(shape) for site, shape in entry["masks"]["shapes"].items()}


def _shapes(tensors: StoredTensors, start: str) -> dict[str, Shape]:
    """Shapes of the tensors whose names begin in one way, by the rest of their names."""
    return {name[len(start) :]: tensors.shape(name) for name in tensors if name.startswith(start)}


def _is_stream(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and _is_count(value[0])
        and isinstance(value[1], bool)
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _are_texts(value: Any) -> bool:
    texts: Iterable[Any] = value.values() if isinstance(value, dict) else (None,)
    return all(isinstance(text, str) for text in texts)
