"""Many languages and tasks on one model: for each, a mask with a head, a head alone, and weights.

Source: the second use of S3-Router (Fu et al., NeurIPS 2022, arXiv 2211.01522).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from speechprune.bank.task import check_name
from speechprune.errors import UserError
from speechprune.masking.densities import check_sparsity
from speechprune.recipes.adapting import Method, all_weights, connections, head_alone
from speechprune.recipes.setting import DEFAULT_SEED, Setting
from speechprune.training.run import TrainingRun


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
        seed: of the data order, the head and the scores.
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
        setting = Setting(
            out=self.out,
            data=self.tasks[task],
            model=self.model,
            config=self.config,
            sparsity=self.sparsity,
            updates=self.updates,
            overrides=self.overrides,
            seed=self.seed,
        )
        return {
            method.name: setting.run(f"{task}/{method.name}", *method.overrides)
            for method in self.methods()
        }
