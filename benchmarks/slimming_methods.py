"""The methods of `benchmarks.slimming`: from one finetuned dense model to smaller ones.

All keep as many parameters of the encoder, and all are given as many updates of finetuning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.slimming_work import Made, Size, drop_best, mask_by_magnitude
from speechprune.autoslim.training import Amounts
from speechprune.models.names import PARP, PRUNED, SLIM, WEIGHTS
from speechprune.recipes.nano import ASSET
from speechprune.recipes.setting import path_value
from speechprune.rewriting.calibration import Draw
from speechprune.rewriting.encoder import export_encoder
from speechprune.rewriting.one_shot import prune
from speechprune.rewriting.slimming import apply
from speechprune.slimming.choice import ShareChoice
from speechprune.training.rounds import Round
from speechprune.training.run import TrainingRun

#: Layers that are dropped; as many parameters go in other ways.
DROPPED = 2
#: Of what leads gates to their target, in the loss: with 1, as in runs of many thousand updates,
#: half of the target is reached in 125, and with 10 a tenth more than the target.
GATES_PENALTY = 7
CONFIG = "demo/nano"


@dataclass(frozen=True)
class Chain:
    """What one method makes of the dense model of one seed.

    Attributes:
        steps: in order.
        after: the checkpoint that comes of it in the end.
        before: the one that is finetuned in the end; None where units go while training.
    """

    steps: tuple[Round, ...]
    after: Path
    before: Path | None = None


@dataclass(frozen=True)
class Start:
    """What all methods begin with for one seed, and how they finetune.

    Attributes:
        folder: of all files.
        data: manifest folder.
        dense_updates: of the dense model.
        updates: of each method after that.
        overrides: of all trainings.
        size: of all results.
        workers: where files are made.
    """

    folder: Path
    data: Path
    seed: int
    dense_updates: int
    updates: int
    overrides: tuple[str, ...]
    size: Size
    workers: Executor

    @property
    def dense(self) -> TrainingRun:
        """The pretrained model, finetuned whole."""
        settings = (f"model._name={WEIGHTS}",)
        return self._run("dense", ASSET, self.dense_updates, settings, ())

    @property
    def encoder(self) -> Made:
        """The encoder of the dense model, which trainings from it are built of."""
        return self.made("encoder", self.dense.checkpoint, export_encoder)

    @property
    def steps(self) -> tuple[Round, ...]:
        """What comes first."""
        return (self.dense, self.encoder)

    def from_dense(self, name: str, *overrides: str, updates: int | None = None) -> TrainingRun:
        """Finetuning of the dense model as another one; all its updates by default."""
        return self._further(
            name, self.dense.checkpoint, self.encoder.target, updates or self.updates, overrides
        )

    def finetuned(
        self, name: str, source: Path, *overrides: str, updates: int | None = None
    ) -> tuple[Made, TrainingRun]:
        """Finetuning of a smaller model, after its encoder was written."""
        encoder = self.made(f"{name}/encoder", source, export_encoder)
        settings = (f"model._name={PRUNED}", *overrides)
        updates = updates or self.updates
        run = self._further(f"{name}/finetuned", source, encoder.target, updates, settings)
        return encoder, run

    def made(self, name: str, source: Path, make: Callable[..., object], **settings: Any) -> Made:
        """A checkpoint made of another one."""
        target = self.folder / f"{name}.pt"
        named = f"seed {self.seed}, {name}"
        return Made(named, target, source, make, settings, self.workers)

    def _further(
        self, name: str, source: Path, encoder: Path, updates: int, overrides: Sequence[str]
    ) -> TrainingRun:
        begins = f"checkpoint.finetune_from_model={path_value(source)}"
        return self._run(name, encoder, updates, (begins, *overrides), (source, encoder))

    def _run(
        self,
        name: str,
        encoder: Path,
        updates: int,
        overrides: Sequence[str],
        needs: tuple[Path, ...],
    ) -> TrainingRun:
        settings = (
            f"task.data={path_value(self.data)}",
            f"model.w2v_path={path_value(encoder)}",
            f"common.seed={self.seed}",
            *self.overrides,
            *overrides,
        )
        named = f"seed {self.seed}, {name}"
        return TrainingRun(named, self.folder / name, CONFIG, settings, updates, needs)

    @property
    def learning(self) -> tuple[str, ...]:
        """Settings of learning from the dense model."""
        teacher = path_value(self.dense.checkpoint)
        return ("criterion._name=distill_ctc", f"criterion.teacher={teacher}")

    def choosing(self, updates: int) -> tuple[str, ...]:
        """How often masks are chosen in a training of so many updates."""
        return (f"model.prune_every={min(10, updates // 4)}",)


def more_updates(start: Start) -> Chain:
    """The control: the dense model, finetuned as long as the others."""
    run = start.from_dense("dense-more", f"model._name={PRUNED}")
    return Chain((run,), run.checkpoint, start.dense.checkpoint)


def auto_slim(
    name: str, amounts: Callable[[Start], Amounts], distilled: bool = False
) -> Callable[[Start], Chain]:
    """Units go, more and more, while the model is finetuned; then they are cut out."""

    def chain(start: Start) -> Chain:
        run = start.from_dense(
            f"{name}/pruning",
            f"model._name={SLIM}",
            *amounts(start).overrides,
            *start.choosing(start.updates),
            f"model.prune_end={start.updates // 2}",
            *(start.learning if distilled else ()),
        )
        slim = start.made(f"{name}/slim", run.checkpoint, apply)
        return Chain((run, slim), slim.target)

    return chain


def by_shares(criterion: str = "snip_momentum", scope: str = "local") -> Callable[[Start], Amounts]:
    """So large shares of channels and heads that as many parameters are left."""
    return lambda start: Amounts(
        ffn=start.size.channels, heads=start.size.heads, criterion=criterion, scope=scope
    )


def by_budget(start: Start) -> Amounts:
    """As many parameters, wherever they are."""
    return Amounts(keep_parameters=start.size.share)


def one_shot(criterion: str, repaired: bool) -> Callable[[Start], Chain]:
    """Units go at once, with the weights that stay refitted or as they are; then finetuning."""

    def chain(start: Start) -> Chain:
        name = f"one-shot-{criterion}{'-repaired' * repaired}"
        reads_audio = repaired or criterion != "magnitude"
        pruned = start.made(
            f"{name}/pruned",
            start.dense.checkpoint,
            prune,
            amount=ShareChoice(start.size.heads, start.size.channels),
            criterion=criterion,
            draw=Draw(start.data, "train") if reads_audio else None,
            repaired=repaired,
        )
        encoder, run = start.finetuned(name, pruned.target)
        return Chain((pruned, encoder, run), run.checkpoint, pruned.target)

    return chain


def gates(start: Start) -> Chain:
    """L0: gates learn which units go, from the teacher and the labels; what they leave is cut out
    and learns on. Each half has half of the updates."""
    half = start.updates // 2
    amounts = Amounts(keep_parameters=start.size.share, criterion="l0")
    run = start.from_dense(
        "l0/gates",
        f"model._name={SLIM}",
        *amounts.overrides,
        *start.choosing(half),
        *start.learning,
        f"+criterion.penalty_weight={GATES_PENALTY}",
        updates=half,
    )
    slim = start.made("l0/slim", run.checkpoint, apply)
    rest = start.updates - half
    encoder, further = start.finetuned("l0", slim.target, *start.learning, updates=rest)
    return Chain((run, slim, encoder, further), further.checkpoint)


def layers_dropped(start: Start) -> Chain:
    """The layers go that the validation split misses least; then finetuning."""
    dropped = start.made(
        "layers/dropped", start.dense.checkpoint, drop_best, drop=DROPPED, data=start.data
    )
    encoder, run = start.finetuned("layers", dropped.target)
    return Chain((dropped, encoder, run), run.checkpoint, dropped.target)


def parp(start: Start) -> Chain:
    """PARP: the smallest weights of the dense model are masked, and masks are chosen anew again and
    again while all weights are finetuned."""
    sparsity = start.size.sparsity
    masked = start.made("parp/masked", start.dense.checkpoint, mask_by_magnitude, sparsity=sparsity)
    run = start.from_dense(
        "parp/finetuned",
        f"model._name={PARP}",
        f"model.sparsity={sparsity!r}",
        *start.choosing(start.updates),
    )
    return Chain((masked, run), run.checkpoint, masked.target)


#: By name, in the order of the table.
METHODS: dict[str, Callable[[Start], Chain]] = {
    "dense": more_updates,
    "auto-slim, snip_momentum": auto_slim("slim-snip_momentum", by_shares()),
    "auto-slim, snip": auto_slim("slim-snip", by_shares(criterion="snip")),
    "auto-slim, gradient": auto_slim("slim-gradient", by_shares(criterion="gradient")),
    "auto-slim, magnitude": auto_slim("slim-magnitude", by_shares(criterion="magnitude")),
    "auto-slim, global": auto_slim("slim-global", by_shares(scope="global")),
    "auto-slim, global normalised": auto_slim(
        "slim-global_normalised", by_shares(scope="global_normalised")
    ),
    "auto-slim, budget": auto_slim("slim-budget", by_budget),
    "auto-slim, distilled": auto_slim("slim-distilled", by_shares(), distilled=True),
    "L0, distilled": gates,
    "one shot, magnitude": one_shot("magnitude", repaired=False),
    "one shot, magnitude, repaired": one_shot("magnitude", repaired=True),
    "one shot, snip_momentum": one_shot("snip_momentum", repaired=False),
    "one shot, snip_momentum, repaired": one_shot("snip_momentum", repaired=True),
    "layers dropped": layers_dropped,
    "PARP": parp,
}
