"""Values with something wrong in one place, drawn by a seed: what readers of files have to bear."""

from __future__ import annotations

import copy
import re
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Callable

import torch
from torch import Tensor

#: Python that makes the file MARKER where it is evaluated.
CODE = "[__import__('pathlib').Path({marker!r}).touch(), (512, 10, 5)][1:]"

#: What takes the place of any value.
_STRANGERS: tuple[Callable[[], Any], ...] = (
    *(lambda: None, lambda: True, lambda: 0, lambda: -1, lambda: 1 << 40, lambda: 1.5),
    *(lambda: float("nan"), lambda: "", lambda: "text", lambda: "${a.b}", lambda: "???"),
    *(list, dict, tuple, lambda: [[]], lambda: {"a": {}}, lambda: {1: 2}, lambda: [None]),
    *(Namespace, lambda: Namespace(a=1), lambda: torch.ones(2)),
)
#: What takes the place of a field of a line.
_STRANGE_FIELDS = (
    *(b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"'", b'"', b"-1", b"0", b"1e999", b"nan"),
    *(b"9" * 30, b"a\tb\tc", b"x" * 5000, "\u2028\u0301\u00b2".encode(), b"../../etc/passwd"),
    *(b"/dev/zero", b"touch executed |", b"a.zip:0:1000000000000"),
)
#: What can be done to a tensor besides.
_TO_TENSORS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda tensor: tensor.long(),
    lambda tensor: tensor.double(),
    lambda tensor: tensor.bool(),
    lambda tensor: tensor.to(torch.complex64),
    lambda tensor: tensor.to_sparse(),
    lambda tensor: tensor.reshape(-1),
    lambda tensor: tensor.unsqueeze(0),
    lambda tensor: tensor.repeat(*[2] * max(1, tensor.dim())),
    lambda tensor: torch.empty(0),
    lambda tensor: torch.full_like(tensor.float(), float("inf")),
)


@dataclass(frozen=True)
class Mutation:
    """A value that differs in one place.

    Attributes:
        place: the keys and indices that lead there.
        change: what was done there, in words.
    """

    value: Any
    place: tuple[Any, ...]
    change: str


def mutations(value: Any, number: int, seed: int, marker: Path) -> Iterator[Mutation]:
    """Copies of a nested value, each wrong in one place.

    Every key has the same chance as its siblings, so that a part with few keys is not lost beside
    one with many.

    Args:
        marker: a file that is made by whoever evaluates a string of the value as Python.
    """
    random = Random(seed)
    code = CODE.format(marker=str(marker))
    for _ in range(number):
        mutated = copy.deepcopy(value)
        place = _place(mutated, random)
        yield Mutation(mutated, place, _spoil(mutated, place, random, code))


def mutated_bytes(content: bytes, number: int, seed: int) -> Iterator[bytes]:
    """Copies of a file's content, each damaged in one place: bytes changed, lost, doubled or cut
    off."""
    random = Random(seed)
    for _ in range(number):
        start = random.randrange(len(content))
        end = min(len(content), start + random.choice((1, 4, 100)))
        part = content[start:end]
        yield random.choice(
            (
                content[:start] + bytes(byte ^ 1 << random.randrange(8) for byte in part)
                + content[end:],
                content[:start] + content[end:],
                content[:end] + part + content[end:],
                content[:start],
            )
        )  # fmt: skip


def mutated_lines(content: bytes, number: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Copies of a text of fields, each with one field, or the whole of a line, changed; and how."""
    random = Random(seed)
    lines = content.split(b"\n")
    for _ in range(number):
        place = random.randrange(len(lines))
        fields = re.split(rb"([\t ])", lines[place])
        field = random.randrange(0, len(fields), 2)
        strange = random.choice(_STRANGE_FIELDS)
        fields[field] = strange
        changed = b"".join(fields) if random.random() < 0.7 else strange
        told = f"line {place + 1} is now {changed[:80]!r}"
        yield told, b"\n".join([*lines[:place], changed, *lines[place + 1 :]])


def _children(value: Any) -> dict[Any, Any]:
    """What a container holds, by what leads there."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list):
        return dict(enumerate(value))
    if isinstance(value, Tensor) or not hasattr(value, "__dict__"):
        return {}
    return vars(value)


def _place(value: Any, random: Random) -> tuple[Any, ...]:
    place: list[Any] = []
    while children := _children(value):
        if place and random.random() < 0.15:
            break
        key = random.choice(list(children))
        place.append(key)
        value = children[key]
    return tuple(place)


def _spoil(value: Any, place: tuple[Any, ...], random: Random, code: str) -> str:
    """Change a value in place, and tell how."""
    parent = value
    for key in place[:-1]:
        parent = _children(parent)[key]
    container = parent if isinstance(parent, (dict, list)) else vars(parent)
    old, key = container[place[-1]], place[-1]
    kind = random.random()
    if kind < 0.15:
        del container[key]
        return "deleted"
    if isinstance(old, Tensor) and kind < 0.7:
        index = random.randrange(len(_TO_TENSORS))
        try:
            container[key] = _TO_TENSORS[index](old)
        except RuntimeError:
            container[key] = None
        return f"tensor changed ({index})"
    if kind < 0.3:
        container[key] = code
        return "code"
    if kind < 0.4 and isinstance(container, dict):
        container[f"{key}.more"] = old
        return "one more"
    container[key] = random.choice(_STRANGERS)()
    return f"now {container[key]!r}"
