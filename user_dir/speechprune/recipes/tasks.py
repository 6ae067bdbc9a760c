"""Many languages and tasks on one model: for each, a mask with a head, a head alone, and weights.

Source: the second use of S3-Router (Fu et al., NeurIPS 2022, arXiv 2211.01522).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from speechprune.bank.task import check_name
from speechprune.errors import UserError
from speechprune.masking.densities import check_sparsity
from speechprune.recipes.adapting import Method, all_weights, connections, head_alone
from speechprune.recipes.setting import DEFAULT_SEED, folder_of_seed, path_value
from speechprune.training.run import TrainingRun

#: Seeds of tasks are below this.
_SEEDS = 1 << 31


@dataclass(frozen=True)
class TaskSetting:
    """What the trainings of all tasks have in common.

    Attributes:
        out: folder of all runs, ``TASK/METHOD``; seeds lie there side by side.
        tasks: manifest folders by the names of tasks, in order.
        model: pretrained checkpoint.
        config: of tasks that are transcribed, such as ``finetuning/base_1h``.
        updates: of each training.
        sparsity: share of the masked weights that is removed, in [0, 1).
        attention: whether attention projections have masks, beside feed-forward weights.
        learning_rates: by the names of methods; those of the config if they are not here.
        overrides: hydra's, for every training.
        seed: of the data order, the heads and the scores, together with the names of tasks.
    """

    out: Path
    tasks: Mapping[str, Path]
    model: Path
    config: str
    updates: int
    sparsity: float = 0.1
    attention: bool = False
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    seed: int = DEFAULT_SEED

    def __post_init__(self) -> None:
        check_sparsity("sparsity", self.sparsity)
        if not self.tasks:
            raise UserError("which tasks? give --task NAME=DATA, once for each")
        for name in self.tasks:
            check_name(name)

    def methods(self) -> tuple[Method, ...]:
        """The ways to adapt the model that are compared, masks first."""
        fixed = f"model.fix_attn={str(not self.attention).lower()}"
        keep = round(1.0 - self.sparsity, 12)
        made = (connections(keep, fixed), head_alone(), all_weights())
        return tuple(
            Method(each.name, each.title, (*each.overrides, *self._rate(each))) for each in made
        )

    def _rate(self, method: Method) -> tuple[str, ...]:
        rate = self.learning_rates.get(method.name)
        return () if rate is None else (f"optimization.lr=[{rate!r}]",)

    def runs(self, task: str) -> dict[str, TrainingRun]:
        """The trainings of a task, by the names of methods."""
        shared = (
            f"task.data={path_value(self.tasks[task])}",
            f"model.w2v_path={path_value(self.model)}",
            f"common.seed={self.seed_of(task)}",
            *self.overrides,
        )
        found = {}
        for method in self.methods():
            name = folder_of_seed(f"{task}/{method.name}", self.seed)
            overrides = (*shared, *method.overrides)
            found[method.name] = TrainingRun(
                name, self.out / name, self.config, overrides, self.updates
            )
        return found

    def seed_of(self, task: str) -> int:
        """The seed of a task's trainings.

        Each has its own: heads of as many symbols would begin alike, and masks that learned beside
        them would be more alike than languages make them.
        """
        return (self.seed + zlib.crc32(task.encode())) % _SEEDS
