"""The trainings behind a slim model, and the files between them; each is made once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from omegaconf import DictConfig

from speechprune.backbones import find_backbone
from speechprune.checkpoint import read
from speechprune.checksums import read_json, write_json
from speechprune.files import make_folder
from speechprune.models.declaration import SLIM_FLAGS, declared
from speechprune.models.loading import load_encoder
from speechprune.models.names import GATES, PRUNED, SLIM
from speechprune.models.slim_flags import check_whole_layers, target_of
from speechprune.rewriting.averaging import average
from speechprune.rewriting.encoder import export_encoder
from speechprune.rewriting.slimming import CutReport, apply
from speechprune.state_names import is_finetuned
from speechprune.training.finetuning import Finetuning
from speechprune.training.overrides import key_of, quoted, refuse_early_ends, refuse_own
from speechprune.training.preflight import check_outputs
from speechprune.training.rehearsal import rehearse
from speechprune.training.run import TrainingRun

#: What the pipeline says to training itself, and what to use in place of an override.
OWN = {
    "checkpoint.finetune_from_model": "leave it out",
    "checkpoint.keep_best_checkpoints": "leave it out",
    "checkpoint.keep_interval_updates": "leave it out",
    "checkpoint.restore_file": "leave it out",
    "checkpoint.save_dir": "use --out",
    "checkpoint.save_interval_updates": "leave it out",
    "dataset.train_subset": "use --train",
    "dataset.valid_subset": "use --valid",
    "dataset.validate_interval_updates": "leave it out",
    "hydra.run.dir": "use --out",
    "model._name": "leave it out",
    "model.criterion": "use --criterion",
    "model.ffn_sparsity": "use --ffn",
    "model.head_sparsity": "use --heads",
    "model.keep_macs": "use --keep-macs",
    "model.keep_parameters": "use --keep-parameters",
    "model.slim_scope": "use --scope",
    "model.w2v_path": "leave it out",
    "optimization.max_update": "use --updates",
    "task.data": "use --data",
}


@dataclass(frozen=True)
class Amounts:
    """How much of a model goes, and by which rule.

    Attributes:
        ffn, heads: shares removed.
        keep_parameters, keep_macs: in their place, shares kept of the encoder's cost.
        criterion, scope: as the settings of training call them.
    """

    ffn: float = 0.0
    heads: float = 0.0
    keep_parameters: float | None = None
    keep_macs: float | None = None
    criterion: str = "snip_momentum"
    scope: str = "local"

    @property
    def by_gates(self) -> bool:
        """Whether gates are learned, and no scores taken."""
        return self.criterion == GATES

    @property
    def overrides(self) -> tuple[str, ...]:
        """As settings of training."""
        budgets = {"keep_parameters": self.keep_parameters, "keep_macs": self.keep_macs}
        return (
            f"model.ffn_sparsity={self.ffn!r}",
            f"model.head_sparsity={self.heads!r}",
            *(f"model.{key}={value!r}" for key, value in budgets.items() if value is not None),
            f"model.criterion={self.criterion}",
            f"model.slim_scope={self.scope}",
        )

    def in_words(self) -> str:
        """For people."""
        for kept, of in ((self.keep_parameters, "parameters"), (self.keep_macs, "multiply-adds")):
            if kept is not None and self.by_gates:
                return f"gates that aimed at {100 * kept:g} % of the encoder's {of}"
            if kept is not None:
                return f"{100 * kept:g} % of the encoder's {of} kept, by {self.criterion}"
        return (
            f"{100 * self.ffn:g} % of the channels and {100 * self.heads:g} % of the heads "
            f"removed, by {self.criterion} ({self.scope})"
        )


@dataclass(frozen=True)
class Slimming:
    """A checkpoint that is pruned while it is finetuned, cut, and perhaps finetuned again.

    Attributes:
        folder: of all files.
        checkpoint: pretrained or finetuned.
        amounts: how much goes.
        finetuning: settings of both trainings, but for the number of updates of the second.
        then_updates: of the second training; 0 for none.
        multiple_of: what the channels of a layer are to be a multiple of.
    """

    folder: Path
    checkpoint: Path
    amounts: Amounts
    finetuning: Finetuning
    then_updates: int = 0
    multiple_of: int = 1

    @property
    def whole_encoder(self) -> Path:
        """The encoder that training begins with."""
        is_whole = is_finetuned(read(self.checkpoint, mmap=True)["model"])
        return self.folder / "encoder.pt" if is_whole else self.checkpoint

    @property
    def slim(self) -> Path:
        """The last checkpoint of pruning, cut."""
        return self.folder / "slim.pt"

    @property
    def slim_average(self) -> Path:
        """The mean of several checkpoints of pruning, cut."""
        return self.folder / "slim_average.pt"

    @property
    def averaged(self) -> Path:
        """The mean of several checkpoints of the last training."""
        run = self.finetuning_run if self.then_updates else self.pruning
        return run.folder / "checkpoints" / "checkpoint_average.pt"

    @property
    def results(self) -> dict[str, Path]:
        """What may be the slim model, by stage, in order."""
        cut = {"pruned and cut": self.slim}
        if not self.then_updates:
            return {**cut, "averaged and cut": self.slim_average}
        return {**cut, "finetuned": self.finetuning_run.checkpoint, "averaged": self.averaged}

    # --- pruning -------------------------------------------------------------------------------

    @property
    def pruning(self) -> TrainingRun:
        """Finetuning, while heads and channels go; `prepare` makes what it needs."""
        return TrainingRun(
            "pruning while finetuning",
            self.folder / "pruning",
            self.finetuning.config,
            self._settings(self.whole_encoder),
            self.finetuning.updates,
            (self.whole_encoder,),
        )

    def _settings(self, encoder: Path) -> tuple[str, ...]:
        start = (
            (f"checkpoint.finetune_from_model={_path(self.checkpoint)}",)
            if encoder != self.checkpoint
            else ()
        )
        return (
            *self.finetuning.settings,
            f"model.w2v_path={_path(encoder)}",
            *start,
            f"model._name={SLIM}",
            *self.amounts.overrides,
            *self.finetuning.overrides,
        )

    @cached_property
    def _cfg(self) -> DictConfig:
        """The settings of pruning; UserError for what training would refuse of them and of data."""
        refuse_early_ends(self.finetuning.overrides, "slim auto")
        refuse_own(self.finetuning.overrides, OWN, "slim auto", OWN)
        # The encoder is written in `prepare`; what it says is in the checkpoint.
        return rehearse(
            [
                *("--config-name", self.finetuning.config),
                *self._settings(self.whole_encoder),
                f"optimization.max_update={self.finetuning.updates}",
            ]
        )

    @property
    def labels(self) -> str:
        """The ending of the label files that training reads."""
        return str(self._cfg.task.labels)

    def rehearse(self) -> None:
        """Raise UserError for what one of the trainings would refuse later."""
        model = self._cfg.model
        encoder = load_encoder(self.checkpoint)
        check_whole_layers(model, len(find_backbone(encoder).layers(encoder)))
        target_of(model, find_backbone(encoder).units(encoder), encoder)
        state = read(self.checkpoint, mmap=True)
        check_outputs(self._cfg, self.checkpoint, state, goes_on=False)

    def prepare(self) -> None:
        """Write the encoder of a finetuned checkpoint, unless it is there.

        Raises:
            UserError: the checkpoint cannot be read, or is of no known model.
        """
        make_folder(self.folder)
        if not self.whole_encoder.exists():
            export_encoder(self.checkpoint, self.whole_encoder)

    def cut(self) -> CutReport:
        """Cut what training removed out of its last checkpoint and out of the average of several,
        unless that is done.

        Raises:
            UserError: as `average` and `apply`.
        """
        facts = self.folder / "slim.json"
        if not facts.exists():
            self._average(self.pruning)
            average_of_run = self.pruning.checkpoint.with_name("checkpoint_average.pt")
            apply(average_of_run, self.slim_average, multiple_of=self.multiple_of)
            report = apply(self.pruning.checkpoint, self.slim, multiple_of=self.multiple_of)
            write_json(facts, report.describe())
        return CutReport.of(read_json(facts))

    def _average(self, run: TrainingRun) -> None:
        """Average the checkpoints of a run, unless that is done; the others are removed then."""
        folder = run.folder / "checkpoints"
        if not (folder / "checkpoint_average.pt").exists():
            average(run.folder, num=self.finetuning.average, by=self.finetuning.average_by)
        for path in sorted(folder.glob("checkpoint_[0-9]*_[0-9]*.pt")):
            path.unlink()

    # --- finetuning what was cut ---------------------------------------------------------------

    @property
    def slim_encoder(self) -> Path:
        """The encoder that the second training begins with."""
        return self.folder / "slim_encoder.pt"

    @property
    def finetuning_run(self) -> TrainingRun:
        """Finetuning of the slim model; `prepare_finetuning` makes what it needs."""
        finetuning = replace(self.finetuning, updates=self.then_updates)
        overrides = (
            *finetuning.settings,
            f"model.w2v_path={_path(self.slim_encoder)}",
            f"checkpoint.finetune_from_model={_path(self.slim)}",
            f"model._name={PRUNED}",
            *_read_by(PRUNED, finetuning.overrides),
        )
        return TrainingRun(
            "finetuning the slim model",
            self.folder / "finetuned",
            finetuning.config,
            overrides,
            self.then_updates,
            (self.slim, self.slim_encoder),
        )

    def prepare_finetuning(self) -> None:
        """Write the encoder of the slim model, unless it is there."""
        if not self.slim_encoder.exists():
            export_encoder(self.slim, self.slim_encoder)

    def finish(self) -> None:
        """Average the checkpoints of the finished finetuning, unless that is done."""
        self._average(self.finetuning_run)


def _read_by(name: str, overrides: Sequence[str]) -> tuple[str, ...]:
    """The overrides without those of slimming that a model does not read."""
    of_slimming = declared(SLIM).reads - declared(name).reads | SLIM_FLAGS
    unread = {f"model.{flag}" for flag in of_slimming}
    return tuple(override for override in overrides if key_of(override) not in unread)


def _path(path: Path) -> str:
    return quoted(str(path.resolve()))
