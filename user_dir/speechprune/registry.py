"""Named parts, found by walking a folder and built strictly."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from difflib import get_close_matches
from typing import Any, Callable, Generic, TypeVar

from speechprune.errors import UserError

Part = TypeVar("Part", bound=type)


class Registry(Generic[Part]):
    """The classes of one kind, by name.

    A part is a class decorated with ``@REGISTRY.register("name")`` in any module of the folder
    ``package``: no list is kept by hand.

    Args:
        kind: what the parts are, for error messages ("mask policy").
        package: dotted name of the folder whose modules define the parts.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._parts: dict[str, Part] = {}
        self._walked = False

    def register(self, name: str) -> Callable[[Part], Part]:
        """Class decorator; raises ValueError if the name is taken by another class."""

        def add(part: Part) -> Part:
            taken = self._parts.get(name)
            if taken is not None and taken.__qualname__ != part.__qualname__:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._parts[name] = part
            return part

        return add

    def names(self) -> list[str]:
        """All names, sorted."""
        self._walk()
        return sorted(self._parts)

    def get(self, name: str) -> Part:
        """The class called ``name``; raises UserError, with the nearest name, if there is none."""
        self._walk()
        if name not in self._parts:
            raise UserError(unknown_name(self.kind, name, self.names()))
        return self._parts[name]

    def build(self, name: str, **options: Any) -> Any:
        """Build the part called ``name``; raises UserError for an option that it does not have."""
        part = self.get(name)
        known = [p for p in inspect.signature(part).parameters if p != "self"]
        for option in options:
            if option not in known:
                raise UserError(unknown_name(f"option of {self.kind} {name!r}", option, known))
        return part(**options)

    def _walk(self) -> None:
        if self._walked:
            return
        package = importlib.import_module(self.package)
        for module in sorted(m.name for m in pkgutil.iter_modules(package.__path__)):
            importlib.import_module(f"{self.package}.{module}")
        self._walked = True


def unknown_name(kind: str, name: str, known: list[str]) -> str:
    """One line that refuses ``name`` and offers the nearest known one, or all if none is near."""
    begun = [other for other in sorted(known) if name and other.startswith(name)]
    nearest = get_close_matches(name, known, n=1) or begun
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(sorted(known))}"
    return f"unknown {kind} {name!r}; {hint}"
