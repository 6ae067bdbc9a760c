"""How a checkpoint is finetuned by a workflow, so that its saves can be averaged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from speechprune.training.overrides import quoted


@dataclass(frozen=True)
class Finetuning:
    """How a model is finetuned.

    Attributes:
        data: manifest folder.
        train, valid: splits in it.
        config: its name, such as ``finetuning/base_1h``.
        updates: of finetuning.
        overrides: hydra's.
        average: how many checkpoints to average, saved at equal distances.
        average_by: "valid" or "last".
    """

    data: Path
    train: str
    valid: str
    config: str
    updates: int
    overrides: tuple[str, ...] = ()
    average: int = 10
    average_by: str = "valid"

    @property
    def settings(self) -> tuple[str, ...]:
        """Overrides that say how to train, and on what."""
        return (
            f"task.data={quoted(str(self.data.resolve()))}",
            f"dataset.train_subset={self.train}",
            f"dataset.valid_subset={self.valid}",
            *self.saving,
        )

    @property
    def saving(self) -> tuple[str, ...]:
        """Overrides that save and validate twice as often as checkpoints are averaged.

        All are kept until then: of what fairseq keeps as the best, some better ones may be missing.
        """
        every = max(1, self.updates // (2 * self.average))
        kept = -1 if self.average_by == "valid" else self.average
        return (
            f"checkpoint.save_interval_updates={every}",
            "checkpoint.keep_best_checkpoints=0",
            f"checkpoint.keep_interval_updates={kept}",
            f"dataset.validate_interval_updates={every}",
        )
