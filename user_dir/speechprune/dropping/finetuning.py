"""Finetuning what is left of a model after layers went, and averaging what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from speechprune.checkpoint import read
from speechprune.errors import UserError
from speechprune.files import make_folder
from speechprune.layers.plan import LayerPlan
from speechprune.models.declaration import declared
from speechprune.models.mask_flags import SITE_FLAGS
from speechprune.models.names import OF_SPEECH, OF_TEXT, ModelNames, names_beside
from speechprune.rewriting.averaging import average
from speechprune.rewriting.encoder import export_encoder
from speechprune.rewriting.folding import fold
from speechprune.rewriting.layer_dropping import drop_layers
from speechprune.state_names import is_mask, is_text, mask_key
from speechprune.training.configs import ends_by_updates, find_config
from speechprune.training.finetuning import Finetuning
from speechprune.training.overrides import key_of, quoted, value_of
from speechprune.training.preflight import check_outputs
from speechprune.training.rehearsal import rehearse
from speechprune.training.run import TrainingRun


@dataclass(frozen=True)
class SmallerModel:
    """A finetuned checkpoint without some layers, finetuned again; each file is made once.

    Attributes:
        folder: of all files.
        checkpoint: finetuned, with all layers.
    """

    folder: Path
    checkpoint: Path
    plan: LayerPlan
    finetuning: Finetuning

    @property
    def names(self) -> ModelNames:
        """What models are called that it may be finetuned as."""
        return names_for(self.checkpoint)

    @property
    def dropped(self) -> Path:
        """The checkpoint without the layers."""
        return self.folder / "dropped.pt"

    @property
    def encoder(self) -> Path:
        """Its encoder, as training wants to begin with one."""
        return self.folder / "encoder.pt"

    @property
    def averaged(self) -> Path:
        """The result."""
        return self.run.folder / "checkpoints" / "checkpoint_average.pt"

    @property
    def run(self) -> TrainingRun:
        """Finetuning, which can be interrupted; `prepare` makes what it needs."""
        overrides = (
            *self.finetuning.settings,
            *ends_by_updates(self.finetuning.config),
            f"{self.names.pretrained}={quoted(str(self.encoder.resolve()))}",
            f"checkpoint.finetune_from_model={quoted(str(self.dropped.resolve()))}",
            *(
                model_settings(self.dropped, self.finetuning.overrides)
                if self.dropped.exists()
                else ()
            ),
            *self.finetuning.overrides,
        )
        return TrainingRun(
            f"finetuning {len(self.plan.kept)} layers",
            self.folder / "finetuned",
            self.finetuning.config,
            overrides,
            self.finetuning.updates,
            (self.dropped, self.encoder),
        )

    def prepare(self) -> None:
        """Write the smaller checkpoint and its encoder, unless they are there.

        Raises:
            UserError: the checkpoint cannot be read, is not a finetuned model, or is another one.
        """
        make_folder(self.folder)
        if not self.dropped.exists():
            drop_layers(self.checkpoint, self.plan.dropped, self.dropped)
        if not self.encoder.exists():
            # Of text, training begins with the encoder of any plain model.
            export = fold if self.names is OF_TEXT else export_encoder
            export(self.dropped, self.encoder)

    def finish(self) -> Path:
        """Average the checkpoints of the finished run, unless that is done; gives `averaged`.

        What was saved for the average alone is then removed.

        Raises:
            UserError: as `speechprune.rewriting.averaging.average`.
        """
        if not self.averaged.exists():
            average(self.run.folder, num=self.finetuning.average, by=self.finetuning.average_by)
        for path in sorted(self.averaged.parent.glob("checkpoint_[0-9]*_[0-9]*.pt")):
            path.unlink()
        return self.averaged


def names_for(checkpoint: Path) -> ModelNames:
    """What models are called that a finetuned checkpoint may be finetuned as further."""
    return OF_TEXT if is_text(read(checkpoint, mmap=True)["model"]) else OF_SPEECH


def model_settings(checkpoint: Path, overrides: Sequence[str]) -> tuple[str, ...]:
    """Settings of the model as which a checkpoint is finetuned, unless ``overrides`` name one.

    All weights train; under the masks of the checkpoint, if it has some.
    """
    if "model._name" in map(key_of, overrides):
        return ()
    state = read(checkpoint, mmap=True)
    masks = [key for key in state["model"] if is_mask(key)]
    if not masks:
        return (f"model._name={names_for(checkpoint).pruned}",)
    settings: Any = state["cfg"]["model"]
    biases = any(key.endswith(mask_key("bias")) for key in masks)
    name = names_for(checkpoint).fixed_mask
    flags = [flag for flag in SITE_FLAGS if flag in declared(name).reads]
    return (
        f"model._name={name}",
        f"model.mask_file={quoted(str(checkpoint.resolve()))}",
        f"model.prune_biases={str(biases).lower()}",
        *(f"model.{flag}={str(bool(settings[flag])).lower()}" for flag in flags),
    )


def rehearse_finetuning(checkpoint: Path, finetuning: Finetuning, layers: int) -> None:
    """Raise UserError for what finetuning so many layers of a checkpoint would refuse later."""
    config: Any = OmegaConf.load(find_config(finetuning.config))
    if names_beside(str(config.model._name)) is not names_for(checkpoint):
        kind = "text" if names_for(checkpoint) is OF_TEXT else "speech"
        raise UserError(
            f"{checkpoint} is a model of {kind}, which the config {finetuning.config} does not "
            "train; name another by --config-name"
        )
    refuse_unread(checkpoint, finetuning.overrides)
    cfg = rehearse(
        [
            *("--config-name", finetuning.config),
            *finetuning.settings,
            f"{names_for(checkpoint).pretrained}={quoted(str(checkpoint.resolve()))}",
            f"checkpoint.finetune_from_model={quoted(str(checkpoint.resolve()))}",
            f"optimization.max_update={finetuning.updates}",
            *model_settings(checkpoint, finetuning.overrides),
            *finetuning.overrides,
        ]
    )
    declared(cfg.model._name).check_depth(cfg.model, layers)
    check_outputs(cfg, checkpoint, read(checkpoint, mmap=True), goes_on=False)


def refuse_unread(checkpoint: Path, overrides: Sequence[str]) -> None:
    """Raise UserError for settings that the model would not read which ``checkpoint`` becomes."""
    settings = (*model_settings(checkpoint, overrides), *overrides)
    name = {key_of(setting): value_of(setting) for setting in settings}["model._name"]
    unread = {f"model.{flag}" for flag in declared(name).unread()} & set(map(key_of, overrides))
    if unread:
        raise UserError(
            f"{', '.join(sorted(unread))}: {name} does not read that; name another model, such as "
            f"model._name={names_for(checkpoint).parp}"
        )
