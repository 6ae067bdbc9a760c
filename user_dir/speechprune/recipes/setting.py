"""What the rounds of a recipe have in common, and the rounds that recipes are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechprune.errors import UserError
from speechprune.training.rounds import MaskMaking, TrainingRun


@dataclass(frozen=True)
class Setting:
    """What the rounds of a recipe have in common.

    Attributes:
        out: folder of all rounds; recipes with the same settings may share it, and then share
            rounds.
        data: manifest folder; None for recipes that pool ``languages``.
        model: pretrained checkpoint.
        config: the recipe of fairseq's, such as ``finetuning/base_1h``.
        sparsity: share removed, in [0, 1).
        updates: of each finetuning.
        overrides: hydra's, for every round; ``model.freeze_finetune_updates`` among them.
        seed: of the data order, the head and random masks.
        start_sparsity: where PARP-P starts; half of ``sparsity`` if None.
        round_updates: of each short finetuning of IMP.
        step: share of the original weights that each round of IMP removes.
        score_learning_rate: of rounds that learn masks; that of the config if None.
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
    seed: int = 1
    start_sparsity: float | None = None
    round_updates: int = 2000
    step: float = 0.1
    score_learning_rate: float | None = None
    source: Path | None = None
    languages: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if not 0.0 <= self.sparsity < 1.0:
            raise UserError(
                f"sparsity is the share removed and must lie in [0, 1), not {self.sparsity}"
            )
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
        return TrainingRun(
            name,
            self.out / name,
            self.config,
            (
                f"task.data={path_value(data)}",
                f"model.w2v_path={path_value(self.model)}",
                f"common.seed={self.seed}",
                *self.overrides,
                *overrides,
            ),
            updates or self.updates,
            tuple(needs),
        )

    def dense(self) -> TrainingRun:
        """Finetuning of all weights, without masks."""
        return self.run("dense", "model._name=wav2vec_ctc")

    def mask(
        self, name: str, source: Path, sparsity: float | None = None, by: str = "global-magnitude"
    ) -> MaskMaking:
        """A mask made of the checkpoint ``source``, at the target sparsity unless told another."""
        sparsity = self.sparsity if sparsity is None else sparsity
        target = self.out / name / "mask.safetensors"
        return MaskMaking(f"mask of {name}", target, source, by, sparsity, self.seed)

    def masked(self, name: str, mask: Path, **options: Any) -> TrainingRun:
        """Finetuning of the pretrained weights under a fixed mask."""
        overrides = ("model._name=wav2vec_ctc_masked", f"model.mask_file={path_value(mask)}")
        return self.run(name, *overrides, needs=[mask], **options)

    def parp(self, name: str, *overrides: str, **options: Any) -> TrainingRun:
        """PARP to the target sparsity."""
        sparsity = f"model.sparsity={self.sparsity:g}"
        return self.run(name, "model._name=wav2vec_ctc_parp", sparsity, *overrides, **options)

    def router(self, name: str, *overrides: str, **options: Any) -> TrainingRun:
        """Masks learned on frozen weights."""
        rate = self.score_learning_rate
        return self.run(
            name,
            "model._name=wav2vec_ctc_st",
            f"model.prune_rate={1.0 - self.sparsity:g}",
            "model.fix_attn=false",
            "model.trainable_proj=true",
            *([] if rate is None else [f"optimization.lr=[{rate:g}]"]),
            *overrides,
            **options,
        )

    @property
    def share(self) -> str:
        """The sparsity, in names of folders."""
        return f"{self.sparsity:g}"


def path_value(path: Path) -> str:
    """A path as the value of an override, whatever the current folder will be."""
    from speechprune.training.command_line import quoted

    return quoted(str(path.resolve()))
