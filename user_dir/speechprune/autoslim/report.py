"""What came of slimming a model: one report for people, for programs, and as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechprune.checksums import write_json
from speechprune.decoding.inference import Evaluation
from speechprune.figures import grouped_bars
from speechprune.files import write_atomically
from speechprune.reports.stages import (
    markdown_table,
    plain_values,
    rates,
    stages_table,
    titles,
)
from speechprune.rewriting.slimming import CutReport
from speechprune.training.workflow import JSON

MARKDOWN = "report.md"
FIGURE = "report.png"
LAYERS_FIGURE = "layers.png"


@dataclass(frozen=True)
class Stage:
    """A model on the way.

    Attributes:
        evaluations: by split.
        multiply_adds: of its encoder, for 10 s of audio.
        size: of its file, in bytes.
    """

    evaluations: Mapping[str, Evaluation]
    multiply_adds: int
    size: int


@dataclass(frozen=True)
class Report:
    """What each step of slimming gave.

    Attributes:
        amounts: how much was to go, in words.
        cut: what stayed of each layer.
        stages: the models on the way, in order; the splits of each begin with that of validation.
        results: what may be the slim model, by stage, within the report's folder.
        averaged: the checkpoints behind an average, as it remembers them.
        training: updates and seed of what was trained, in words.
    """

    amounts: str
    cut: CutReport
    stages: Mapping[str, Stage]
    results: Mapping[str, Path]
    averaged: Sequence[Mapping[str, Any]]
    training: str

    def save(self, folder: Path) -> None:
        """Write ``report.png``, ``layers.png``, ``report.md`` and ``report.json``.

        Raises:
            UserError: a file cannot be written.
        """
        self._draw(folder)
        write_atomically(folder / MARKDOWN, self.in_words().encode())
        write_json(folder / JSON, self.describe())

    @property
    def splits(self) -> list[str]:
        """The names of the splits, that of validation first."""
        return list(next(iter(self.stages.values())).evaluations)

    @property
    def best(self) -> str:
        """The result with the fewest character errors on the validation split; of equals the
        first."""
        valid = self.splits[0]
        errors = {n: self.stages[n].evaluations[valid].characters.rate for n in self.results}
        return min(errors, key=errors.__getitem__)

    def describe(self) -> dict[str, Any]:
        """To read by program; rates are shares, not percent."""
        return {
            "amounts": self.amounts,
            "checkpoint": str(self.results[self.best]),
            "stage": self.best,
            "averaged": list(self.averaged),
            "kept": self.cut.describe(),
            "costs": {
                name: {"multiply_adds": stage.multiply_adds, "bytes": stage.size}
                for name, stage in self.stages.items()
            },
            "evaluations": {
                split: {
                    name: plain_values(stage.evaluations[split])
                    for name, stage in self.stages.items()
                }
                for split in self.splits
            },
        }

    def in_words(self) -> str:
        """In Markdown."""
        parts = [
            f"# Slimmed: {self.amounts}",
            f"The slim model: `{self.results[self.best]}` ({self.best}). {self._share()}",
            markdown_table(self._costs()),
        ]
        for split in self.splits:
            evaluations = {name: stage.evaluations[split] for name, stage in self.stages.items()}
            parts += [f"## On {split}", markdown_table(stages_table(evaluations))]
        parts += [
            f"![Error rates]({FIGURE})",
            "## What each layer keeps",
            markdown_table(self.cut.rows),
            f"![What each layer keeps]({LAYERS_FIGURE})",
        ]
        return "\n\n".join(parts) + "\n"

    def _share(self) -> str:
        kept, whole = self.cut.parameters, self.cut.parameters_before
        return f"{kept:,} of {whole:,} parameters of the encoder stay ({kept / whole:.1%})."

    def _costs(self) -> list[list[str]]:
        rows = [["", "multiply-adds for 10 s", "MB"]]
        rows += [
            [name, f"{stage.multiply_adds / 1e9:.3g} G", f"{stage.size / 1e6:.1f}"]
            for name, stage in self.stages.items()
        ]
        return rows

    def _draw(self, folder: Path) -> None:
        """Error rates at each stage on the last split, and what each layer keeps."""
        split = self.splits[-1]
        found = [stage.evaluations[split] for stage in self.stages.values()]
        series = {
            title: [100 * rates(each)[rate] for each in found]
            for rate, title in titles(found[0]).items()
        }
        what = f"{self.amounts}, {self.training}"
        grouped_bars(list(self.stages), series, folder / FIGURE, f"Error rates on {split}: {what}")
        layers = self.cut.layers
        shares = {
            "heads %": [100 * layer.heads / layer.heads_before for layer in layers],
            "channels %": [100 * layer.channels / layer.channels_before for layer in layers],
        }
        names = [str(layer.layer) for layer in layers]
        grouped_bars(names, shares, folder / LAYERS_FIGURE, f"Kept of each layer: {what}")
