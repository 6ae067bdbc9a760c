"""Many languages and tasks on one model: for each, a mask with a head, a head alone, and weights.

Source: the second use of S3-Router (Fu et al., NeurIPS 2022, arXiv 2211.01522).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from speechprune.bank.task import LABELS, LETTERS, UNITS, check_name
from speechprune.errors import UserError
from speechprune.manifests.dictionary import dictionary_name, read_dictionary
from speechprune.manifests.label_files import CLASSES, chosen_endings
from speechprune.manifests.spelling import WORD_END
from speechprune.masking.densities import check_sparsity
from speechprune.models.names import LABELS as LABELS_MODEL
from speechprune.models.names import LABELS_ROUTER, ROUTER, WEIGHTS
from speechprune.recipes.adapting import (
    ALL_WEIGHTS,
    HEAD_ALONE,
    MASKS,
    Method,
    all_weights,
    connections,
    head_alone,
)
from speechprune.recipes.setting import DEFAULT_SEED, path_value
from speechprune.registry import unknown_name
from speechprune.training.configs import find_config
from speechprune.training.overrides import key_of, refuse_early_ends, refuse_own
from speechprune.training.run import TrainingRun

#: The ways to adapt the model, in the order of tables.
METHODS = (MASKS, HEAD_ALONE, ALL_WEIGHTS)
#: Which value of validation chooses the best checkpoint, by the kind of the outputs: the one that
#: `speechprune evaluate` prints.
_YARDSTICKS = {LETTERS: ("wer", False), UNITS: ("uer", False), LABELS: ("accuracy", True)}
#: What some trainings set and others leave to overrides.
_LEFT_TO_SOME = {"model.freeze_finetune_updates", "optimization.lr"}
#: What to use in place of an override.
_OPTIONS = {
    "checkpoint.best_checkpoint_metric": "checkpoints are chosen by what `evaluate` prints",
    "checkpoint.maximize_best_checkpoint_metric": "checkpoints are chosen by what `evaluate` "
    "prints",
    "common.seed": "use --seed",
    "dataset.train_subset": "use --train",
    "dataset.valid_subset": "use --valid",
    "hydra.run.dir": "use --out",
    "model.fix_attn": "use --mask-attention",
    "model.prune_rate": "use --sparsity",
    "model.trainable_bias": "use --train-norms",
    "model.trainable_layer_norm": "use --train-norms",
    "model.w2v_path": "use --model",
    "optimization.lr": "use --masks-learning-rate and the like",
    "optimization.max_update": "use --updates",
    "task.data": "use --task",
    "task.labels": "use --task NAME=DATA:ENDING",
}
#: Seeds of tasks are below this.
_SEEDS = 1 << 31


@dataclass(frozen=True)
class TaskData:
    """What a task is learned from.

    Attributes:
        folder: of manifests.
        labels: the ending of the label files.
    """

    folder: Path
    labels: str

    @classmethod
    def of(cls, text: str) -> TaskData:
        """The data that ``DATA`` or ``DATA:ENDING`` names.

        Raises:
            UserError: there is no such folder, it lacks these labels, or it has several and none is
                chosen.
        """
        path, colon, ending = text.rpartition(":")
        is_chosen = bool(colon) and re.fullmatch(r"\w+", ending) and not Path(text).exists()
        folder = Path(path if is_chosen else text)
        found = chosen_endings(folder, ending if is_chosen else None)
        if len(found) > 1:
            raise UserError(
                f"{folder} has several labels, {', '.join(f'.{each}' for each in found)}; choose "
                f"one, such as {folder}:{found[0]}"
            )
        return cls(folder, found[0])

    @property
    def kind(self) -> str:
        """Of the outputs, as banks call it: letters, units or labels.

        Raises UserError if the dictionary is missing or malformed.
        """
        if self.labels == CLASSES:
            return LABELS
        symbols = read_dictionary(self.folder / dictionary_name(self.labels))[0]
        return LETTERS if WORD_END in symbols else UNITS


def tasks_of(given: Iterable[str]) -> dict[str, TaskData]:
    """Tasks by name, of ``NAME=DATA`` or ``NAME=DATA:ENDING`` each.

    Raises:
        UserError: one is something else, two have one name, or as `TaskData.of`.
    """
    found: dict[str, TaskData] = {}
    for text in given:
        name, equals, data = text.partition("=")
        if not equals or not data:
            raise UserError(f"{text!r} is not a task; give NAME=DATA, such as es=data/es")
        check_name(name)
        if name in found:
            raise UserError(f"two tasks are called {name!r}; choose another name for {data}")
        found[name] = TaskData.of(data)
    return found


def methods_of(names: Sequence[str]) -> tuple[str, ...]:
    """Those of `METHODS` that are named, and masks; raises UserError for an unknown name."""
    for name in names:
        if name not in METHODS:
            raise UserError(unknown_name("method", name, list(METHODS)))
    return tuple(name for name in METHODS if name == MASKS or name in names)


@dataclass(frozen=True)
class TaskSetting:
    """What the trainings of all tasks have in common.

    Attributes:
        out: folder of all runs, ``TASK/METHOD``.
        tasks: what they are learned from, by their names, in order.
        model: pretrained checkpoint.
        config: of tasks that are transcribed, such as ``finetuning/base_1h``.
        labels_config: of tasks with labels of whole utterances, such as ``labels/base``.
        updates: of each training; those of the config if None.
        sparsity: share of the masked weights that is removed, in [0, 1).
        attention: whether attention projections have masks, beside feed-forward weights.
        norms: whether biases and layer norms train beside masks.
        learning_rates: by the names of methods; those of the config if they are not here.
        names: of the methods, see `methods_of`.
        splits: to train on, and to choose checkpoints on.
        overrides: hydra's, for every training.
        seed: of the data order, the heads and the scores, together with the names of tasks.
    """

    out: Path
    tasks: Mapping[str, TaskData]
    model: Path
    config: str = "finetuning/base_1h"
    labels_config: str = "labels/base"
    updates: int | None = None
    sparsity: float = 0.1
    attention: bool = False
    norms: bool = False
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    names: tuple[str, ...] = METHODS
    splits: tuple[str, str] = ("train", "valid")
    overrides: tuple[str, ...] = ()
    seed: int = DEFAULT_SEED

    def __post_init__(self) -> None:
        check_sparsity("sparsity", self.sparsity)
        if not self.tasks:
            raise UserError("which tasks? give --task NAME=DATA, once for each")
        for name in self.tasks:
            check_name(name)

    def methods(self, kind: str) -> tuple[Method, ...]:
        """The ways to adapt the model to outputs of a kind, masks first."""
        router, weights = (LABELS_ROUTER, LABELS_MODEL) if kind == LABELS else (ROUTER, WEIGHTS)
        fixed = f"model.fix_attn={str(not self.attention).lower()}"
        made = (
            connections(round(1.0 - self.sparsity, 12), fixed, model=router, norms=self.norms),
            head_alone(model=weights),
            all_weights(model=weights),
        )
        return tuple(
            replace(each, overrides=(*each.overrides, *self._rate(each)))
            for each in made
            if each.name in self.names
        )

    def _rate(self, method: Method) -> tuple[str, ...]:
        rate = self.learning_rates.get(method.name)
        return () if rate is None else (f"optimization.lr=[{rate!r}]",)

    def runs(self, task: str) -> dict[str, TrainingRun]:
        """The trainings of a task, by the names of methods.

        Raises UserError for an unknown config, or as `TaskData.kind`.
        """
        kind = self.tasks[task].kind
        config = self.labels_config if kind == LABELS else self.config
        found = {}
        for method in self.methods(kind):
            name = f"{task}/{method.name}"
            overrides = (*self._shared(task, kind), *self.overrides, *method.overrides)
            updates = self.updates or _updates_of(config)
            found[method.name] = TrainingRun(name, self.out / name, config, overrides, updates)
        return found

    def _shared(self, task: str, kind: str) -> tuple[str, ...]:
        """Overrides of all trainings of a task."""
        data, (train, valid) = self.tasks[task], self.splits
        metric, maximised = _YARDSTICKS[kind]
        return (
            f"task.data={path_value(data.folder)}",
            *(() if kind == LABELS else (f"task.labels={data.labels}",)),
            f"dataset.train_subset={train}",
            f"dataset.valid_subset={valid}",
            f"model.w2v_path={path_value(self.model)}",
            f"checkpoint.best_checkpoint_metric={metric}",
            f"checkpoint.maximize_best_checkpoint_metric={str(maximised).lower()}",
            f"common.seed={self.seed_of(task)}",
        )

    def refuse_own_keys(self) -> None:
        """Raise UserError for overrides of what the trainings set themselves."""
        refuse_early_ends(self.overrides, "the recipe bank")
        bare = replace(self, overrides=())
        keys = [
            {key_of(override) for override in run.all_overrides}
            for task in self.tasks
            for run in bare.runs(task).values()
        ]
        own = set.union(*keys) - _LEFT_TO_SOME | set.intersection(*keys)
        own |= {"checkpoint.save_dir", "checkpoint.restore_file", "task.target_dictionary"}
        refuse_own(self.overrides, own, "the recipe bank", _OPTIONS)

    def seed_of(self, task: str) -> int:
        """The seed of a task's trainings.

        Each has its own: heads of as many symbols would begin alike, and masks that learned beside
        them would be more alike than languages make them.
        """
        return (self.seed + zlib.crc32(task.encode())) % _SEEDS


def _updates_of(config: str) -> int:
    """The updates of a training by a config as it is."""
    yaml: Any = OmegaConf.load(find_config(config))
    return int(yaml.optimization.max_update)
