"""What the rounds of a recipe have in common, and the rounds that recipes are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from speechprune.errors import UserError
from speechprune.masking.densities import check_sparsity
from speechprune.models.names import OF_TEXT, ModelNames, names_beside
from speechprune.recipes.steps import MaskMaking
from speechprune.training.configs import ends_by_updates, find_config
from speechprune.training.overrides import quoted
from speechprune.training.run import TrainingRun

#: Of each short finetuning of IMP, as published.
ROUND_UPDATES = 2000
#: The one that names of folders do not tell.
DEFAULT_SEED = 1

#: Frees what few bytes hold, beside masks.
TRAINED_NORMS = ("model.trainable_bias=true", "model.trainable_layer_norm=true")

_RANKING = ("prune_biases", "prune_scope")


@dataclass(frozen=True)
class Setting:
    """What the rounds of a recipe have in common.

    Attributes:
        out: folder of all rounds; recipes with the same settings may share it, and then share
            rounds. Seeds lie there side by side.
        data: manifest folder; None for recipes that pool ``languages``.
        model: pretrained checkpoint.
        config: its name, such as ``finetuning/base_1h``.
        sparsity: share removed, in [0, 1).
        updates: of each finetuning.
        overrides: hydra's, for every round; ``model.freeze_finetune_updates`` among them.
        seed: of the data order, the head and random masks.
        start_sparsity: where PARP-P starts; half of ``sparsity`` if None.
        round_updates: of each short finetuning of IMP; `ROUND_UPDATES` if None, or ``updates``
            where that is fewer.
        step: share of the original weights that each round of IMP removes.
        score_learning_rate: of rounds that learn masks; that of the config if None.
        keep_parameters: share of the encoder's parameters that recipes keep which cut them out.
        source: manifest folder of the language that a mask comes from.
        languages: manifest folders to pool.
    """

    out: Path
    data: Path | None
    model: Path
    config: str
    sparsity: float
    updates: int
    overrides: tuple[str, ...] = ()
    seed: int = DEFAULT_SEED
    start_sparsity: float | None = None
    round_updates: int | None = None
    step: float = 0.1
    score_learning_rate: float | None = None
    keep_parameters: float = 0.5
    source: Path | None = None
    languages: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        check_sparsity("sparsity", self.sparsity)
        start = self.start_sparsity
        if start is not None and not 0.0 <= start <= self.sparsity:
            raise UserError(f"start sparsity {start} must lie in [0, {self.sparsity}], the target")
        if not 0.0 < self.step < 1.0:
            raise UserError(f"step is the share removed per round, in (0, 1), not {self.step}")

    def run(
        self,
        name: str,
        *overrides: str,
        updates: int | None = None,
        data: Path | None = None,
        needs: Sequence[Path] = (),
    ) -> TrainingRun:
        """A round with ``overrides`` of its own, in the folder ``name``."""
        data = data or self.data
        if data is None:
            raise UserError("which data to finetune on? give --data DIR")
        name = self.of_seed(name)
        return TrainingRun(
            name,
            self.out / name,
            self.config,
            (
                f"task.data={path_value(data)}",
                f"{self.names.pretrained}={path_value(self.model)}",
                f"common.seed={self.seed}",
                *ends_by_updates(self.config),
                *self.overrides,
                *overrides,
            ),
            updates or self.updates,
            tuple(needs),
        )

    def dense(self) -> TrainingRun:
        """Finetuning of all weights, without masks."""
        return self.run("dense", f"model._name={self.names.weights}")

    def mask(
        self, name: str, source: Path, sparsity: float | None = None, of: str = "magnitude"
    ) -> MaskMaking:
        """A mask of the tensors that PARP would prune, ranked as PARP would rank them.

        Args:
            source: a checkpoint.
            sparsity: the target if None.
            of: ``magnitude`` or ``random``.
        """
        from speechprune.models.mask_flags import SITE_FLAGS, MaskFlags, masked_roles

        flags = self.mask_flags
        name = self.of_seed(name)
        return MaskMaking(
            f"mask of {name}",
            self.out / name / "mask.safetensors",
            source,
            of if flags["prune_scope"] == "tensor" else f"global-{of}",
            self.sparsity if sparsity is None else sparsity,
            tuple(sorted(masked_roles(MaskFlags(**{name: flags[name] for name in SITE_FLAGS})))),
            flags["prune_biases"] is not False,  # unset: as PARP does
            self.seed,
        )

    def mask_of_run(self, name: str, run: TrainingRun, sparsity: float | None = None) -> MaskMaking:
        """The mask of what ``run`` made of the weights.

        Raises:
            UserError: the run leaves them as they are.
        """
        frozen = self.model_settings["freeze_finetune_updates"]
        if frozen >= run.updates:
            raise UserError(
                f"{run.name} freezes the encoder for all its {run.updates} updates "
                f"(model.freeze_finetune_updates={frozen}): its mask would be that of the "
                "pretrained weights"
            )
        return self.mask(name, run.checkpoint, sparsity)

    def masked(self, name: str, mask: Path, **options: Any) -> TrainingRun:
        """Finetuning of the pretrained weights under a fixed mask."""
        kept = (f"model._name={self.names.fixed_mask}", f"model.mask_file={path_value(mask)}")
        return self.run(name, *kept, needs=[mask], **options)

    def parp(self, name: str, *overrides: str, **options: Any) -> TrainingRun:
        """PARP to the target sparsity."""
        sparsity = f"model.sparsity={self.sparsity!r}"
        return self.run(name, f"model._name={self.names.parp}", sparsity, *overrides, **options)

    def router(self, name: str, *overrides: str, **options: Any) -> TrainingRun:
        """Masks learned on frozen weights."""
        rate = self.score_learning_rate
        return self.run(
            name,
            f"model._name={self.names.router}",
            f"model.prune_rate={round(1.0 - self.sparsity, 12)!r}",
            "model.fix_attn=false",
            # The output layer of a model of text always trains.
            *([] if self.is_of_text else ["model.trainable_proj=true"]),
            *([] if rate is None else [f"optimization.lr=[{rate!r}]"]),
            *overrides,
            **options,
        )

    def of_seed(self, name: str) -> str:
        """The folder of a round below `out`: that of the default seed, or one beside it."""
        return folder_of_seed(name, self.seed)

    @cached_property
    def names(self) -> ModelNames:
        """What the models are called that the config is for."""
        return names_beside(str(self._config.model._name))

    @property
    def is_of_text(self) -> bool:
        """Whether the config trains models of text."""
        return self.names is OF_TEXT

    @property
    def updates_per_round(self) -> int:
        """Updates of each short finetuning of IMP."""
        return self.round_updates or min(ROUND_UPDATES, self.updates)

    @property
    def share(self) -> str:
        """The sparsity, in names of folders."""
        return repr(self.sparsity)

    @property
    def model_settings(self) -> Any:
        """The section ``model`` of the config, with the overrides."""
        from omegaconf import OmegaConf

        given = [o.lstrip("+") for o in self.overrides if o.lstrip("+").startswith("model.")]
        merged: Any = OmegaConf.merge(self._config, OmegaConf.from_dotlist(given))
        return merged.model

    @cached_property
    def _config(self) -> Any:
        """The config as it is."""
        from omegaconf import OmegaConf

        return OmegaConf.load(find_config(self.config))

    @property
    def mask_flags(self) -> dict[str, Any]:
        """Which tensors are pruned, and how they are ranked.

        Raises UserError for tensors outside the encoder.
        """
        from speechprune.models.mask_flags import SITE_FLAGS
        from speechprune.models.text_config import TextConfig

        settings = self.model_settings
        # Configs for text leave out what no encoder of text has.
        absent = {name: getattr(TextConfig, name) for name in SITE_FLAGS if name not in settings}
        flags = {**absent, **{n: settings[n] for n in (*SITE_FLAGS, *_RANKING) if n in settings}}
        if not flags["no_prune_proj"]:
            raise UserError("recipes prune the encoder: leave out model.no_prune_proj=false")
        return flags


def folder_of_seed(name: str, seed: int) -> str:
    """A folder ``name`` of the default seed, or what it is called for another one."""
    if seed == DEFAULT_SEED:
        return name
    first, slash, rest = name.partition("/")
    return f"{first}-seed{seed}{slash}{rest}"


def path_value(path: Path) -> str:
    """A path as the value of an override, whatever the current folder will be."""
    return quoted(str(path.resolve()))
