"""Panels of the map as tables: a row for each method, a column for each place.

    python -m benchmarks.claims.table benchmarks/results/claims/nano-*.json

Word errors of last checkpoints in percent, medians of seeds; the files of the panels have
intervals, characters, best checkpoints and learning rates.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import click

from benchmarks.claims.measured import LAST
from benchmarks.claims.whole import SPLITS, WholeMap, whole_map_command

_UPDATES, _MINUTES = "updates", "labelled minutes"
_WIDTH = 7


def tables(whole: WholeMap) -> Iterator[str]:
    """What was trained on, known speakers and unknown ones, line by line."""
    yield f"word error rates in percent, median; {whole.title}"
    names = max(len(name) for name in (*whole.names, _MINUTES))
    for split, words in SPLITS.items():
        yield f"\n{words}"
        yield from _heads(whole, names)
        for name in whole.names:
            found = {
                (panel.updates, panel.minutes): f"{method.of(split, LAST, 'wer').median:.1f}"
                for panel, method in whole.measured(name)
            }
            cells = (found.get((panel.updates, panel.minutes), "-") for panel in whole.panels)
            yield f"{name:{names}}{''.join(f'{cell:>{_WIDTH}}' for cell in cells)}"


def _heads(whole: WholeMap, names: int) -> Iterator[str]:
    """Updates above minutes."""
    columns = [
        f"{updates:>{_WIDTH},}{' ' * _WIDTH * (len(list(panels)) - 1)}"
        for updates, panels in groupby(whole.panels, lambda panel: panel.updates)
    ]
    yield f"{_UPDATES:{names}}{''.join(columns)}".rstrip()
    minutes = (f"{panel.minutes:>{_WIDTH}g}" for panel in whole.panels)
    yield f"{_MINUTES:{names}}{''.join(minutes)}"


@whole_map_command(__doc__)
def main(whole: WholeMap) -> None:
    click.echo("\n".join(tables(whole)))


if __name__ == "__main__":
    main()
