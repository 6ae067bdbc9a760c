"""What came of training many tasks on one model: a report for people, for programs, as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from speechprune.bank.task import LABELS, LETTERS
from speechprune.checksums import write_json
from speechprune.figures import grouped_bars
from speechprune.files import write_atomically
from speechprune.recipes.adapting import ALL_WEIGHTS, HEAD_ALONE, MASKS
from speechprune.reports.bank import FORMULA, BankReport
from speechprune.reports.runs import RunEvaluation
from speechprune.reports.stages import markdown_table
from speechprune.rewriting.task_of_checkpoint import rate_of
from speechprune.training.workflow import JSON

MARKDOWN = "report.md"
FIGURE = "report.png"

_TITLES = {MASKS: "masks", HEAD_ALONE: "head alone", ALL_WEIGHTS: "weights finetuned"}
#: What the paper saves, and at how many languages.
_PUBLISHED, _LANGUAGES = 0.885, 11
_SOURCE = "Fu et al., NeurIPS 2022, arXiv 2211.01522"


@dataclass(frozen=True)
class TaskResult:
    """A task, and what each method gave on the test split.

    Attributes:
        data: folder of manifests.
        kind: of its outputs: letters, units or labels.
        utterances: of each split.
        evaluations: by the names of methods.
    """

    name: str
    data: Path
    kind: str
    utterances: Mapping[str, int]
    evaluations: Mapping[str, RunEvaluation]

    @property
    def rate(self) -> str:
        """What its error rate counts."""
        return "1 - accuracy" if self.kind == LABELS else rate_of(self.kind)

    def error(self, method: str) -> float:
        """The share of errors by a method."""
        return self.evaluations[method].wer

    def describe(self) -> dict[str, Any]:
        """As JSON can hold it; rates are shares, not percent."""
        return {
            "name": self.name,
            "data": str(self.data),
            "kind": self.kind,
            "rate": self.rate,
            "utterances": dict(self.utterances),
            "errors": {method: self.error(method) for method in self.evaluations},
            "character_errors": {
                method: found.cer
                for method, found in self.evaluations.items()
                if self.kind == LETTERS
            },
            "density": self.evaluations[MASKS].density,
        }

    def error_in_words(self, method: str) -> str:
        """The percentage of errors by a method; of letters, of characters too."""
        words = f"{100 * self.error(method):.2f}"
        characters = f" ({100 * self.evaluations[method].cer:.2f})"
        return words + characters if self.kind == LETTERS else words


@dataclass(frozen=True)
class Report:
    """What training gave, task by task, and what the bank takes.

    Attributes:
        tasks: in order, all evaluated by the same methods.
        bank: which has the same tasks.
        path: of the bank, within the report's folder.
        test: the split of the error rates.
        training: seed and updates of the trainings, in words.
    """

    tasks: Sequence[TaskResult]
    bank: BankReport
    path: str
    test: str
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
    def methods(self) -> list[str]:
        """The names of the methods, masks first."""
        return list(self.tasks[0].evaluations)

    @property
    def means(self) -> dict[str, float]:
        """The mean of all tasks' errors, by method."""
        return {m: fmean(task.error(m) for task in self.tasks) for m in self.methods}

    def describe(self) -> dict[str, Any]:
        """To read by program; rates are shares, not percent."""
        return {
            "bank": self.path,
            "test": self.test,
            "tasks": [task.describe() for task in self.tasks],
            "means": self.means,
            "sizes": self.bank.describe(),
            "share_of_a_task": self.bank.share,
            "saving_at": {str(n): self.bank.saving_at(n) for n in (len(self.tasks), _LANGUAGES)},
            "published": {"saving": _PUBLISHED, "languages": _LANGUAGES, "source": _SOURCE},
        }

    def in_words(self) -> str:
        """In Markdown."""
        tasks = _count(len(self.tasks), "task")
        parts = [
            f"# {tasks} on one model",
            f"Errors in % on {self.test}; those of characters, where there are words, are in "
            "brackets. Checkpoints are the best in validation.",
            markdown_table(self._rows()),
            f"![Errors in % on {self.test}]({FIGURE})",
            "## Bytes",
            markdown_table(self._sizes()),
            *self._savings(),
        ]
        return "\n\n".join(parts) + "\n"

    def _rows(self) -> list[list[str]]:
        titles = [_TITLES[method] for method in self.methods]
        sizes = {task.name: task for task in self.bank.tasks}
        train = next(iter(self.tasks[0].utterances))
        rows = [["task", train, self.test, "error", *titles, "density", "mask bytes", "own bytes"]]
        for task in self.tasks:
            own = sizes[task.name]
            rows.append(
                [
                    task.name,
                    *(f"{task.utterances[split]:,}" for split in (train, self.test)),
                    f"{task.rate} (CER)" if task.kind == LETTERS else task.rate,
                    *map(task.error_in_words, self.methods),
                    f"{own.density:.4f}",
                    f"{own.mask_bytes:,}",
                    f"{own.own_bytes:,}",
                ]
            )
        means = [f"{100 * mean:.2f}" for mean in self.means.values()]
        return [*rows, ["mean", "", "", "", *means, "", "", ""]]

    def _sizes(self) -> list[list[str]]:
        bank, count = self.bank, len(self.tasks)
        return [
            ["", "bytes"],
            ["shared model", f"{bank.base_bytes:,}"],
            [_count(count, "task"), f"{bank.task_bytes:,}"],
            [f"bank, `{self.path}`", f"{bank.file_bytes:,}"],
            [_count(count, "separate model"), f"{bank.separate_bytes:,}"],
        ]

    def _savings(self) -> list[str]:
        """The saving by the formulas, with their numbers put in."""
        bank, count = self.bank, len(self.tasks)
        saving, share = bank.saving, bank.share
        assert saving is not None and share is not None
        heads = bank.separate_bytes - count * bank.base_bytes
        at = " and ".join(
            f"{100 * bank.saving_at(each):.1f} % for T = {each}"
            for each in dict.fromkeys((count, _LANGUAGES))
        )
        return [
            f"The bank saves {FORMULA} = 1 - {bank.file_bytes:,} / ({count} x {bank.base_bytes:,} "
            f"+ {heads:,}) = {100 * saving:.1f} %.",
            f"A task takes x = {share:.4f} of the bytes of the model. T such tasks save 1 - "
            f"(1 + T x) / T: {at}. The paper's own figure, for its models, is "
            f"{100 * _PUBLISHED:.1f} % fewer parameters at {_LANGUAGES} languages ({_SOURCE}).",
        ]

    def _draw(self, path: Path) -> None:
        groups = [f"{task.name}\n{task.rate}" for task in self.tasks]
        series = {
            _TITLES[method]: [100 * task.error(method) for task in self.tasks]
            for method in self.methods
        }
        grouped_bars(groups, series, path, f"Errors in % on {self.test}; {self.training}")


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
