"""The methods, and the baselines that they are judged against.

Sources: Lai et al., "PARP", NeurIPS 2021 (arXiv 2106.05933), for all but S3-Router; Fu et al.,
NeurIPS 2022 (arXiv 2211.01522).
"""

from __future__ import annotations

from speechprune.recipes.base import Plan, recipe
from speechprune.recipes.setting import TRAINED_NORMS, Setting, path_value
from speechprune.recipes.steps import MaskMaking, Step
from speechprune.training.run import TrainingRun


@recipe("dense")
def dense(setting: Setting) -> Plan:
    """The control: finetune all weights, prune none."""
    run = setting.dense()
    return Plan((run,), {"dense control": run})


@recipe("rp", "sparsity")
def random_pruning(setting: Setting) -> Plan:
    """RP: the magnitude mask of a randomly initialised model, fixed."""
    name = f"rp-{setting.share}"
    return _masked(setting, name, "RP", setting.mask(name, setting.model, of="random"))


@recipe("mpi", "sparsity")
def magnitude_pruning_at_initialisation(setting: Setting) -> Plan:
    """MPI: the magnitude mask of the pretrained weights, fixed."""
    name = f"mpi-{setting.share}"
    return _masked(setting, name, "MPI", setting.mask(name, setting.model))


@recipe("omp", "sparsity")
def one_shot_magnitude_pruning(setting: Setting) -> Plan:
    """OMP: finetune, take the magnitude mask, and finetune the pretrained weights under it."""
    return one_shot(setting, setting.dense())


def one_shot(setting: Setting, first: TrainingRun) -> Plan:
    """OMP by the weights that ``first`` makes, which may be of another length."""
    name = f"omp-{setting.share}"
    plan = _masked(setting, name, "OMP", setting.mask_of_run(name, first))
    return Plan((first, *plan.steps), plan.results)


@recipe("imp", "sparsity", "step", "round_updates")
def iterative_magnitude_pruning(setting: Setting) -> Plan:
    """IMP: short finetunings that each remove a further share, then a full one under the last mask.

    All start from the pretrained weights."""
    steps: list[Step] = []
    shared = f"imp-rounds-{setting.step!r}"
    updates = setting.updates_per_round
    run = setting.run(f"{shared}/0", f"model._name={setting.names.weights}", updates=updates)
    levels = _levels(setting.sparsity, setting.step)
    for level in levels[:-1]:
        mask = setting.mask_of_run(f"{shared}/{level!r}", run, level)
        steps += [run, mask]
        run = setting.masked(f"{shared}/{level!r}", mask.target, updates=updates)
    name = f"imp-{setting.share}"
    mask = setting.mask_of_run(name, run)
    final = setting.masked(name, mask.target)
    return Plan((*steps, run, mask, final), {"IMP": final})


@recipe("parp", "sparsity")
def prune_adjust_reprune(setting: Setting) -> Plan:
    """PARP: start from the magnitude mask of the pretrained weights, adjust, re-prune."""
    run = setting.parp(f"parp-{setting.share}")
    return Plan((run,), {"PARP": run})


@recipe("parp-p", "sparsity", "start_sparsity")
def progressive_parp(setting: Setting) -> Plan:
    """PARP-P: PARP from a lower sparsity, raised at each re-pruning until the target."""
    start = setting.start_sparsity
    start = setting.sparsity / 2 if start is None else start
    run = setting.parp(f"parp-p-{setting.share}", f"model.start_sparsity={start!r}")
    return Plan((run,), {"PARP-P": run})


@recipe("s3router", "sparsity", "score_learning_rate")
def s3router(setting: Setting) -> Plan:
    """S3-Router: learn which pretrained connections to keep; the weights stay."""
    run = setting.router(f"s3router-{setting.share}", "model.init_score=weight_rank")
    return Plan((run,), {"S3-Router": run})


@recipe("s3router-norms", "sparsity", "score_learning_rate")
def s3router_norms(setting: Setting) -> Plan:
    """S3-Router while biases and layer norms train too, which few bytes hold."""
    name = f"s3router-norms-{setting.share}"
    run = setting.router(name, "model.init_score=weight_rank", *TRAINED_NORMS)
    return Plan((run,), {"S3-Router, norms": run})


@recipe("s3router-prune", "sparsity", "score_learning_rate")
def s3router_prune(setting: Setting) -> Plan:
    """S3-Router for pruning: finetune the weights, then learn which of them to keep."""
    first = setting.dense()
    run = setting.router(
        f"s3router-prune-{setting.share}",
        "model.init_score=weight_magnitude_with_scale",
        f"checkpoint.finetune_from_model={path_value(first.checkpoint)}",
        needs=[first.checkpoint],
    )
    return Plan((first, run), {"S3-Router, pruning": run})


def _masked(setting: Setting, name: str, label: str, mask: MaskMaking) -> Plan:
    """A mask, and the pretrained weights finetuned under it."""
    run = setting.masked(name, mask.target)
    return Plan((mask, run), {label: run})


def _levels(sparsity: float, step: float) -> list[float]:
    """Sparsities of the rounds: every step, and the target."""
    count = int(sparsity / step + 1e-9)
    levels = [round(step * (index + 1), 6) for index in range(count)]
    return levels if levels and abs(levels[-1] - sparsity) < 1e-9 else [*levels, sparsity]
