"""What came of dropping layers: one report for people, for programs, and as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechprune.checksums import write_json
from speechprune.figures import grouped_bars
from speechprune.files import write_atomically
from speechprune.layers.matrix import SimilarityMatrix
from speechprune.reports.stages import (
    Evaluated,
    markdown_table,
    plain_values,
    rates,
    stages_table,
    titles,
)
from speechprune.training.workflow import JSON

MARKDOWN = "report.md"
FIGURE = "report.png"


@dataclass(frozen=True)
class Report:
    """What each step of dropping layers gave.

    Attributes:
        drop: how many layers went.
        matrices: by measure; their files and figures are beside the report.
        verified: plans, best first, as `VerificationReport.describe` has them, and "layers".
        evaluations: by split and stage.
        results: what may be the smaller model, by stage, within the report's folder.
        averaged: the checkpoints that it is the mean of, as an average remembers them.
        asked: how many of them there were to be.
        training: updates and seed of finetuning, in words.
    """

    drop: int
    matrices: Mapping[str, SimilarityMatrix]
    verified: Mapping[str, Any]
    evaluations: Mapping[str, Mapping[str, Evaluated]]
    results: Mapping[str, Path]
    averaged: Sequence[Mapping[str, Any]]
    asked: int
    training: str

    def save(self, folder: Path) -> None:
        """Write ``report.png``, ``report.md`` and ``report.json``.

        Raises:
            UserError: a file cannot be written.
        """
        self._draw(folder / FIGURE)
        write_atomically(folder / MARKDOWN, self.in_words().encode())
        write_json(folder / JSON, self.describe())

    @property
    def best(self) -> str:
        """The stage that is best on the validation split, the first of equal ones."""
        validated, metric = next(iter(self.evaluations.values())), self.verified["by"]
        return min(self.results, key=lambda stage: rates(validated[stage])[metric])

    def describe(self) -> dict[str, Any]:
        """To read by program; rates are shares, not percent."""
        return {
            "layers": self.verified["layers"],
            "drop": self.verified["plans"][0]["drop"],
            "checkpoint": str(self.results[self.best]),
            "stage": self.best,
            "averaged": list(self.averaged),
            "asked": self.asked,
            "similarity": {
                name: {"file": f"{name}.safetensors", "floor": matrix.floor}
                for name, matrix in self.matrices.items()
            },
            "verified": dict(self.verified),
            "evaluations": {
                split: {stage: plain_values(found) for stage, found in stages.items()}
                for split, stages in self.evaluations.items()
            },
        }

    def in_words(self) -> str:
        """In Markdown."""
        layers, best = self.verified["layers"], self.verified["plans"][0]["drop"]
        parts = [
            f"# {self.drop} of {layers} layers dropped",
            f"Dropped: {_list(best)}. The smaller model: `{self.results[self.best]}`, "
            f"{self._origin()}.",
        ]
        for split, stages in self.evaluations.items():
            parts += [f"## On {split}", markdown_table(stages_table(stages))]
        parts += [f"![Error rates]({FIGURE})", "## Plans", self._plans(), "## Similarity"]
        for name, matrix in self.matrices.items():
            parts += [
                f"{name}; independent data of this size gives {matrix.floor:.4f}.",
                f"![{name}]({name}.png)",
            ]
        return "\n\n".join(parts) + "\n"

    def _origin(self) -> str:
        if self.best == "averaged":
            return self._mean()
        validated = next(iter(self.evaluations))
        return f"the last checkpoint, better on {validated} than {self._mean()}"

    def _mean(self) -> str:
        count = len(self.averaged)
        updates = _list(sorted(each["updates"] for each in self.averaged))
        missing = f"; {self.asked} were asked for" if count < self.asked else ""
        return f"the mean of {count} checkpoints (updates {updates}{missing})"

    def _plans(self) -> str:
        columns = titles(next(iter(self._last.values())))
        rows = [["dropped", *columns.values(), "found by"]]
        for plan in self.verified["plans"]:
            errors = (f"{100 * plan[metric]:.2f}" for metric in columns)
            heard = plan.get("utterances", plan.get("examples"))
            out = f" (stopped after {heard})" if plan["stopped"] else ""
            rows.append([_list(plan["drop"]) + out, *errors, "; ".join(plan["found_by"])])
        return markdown_table(rows)

    @property
    def _last(self) -> Mapping[str, Evaluated]:
        """Each stage on the last split."""
        return list(self.evaluations.values())[-1]

    def _draw(self, path: Path) -> None:
        """Error rates at each stage on the last split."""
        stages, split = self._last, list(self.evaluations)[-1]
        series = {
            title: [100 * rates(found)[metric] for found in stages.values()]
            for metric, title in titles(next(iter(stages.values()))).items()
        }
        title = f"{self.drop} of {self.verified['layers']} layers dropped, {split}; {self.training}"
        grouped_bars(list(stages), series, path, title)


def _list(layers: list[int]) -> str:
    return ", ".join(map(str, layers))
