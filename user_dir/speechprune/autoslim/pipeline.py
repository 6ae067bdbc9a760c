"""From a checkpoint to a slim one: every step, each done once, and one report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from speechprune import __version__
from speechprune.autoslim.report import Report, Stage
from speechprune.autoslim.training import Amounts, Slimming
from speechprune.backbones.cost import encoder_cost
from speechprune.checkpoint import digest, read
from speechprune.checkpoint.file import PROVENANCE
from speechprune.checkpoint.finetuned import listening
from speechprune.checkpoint.settings import seed_of
from speechprune.checkpoint.slimming import refuse_uncut
from speechprune.checkpoint.text import refuse_text
from speechprune.decoding.inference import Evaluation, evaluate, read_references
from speechprune.dropping.verification import refuse_test
from speechprune.errors import UserError
from speechprune.files import check_folder
from speechprune.intervals import training_in_words
from speechprune.made_with import claim
from speechprune.manifests.check import check_split
from speechprune.manifests.split_files import split_digest
from speechprune.models.loading import load_recogniser
from speechprune.models.names import ROBERTA_SLIM
from speechprune.models.sites import encoder_of_model
from speechprune.rewriting.slimming import CutReport
from speechprune.state_names import has_masks, is_finetuned
from speechprune.training.configs import find_config
from speechprune.training.finetuning import Finetuning
from speechprune.training.rounds import Tell, finish_all
from speechprune.training.workflow import Workflow

#: Of what a folder is made of, what concerns training alone.
_OF_TRAINING = ("amounts", "average", "training", "then_updates", "multiple_of")


@dataclass(frozen=True)
class Pipeline(Workflow):
    """Prune heads and channels while finetuning, cut them out, average and evaluate, in a folder.

    Interrupted, it goes on where it was.

    Attributes:
        checkpoint: pretrained, or finetuned without masks.
        amounts: how much goes.
        out: folder of everything.
        finetuning: its settings; models are chosen on its validation split alone.
        test: a split for the last evaluation; none if None.
        then_updates: of finetuning what was cut, besides those while it is pruned.
        multiple_of: what the channels of a layer are to be a multiple of.
        allow_test: take a validation split whose name says test.
    """

    checkpoint: Path
    amounts: Amounts
    out: Path
    finetuning: Finetuning
    test: str | None = None
    then_updates: int = 0
    multiple_of: int = 1
    allow_test: bool = False

    def work(self, tell: Tell) -> None:
        slimming = self._slimming
        tell("pruning heads and channels while finetuning")
        slimming.prepare()
        finish_all([[slimming.pruning]], tell=tell)
        tell("cutting them out")
        report = slimming.cut()
        if self.then_updates:
            tell("finetuning what is left")
            slimming.prepare_finetuning()
            finish_all([[slimming.finetuning_run]], tell=tell)
            slimming.finish()
        tell("evaluation")
        self._report(report).save(self.out)

    @cached_property
    def _slimming(self) -> Slimming:
        return Slimming(
            self.out / "model",
            self.checkpoint,
            self.amounts,
            self.finetuning,
            self.then_updates,
            self.multiple_of,
        )

    @property
    def _splits(self) -> tuple[str, ...]:
        return (self.finetuning.valid, *([self.test] if self.test else []))

    @cached_property
    def _is_finetuned(self) -> bool:
        return is_finetuned(read(self.checkpoint, mmap=True)["model"])

    def check(self) -> None:
        """Refuse at once what a later step would refuse."""
        refuse_text(
            self.checkpoint,
            f"`slim auto` finetunes models of speech alone: train model._name={ROBERTA_SLIM}, and "
            "cut what it removes out with `slim apply`",
        )
        tensors = read(self.checkpoint, mmap=True)["model"]
        refuse_uncut(self.checkpoint, tensors, "which another choice would let grow again")
        if has_masks(tensors):
            raise UserError(
                f"{self.checkpoint} has masks, but all weights train while heads and channels go; "
                "slim first, and mask the slim model then, or bake the masks in with `speechprune "
                "masks fold`"
            )
        check_folder(self.out)
        refuse_test(self.finetuning.valid, self.allow_test)
        self._slimming.rehearse()
        rate = listening(self.checkpoint)[1]
        for split in (self.finetuning.train, *self._splits):
            check_split(
                self.finetuning.data, split, self._slimming.labels, sample_rate=rate, closed=False
            )

    def claim(self) -> None:
        """Note what the folder is of; refuse one of other settings."""
        data, labels = self.finetuning.data, self._slimming.labels
        splits = (self.finetuning.train, *self._splits)
        wanted = {
            "version": __version__,
            "checkpoint": digest(self.checkpoint),
            "splits": {split: split_digest(data, split, labels) for split in splits},
            "amounts": list(self.amounts.overrides),
            "average": [self.finetuning.average, self.finetuning.average_by],
            "then_updates": self.then_updates,
            "multiple_of": self.multiple_of,
            "training": [
                self.finetuning.config,
                self.finetuning.updates,
                *self.finetuning.overrides,
            ],
        }
        # How to train may still be corrected until something was trained.
        begun = any((self.out / "model" / "pruning" / "checkpoints").glob("*.pt"))
        claim(self.out, wanted, () if begun else _OF_TRAINING)

    def _report(self, cut: CutReport) -> Report:
        whole = {"whole model": self.checkpoint} if self._is_finetuned else {}
        results = self._slimming.results
        return Report(
            amounts=self.amounts.in_words(),
            cut=cut,
            stages={stage: self._stage(path) for stage, path in {**whole, **results}.items()},
            results={stage: path.relative_to(self.out) for stage, path in results.items()},
            averaged=read(self._slimming.averaged, mmap=True)[PROVENANCE]["averaged"],
            training=training_in_words(
                [self.finetuning.updates + self.then_updates],
                [seed_of(read(self._slimming.pruning.checkpoint, mmap=True))],
            ),
        )

    def _stage(self, path: Path) -> Stage:
        data = self.finetuning.data
        loaded = load_recogniser(path, data)
        cost = encoder_cost(encoder_of_model(loaded.model))
        found: Mapping[str, Evaluation] = {
            split: evaluate(loaded, read_references(loaded, data, split)) for split in self._splits
        }
        return Stage(found, cost.multiply_adds, path.stat().st_size)


def pipeline(
    checkpoint: Path,
    out: Path,
    *,
    amounts: Amounts,
    data: Path,
    train: str,
    valid: str,
    test: str | None = None,
    config: str = "finetuning/base_1h",
    updates: int | None = None,
    then_updates: int | None = None,
    multiple_of: int = 1,
    num: int = 10,
    average_by: str = "valid",
    allow_test: bool = False,
    overrides: tuple[str, ...] = (),
) -> Pipeline:
    """A `Pipeline` of plain settings, as `speechprune slim auto` takes them.

    Gates leave values between 0 and 1 to be folded, after which as many updates follow; scores do
    not, and no updates follow by default.

    Raises:
        UserError: no such config.
    """
    yaml: Any = OmegaConf.load(find_config(config))
    updates = updates or int(yaml.optimization.max_update)
    if then_updates is None:
        then_updates = updates if amounts.by_gates else 0
    finetuning = Finetuning(data, train, valid, config, updates, overrides, num, average_by)
    return Pipeline(
        checkpoint, amounts, out, finetuning, test, then_updates, multiple_of, allow_test
    )
