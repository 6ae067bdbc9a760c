"""All panels of one model, which figures and tables show together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from pathlib import Path
from typing import Any

import click

from benchmarks.claims.measured import KNOWN, TRAINED, UNKNOWN, MethodResult, PanelResult

#: What errors are of, in words.
SPLITS = {
    TRAINED: "what was trained on",
    KNOWN: "known speakers",
    UNKNOWN: "unknown speaker",
}


def whole_map_command(about: str | None) -> Callable[[Callable[..., None]], click.Command]:
    """Makes a command of a function that is given the map of some files of panels, ``whole``."""

    def decorate(function: Callable[..., None]) -> click.Command:
        @click.command(help=about)
        @click.argument("files", nargs=-1, required=True, type=click.Path(exists=True))
        @click.option("--method", "names", multiple=True, help="To show; all without it.")
        @wraps(function)
        def command(files: tuple[str, ...], names: tuple[str, ...], **options: Any) -> None:
            try:
                whole = WholeMap.of(PanelResult.load(Path(file)) for file in files)
                function(whole=whole.only(names or whole.names), **options)
            except ValueError as error:
                raise click.ClickException(str(error)) from error

        return command

    return decorate


@dataclass(frozen=True)
class WholeMap:
    """Panels of one model with the same seeds.

    Attributes:
        panels: by updates, and then by minutes.
    """

    panels: tuple[PanelResult, ...]

    @classmethod
    def of(cls, panels: Iterable[PanelResult]) -> WholeMap:
        """Put panels together.

        Raises:
            ValueError: they are of several models, recordings or sets of seeds, two are of one
                place, or there is none.
        """
        found = sorted(panels, key=lambda panel: (panel.updates, panel.minutes))
        if len({(p.digest, p.model, p.recordings, p.seeds_in_words) for p in found}) != 1:
            raise ValueError("a map has the panels of one model, with the same speech and seeds")
        if len({(panel.minutes, panel.updates) for panel in found}) != len(found):
            raise ValueError("two panels have the same minutes and updates")
        return cls(tuple(found))

    @property
    def title(self) -> str:
        """Whose errors these are, and of which seeds."""
        first = self.panels[0]
        return f"{first.model}: {first.seeds_in_words}"

    def only(self, names: Collection[str]) -> WholeMap:
        """The same with some methods alone, where they were measured.

        Raises:
            ValueError: one of them was not measured anywhere.
        """
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise ValueError(f"not measured: {', '.join(unknown)}; these are: {self.names}")
        panels = (
            replace(panel, methods=tuple(each for each in panel.methods if each.name in names))
            for panel in self.panels
        )
        return WholeMap(tuple(panel for panel in panels if panel.methods))

    @cached_property
    def names(self) -> list[str]:
        """The methods in order: those of the fullest panel, then what only others have."""
        fullest = sorted(self.panels, key=lambda panel: len(panel.methods), reverse=True)
        return list(dict.fromkeys(method.name for panel in fullest for method in panel.methods))

    def measured(self, name: str) -> list[tuple[PanelResult, MethodResult]]:
        """Where a method was measured, and what it came to."""
        return [
            (panel, method)
            for panel in self.panels
            for method in panel.methods
            if method.name == name
        ]
