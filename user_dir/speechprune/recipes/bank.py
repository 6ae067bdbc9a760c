"""Train many languages and tasks on one model, and keep their masks in one bank, with one report.

Source: the second use of S3-Router (Fu et al., NeurIPS 2022, arXiv 2211.01522).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from speechprune.bank.bank import Bank, add_task, remove_task
from speechprune.bank.task import LABELS, ErrorRate
from speechprune.checkpoint import digest
from speechprune.checksums import read_json
from speechprune.errors import UserError
from speechprune.files import check_folder
from speechprune.intervals import training_in_words
from speechprune.made_with import SETTINGS, claim
from speechprune.manifests.audio import SAMPLE_RATE
from speechprune.manifests.check import check_split, read_recordings
from speechprune.manifests.classes import read_labelled_split
from speechprune.manifests.rows import check_split_name
from speechprune.manifests.split_files import split_digest
from speechprune.recipes.adapting import MASKS
from speechprune.recipes.bank_report import Report, TaskResult
from speechprune.recipes.tasks import TaskSetting
from speechprune.reports.bank import BankReport
from speechprune.reports.runs import (
    RunEvaluation,
    checkpoint_path,
    evaluate_checkpoint,
)
from speechprune.rewriting.banking import create
from speechprune.rewriting.task_of_checkpoint import rate_of, task_of
from speechprune.training.preflight import check_base
from speechprune.training.rehearsal import rehearse
from speechprune.training.rounds import Tell, finish_all
from speechprune.training.run import TrainingRun
from speechprune.training.workflow import Workflow

#: The file of the bank, in the folder of everything.
BANK = "tasks.bank"
#: The checkpoint that counts: the best in validation.
_WHICH = "best"
#: How the data of a task are called among the settings of the folder.
_DATA_OF = "data of "


class BankTraining(Workflow):
    """Train all tasks by each method, add their masks to a bank, and evaluate, in a folder.

    Interrupted, it goes on where it was; with more tasks or methods, those are added.

    Attributes:
        out: folder of everything.
        setting: what is trained.
        test: the split to evaluate on.
        jobs: tasks that train at a time.
    """

    def __init__(self, setting: TaskSetting, test: str = "test", jobs: int = 1) -> None:
        self.out = setting.out
        self.setting = setting
        self.test = test
        self.jobs = jobs
        #: The trainings of the tasks that were checked, by method.
        self._tasks: dict[str, Mapping[str, TrainingRun]] = {}
        #: Kinds of outputs with the methods whose settings were checked.
        self._rehearsed: set[tuple[str, str]] = set()

    @property
    def bank(self) -> Path:
        """The file with the masks of all tasks."""
        return self.out / BANK

    def is_done(self) -> bool:
        """Never: each step knows by itself what is left of it, and there may be further tasks."""
        return False

    # --- before anything is trained --------------------------------------------------------------

    def check(self) -> None:
        """Refuse at once what a later step would refuse."""
        self.setting.refuse_own_keys()
        for split in self._splits:
            check_split_name(split)
        if self.test in self.setting.splits:
            raise UserError(
                f"--test {self.test} is also a split to train or to choose checkpoints on; error "
                "rates look better there than they are"
            )
        check_folder(self.out)
        self._check_bank()
        for task in self.setting.tasks:
            try:
                self._tasks[task] = self._checked(task)
            except UserError as error:
                raise UserError(f"the task {task}: {error}") from error

    @property
    def _splits(self) -> tuple[str, ...]:
        return (*self.setting.splits, self.test)

    def _check_bank(self) -> None:
        """Raise UserError for a damaged bank, or one with tasks that nobody asks for."""
        others = set(Bank(self.bank).names) - set(self.setting.tasks) if self.bank.exists() else ()
        if others:
            raise UserError(
                f"{self.bank} holds {', '.join(sorted(others))} too; give --task for each, or take "
                "them out with `speechprune bank remove`"
            )

    def _checked(self, task: str) -> Mapping[str, TrainingRun]:
        runs, data = self.setting.runs(task), self.setting.tasks[task]
        rate = SAMPLE_RATE
        for method, run in runs.items():
            # All methods hear the same data, and tasks of a kind have the same settings.
            if method != MASKS and (data.kind, method) in self._rehearsed:
                continue
            words = ["--config-name", run.config, f"optimization.max_update={run.updates}"]
            cfg = rehearse([*words, *run.overrides], data=method == MASKS)
            check_base(cfg)
            _refuse_no_best(cfg)
            self._rehearsed.add((data.kind, method))
            rate = cfg.task.sample_rate
        labels = None if data.kind == LABELS else data.labels
        check_split(data.folder, self.test, labels, sample_rate=rate, closed=False)
        if labels is None:
            read_labelled_split(data.folder, self.test)
        return runs

    def claim(self) -> None:
        """Note what the folder is of; refuse one of other settings."""
        setting = self.setting
        shared: dict[str, Any] = {
            "model": digest(setting.model),
            "config": setting.config,
            "labels config": setting.labels_config,
            "updates": setting.updates,
            "sparsity": setting.sparsity,
            "attention": setting.attention,
            # Folders of earlier versions do not tell.
            "norms": setting.norms or None,
            "learning rates": dict(setting.learning_rates),
            "splits": list(self._splits),
            "seed": setting.seed,
            "overrides": list(setting.overrides),
        }
        data = {
            f"{_DATA_OF}{task}": {split: self._digest(task, split) for split in self._splits}
            for task in setting.tasks
        }
        path = self.out / SETTINGS
        found = read_json(path) if path.exists() else {}
        known = {key: value for key, value in found.items() if key.startswith(_DATA_OF)}
        begun = any(run.is_begun for runs in self._tasks.values() for run in runs.values())
        # Until something was trained, all may be corrected; later, tasks may still be added.
        may_change = {*shared, *data} if not begun else data.keys() - known.keys()
        claim(self.out, {**shared, **known, **data}, may_change)

    def _digest(self, task: str, split: str) -> str:
        data = self.setting.tasks[task]
        return split_digest(data.folder, split, data.labels)

    # --- training, and what comes of it ----------------------------------------------------------

    def work(self, tell: Tell) -> None:
        if not self.bank.exists():
            create(self.setting.model, self.bank)
        plans = [list(runs.values()) for runs in self._tasks.values()]
        finish_all(plans, jobs=self.jobs, tell=tell)
        tell(f"evaluation on {self.test}")
        results = [self._result(task, tell) for task in self._tasks]
        tell(f"masks into {self.bank}")
        for result in results:
            self._keep(result)
        report = BankReport.of(Bank(self.bank))
        Report(results, report, BANK, self.test, self._training()).save(self.out)

    def _training(self) -> str:
        """Seed and updates of the trainings."""
        updates = [run.updates for runs in self._tasks.values() for run in runs.values()]
        return training_in_words(updates, [self.setting.seed])

    def _result(self, task: str, tell: Tell) -> TaskResult:
        data = self.setting.tasks[task]
        evaluations: dict[str, RunEvaluation] = {}
        for method, run in self._tasks[task].items():
            _best_of(run)
            evaluations[method], note = evaluate_checkpoint(
                run.folder,
                _WHICH,
                data.folder,
                self.test,
                self._digest(task, self.test),
            )
            if note is not None:
                tell(note)
        utterances = {
            split: len(read_recordings(data.folder / f"{split}.tsv")[1]) for split in self._splits
        }
        return TaskResult(task, data.folder, data.kind, utterances, evaluations)

    def _keep(self, result: TaskResult) -> None:
        """See to it that the bank has the masks of a task and its error rate, as they are now."""
        checkpoint = _best_of(self._tasks[result.name][MASKS])
        percent = 100 * result.evaluations[MASKS].wer
        rate = ErrorRate(percent, rate_of(result.kind), self.test).describe()
        bank = Bank(self.bank)
        if result.name in bank.names:
            about = bank.about(result.name)
            if (about.get("source"), about.get("error_rate")) == (digest(checkpoint), rate):
                return
            bank = remove_task(self.bank, result.name)
        task = task_of(bank, result.name, checkpoint)
        add_task(self.bank, replace(task, about={**task.about, "error_rate": rate}), bank.digest)


def _best_of(run: TrainingRun) -> Path:
    """The best checkpoint of a finished run; raises UserError if it is missing."""
    path = checkpoint_path(run.folder, _WHICH)
    if not path.exists():
        raise UserError(f"{path} is missing; remove {run.folder} to train anew")
    return path


def _refuse_no_best(cfg: DictConfig) -> None:
    """Raise UserError for settings under which no checkpoint is the best."""
    dataset, settings = cfg.dataset, cfg.checkpoint
    for is_wrong, setting in (
        (dataset.disable_validation, "dataset.disable_validation=true"),
        (
            dataset.validate_after_updates > cfg.optimization.max_update,
            f"dataset.validate_after_updates={dataset.validate_after_updates}",
        ),
        (settings.no_save, "checkpoint.no_save=true"),
    ):
        if is_wrong:
            raise UserError(
                f"{setting} leaves no best checkpoint in {cfg.optimization.max_update} updates; "
                "leave it out"
            )
