"""Named parts, found by walking a folder and built strictly."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from difflib import get_close_matches
from typing import Any, Generic, Literal, TypeVar, Union

from speechprune.errors import UserError

Part = TypeVar("Part")

#: How messages call the types of options.
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def option(help: str, default: Any = MISSING, **details: Any) -> Any:
    """A field of a part's dataclass that its user sets: an option, with its help text.

    Args:
        help: a whole phrase.
        default: a value, or ``dict``, ``list`` or the like, which makes one; none for an option
            that has to be given.
        details: what else a reader of the option wants to know, such as the bounds of a number.
    """
    metadata = {"help": help, **details}
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Option:
    """What the user of a part may set.

    Attributes:
        kind: its type, such as ``int``.
        choices: the values that it may have; none where any value of its type will do.
        optional: whether it may be None.
        default: `dataclasses.MISSING` if it has to be given.
        details: what `option` was given for it.
    """

    name: str
    kind: type
    choices: tuple[Any, ...]
    optional: bool
    default: Any
    help: str
    details: Mapping[str, Any]

    @property
    def required(self) -> bool:
        """Whether it has to be given."""
        return self.default is MISSING

    @property
    def values(self) -> str:
        """What may be given, in words."""
        if self.choices:
            return " or ".join(map(str, self.choices))
        return _KINDS.get(self.kind, self.kind.__name__)

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` is one of its choices, or of its type; a whole number is a number."""
        if value is None:
            return self.optional
        if self.choices:
            return any(value == choice and type(value) is type(choice) for choice in self.choices)
        if self.kind is float:
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        if self.kind is int:
            return isinstance(value, int) and not isinstance(value, bool)
        return not isinstance(self.kind, type) or isinstance(value, self.kind)


def options_of(part: type) -> list[Option]:
    """The options of a part, in order: the fields of its dataclass, if it is one."""
    if not dataclasses.is_dataclass(part):
        return []
    hints = typing.get_type_hints(part)
    return [_option(field, hints[field.name]) for field in dataclasses.fields(part) if field.init]


def _option(field: dataclasses.Field[Any], hint: Any) -> Option:
    optional = False
    if typing.get_origin(hint) is Union or type(hint).__name__ == "UnionType":
        members = [member for member in typing.get_args(hint) if member is not type(None)]
        optional = len(members) < len(typing.get_args(hint))
        hint = members[0]
    choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
    kind = type(choices[0]) if choices else typing.get_origin(hint) or hint
    default = field.default
    if field.default_factory is not MISSING:
        default = field.default_factory()
    details = {key: value for key, value in field.metadata.items() if key != "help"}
    help_text = field.metadata.get("help", "")
    return Option(field.name, kind, choices, optional, default, help_text, details)


class Registry(Generic[Part]):
    """The classes of one kind, by name.

    A part is a class decorated with ``@REGISTRY.register("name")`` in any module of the folder
    ``package``: no list is kept by hand. Its options are the fields of its dataclass, if it is one.

    Args:
        kind: what the parts are, for error messages ("mask policy").
        package: dotted name of the folder whose modules define the parts.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._parts: dict[str, type[Part]] = {}
        self._walked = False

    def register(self, name: str) -> Callable[[type[Any]], type[Any]]:
        """Class decorator; raises ValueError if the name is taken by another class."""

        def add(part: type[Any]) -> type[Any]:
            taken = self._parts.get(name)
            if taken is not None and taken is not part:
                raise ValueError(
                    f"{self.kind} {name!r} is registered twice: by {_where(taken)} and by "
                    f"{_where(part)}"
                )
            self._parts[name] = part
            return part

        return add

    def names(self) -> list[str]:
        """All names, sorted."""
        self._walk()
        return sorted(self._parts)

    def get(self, name: str) -> type[Part]:
        """The class called ``name``; raises UserError, with the nearest name, if there is none."""
        self._walk()
        if name not in self._parts:
            raise UserError(unknown_name(self.kind, name, self.names()))
        return self._parts[name]

    def options(self, name: str) -> list[Option]:
        """The options of the part called ``name``; raises UserError if there is no such part."""
        return options_of(self.get(name))

    def build(self, name: str, **options: Any) -> Part:
        """Build the part called ``name``.

        Raises:
            UserError: there is no such part, an option that it does not have, one of another type,
                or none where it needs one.
        """
        part = self.get(name)
        known = {each.name: each for each in options_of(part)}
        for key, value in options.items():
            if key not in known:
                raise UserError(unknown_name(f"option of {self.kind} {name!r}", key, list(known)))
            if not known[key].accepts(value):
                raise UserError(
                    f"option {key!r} of {self.kind} {name!r} must be {known[key].values}, not "
                    f"{value!r}"
                )
        missing = [key for key, each in known.items() if each.required and key not in options]
        if missing:
            raise UserError(f"{self.kind} {name!r} needs the option {missing[0]!r}")
        return part(**options)

    def _walk(self) -> None:
        if self._walked:
            return
        package = importlib.import_module(self.package)
        for module in sorted(m.name for m in pkgutil.iter_modules(package.__path__)):
            importlib.import_module(f"{self.package}.{module}")
        self._walked = True


def _where(part: type) -> str:
    return f"{part.__module__}.{part.__qualname__}"


def unknown_name(kind: str, name: str, known: list[str]) -> str:
    """One line that refuses ``name`` and offers the nearest known one, or all if none is near."""
    if not known:
        return f"unknown {kind} {name!r}; it has none"
    begun = [other for other in sorted(known) if name and other.startswith(name)]
    nearest = get_close_matches(name, known, n=1) or begun
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(sorted(known))}"
    return f"unknown {kind} {name!r}; {hint}"
