"""What this machine can hold: processes, and the number formats of its devices."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Collection
from dataclasses import dataclass
from shutil import which

import torch
from omegaconf import DictConfig

from speechprune.errors import UserError
from speechprune.starting import THIS_MACHINE

logger = logging.getLogger(__name__)

WORLD_SIZE = "distributed_training.distributed_world_size"
INIT_METHOD = "distributed_training.distributed_init_method"
UPDATE_FREQ = "optimization.update_freq"
_LAUNCHER_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK")


@dataclass(frozen=True)
class Machine:
    """Where processes go: ``places`` GPUs, or cores if there is none to use."""

    gpus: bool
    places: int

    @property
    def described(self) -> str:
        """ "1 GPU", "2 cores"."""
        unit = "GPU" if self.gpus else "core"
        return f"{self.places} {unit}{'' if self.places == 1 else 's'}"


def find_machine(cpu: bool) -> Machine:
    """This machine, without its GPUs if ``cpu``."""
    gpus = 0 if cpu else torch.cuda.device_count()
    if gpus:
        return Machine(True, gpus)
    affinity = getattr(os, "sched_getaffinity", None)
    return Machine(False, len(affinity(0)) if affinity else os.cpu_count() or 1)


def check_device(device: str) -> None:
    """Raise UserError for "cuda" on a machine without a GPU."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no GPU for the device cuda; use cpu")


def fit(cfg: DictConfig, given: Collection[str], machine: Machine) -> int | None:
    """Change ``cfg`` to what the machine can run, and say what was changed in the log.

    A config asks for the processes that its authors had: fewer of them do more micro-batches, so
    that a batch stays what it was. What the user asked for (``given``) is done or refused.

    Args:
        cfg: all groups of a fairseq config.
        given: keys that the user set.

    Returns:
        Number of processes to start; None if this process belongs to another launcher's job
        (torchrun, Slurm, several machines), which fairseq then joins by itself.

    Raises:
        UserError: more processes than places, half precision on a CPU, or a launcher whose
            processes would not find each other.
    """
    _fit_precision(cfg, given, machine)
    if not machine.gpus:
        _use_cpu(cfg)
    if is_launched_elsewhere(cfg, machine):
        _join(cfg, given, machine)
        return None
    world = int(cfg.distributed_training.distributed_world_size)
    processes = world
    if world > machine.places and WORLD_SIZE in given:
        raise UserError(_refusal(cfg, world, machine))
    if WORLD_SIZE not in given:
        processes = _processes_for(cfg, world, 1 if not machine.gpus else machine.places)
    if processes != world:
        here = machine.described if machine.gpus else "no GPU"
        _keep_batch(cfg, given, world, processes, f"this machine has {here}")
    cfg.distributed_training.distributed_world_size = processes
    if processes == 1:
        # With an address, fairseq would spawn as many processes as there are GPUs: none on a CPU.
        cfg.distributed_training.distributed_init_method = None
    return processes


def is_launched_elsewhere(cfg: DictConfig, machine: Machine) -> bool:
    """Whether another launcher has started, or another machine shares, this job."""
    settings = cfg.distributed_training
    if settings.distributed_no_spawn or settings.pipeline_model_parallel or cfg.common.tpu:
        return True
    if is_started_by_torchrun() or _is_slurm_job():
        return True
    host = (settings.distributed_init_method or "tcp://localhost").partition("://")[2]
    too_many = settings.distributed_world_size > machine.places
    return machine.gpus and too_many and not host.startswith(THIS_MACHINE)


def is_started_by_torchrun() -> bool:
    """Whether the environment says which of several processes this is."""
    return all(name in os.environ for name in _LAUNCHER_VARIABLES)


def _join(cfg: DictConfig, given: Collection[str], machine: Machine) -> None:
    """Make this process one of those that another launcher has started, in place."""
    settings = cfg.distributed_training
    if settings.distributed_no_spawn or settings.pipeline_model_parallel or cfg.common.tpu:
        return
    if is_started_by_torchrun():
        _join_torchrun(cfg, given, machine)
    elif _is_slurm_job():
        _check_slurm(cfg, machine)


def _join_torchrun(cfg: DictConfig, given: Collection[str], machine: Machine) -> None:
    """fairseq would divide by the number of GPUs, pass over a config for one process, and take an
    address for that of processes of its own."""
    settings = cfg.distributed_training
    world, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    place = int(os.environ.get("LOCAL_RANK", rank))
    own = settings.distributed_world_size
    if WORLD_SIZE in given and own != world:
        raise UserError(f"{WORLD_SIZE}={own}, but torchrun starts {world} processes; leave it out")
    if INIT_METHOD in given:
        raise UserError(f"torchrun says where its processes meet: leave out {INIT_METHOD}")
    if machine.gpus and place >= machine.places:
        raise UserError(
            f"torchrun starts more processes than this machine has GPUs; use "
            f"--nproc-per-node={machine.places}"
        )
    if own != world:
        _keep_batch(cfg, given, own, world, f"torchrun starts {world}")
    settings.distributed_world_size, settings.distributed_rank = world, rank
    settings.device_id = place
    settings.distributed_no_spawn = world > 1
    settings.distributed_init_method = "env://" if world > 1 else None


def _check_slurm(cfg: DictConfig, machine: Machine) -> None:
    """Refuse what fairseq makes tasks of Slurm wait for each other with."""
    settings = cfg.distributed_training
    if settings.distributed_init_method is not None:
        return
    if not machine.gpus:
        raise UserError(
            "fairseq joins the tasks of a Slurm job only with GPUs; start torchrun in one task "
            "on each machine"
        )
    are_several = int(os.environ.get("SLURM_NNODES") or 1) > 1
    if are_several and settings.distributed_port <= 0:
        raise UserError(
            "the machines of a Slurm job meet at a port: set distributed_training.distributed_port"
            "=29500, or another that is free"
        )


def _is_slurm_job() -> bool:
    """Whether fairseq would find several tasks of a Slurm job: it asks Slurm who runs where."""
    tasks = [os.environ.get(name, "") for name in ("SLURM_NNODES", "SLURM_NTASKS")]
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST")
    are_several = any(count.isdecimal() and int(count) > 1 for count in tasks)
    return are_several and bool(nodes) and which("scontrol") is not None


def _fit_precision(cfg: DictConfig, given: Collection[str], machine: Machine) -> None:
    if machine.gpus or not cfg.common.fp16:
        return
    if "common.fp16" in given:
        raise UserError(
            "common.fp16=true needs a GPU; on a CPU use common.bf16=true with common.fp16=false, "
            "or common.fp16=false for full precision"
        )
    cfg.common.fp16 = False
    precision = "bf16" if cfg.common.bf16 else "full precision"
    logger.info(f"no GPU: training in {precision} instead of the config's fp16")


def _use_cpu(cfg: DictConfig) -> None:
    cfg.common.cpu = True
    cfg.distributed_training.distributed_backend = "gloo"
    # The only one that runs without a GPU; the masks need it as well, for unused parameters.
    cfg.distributed_training.ddp_backend = "legacy_ddp"


def _processes_for(cfg: DictConfig, world: int, places: int) -> int:
    """The most processes that can share the config's batch evenly."""
    frequencies = cfg.optimization.update_freq
    return max(
        count
        for count in range(1, min(world, places) + 1)
        if all(world * frequency % count == 0 for frequency in frequencies)
    )


def _keep_batch(
    cfg: DictConfig, given: Collection[str], world: int, processes: int, reason: str
) -> None:
    """Let ``processes`` have the batch of the config's ``world``, and say why, and what it is."""
    frequencies = cfg.optimization.update_freq
    if UPDATE_FREQ in given:
        outcome = (
            f"with the update_freq that was given, a batch is {processes}/{world} of the config's"
        )
    elif all(world * f % processes == 0 for f in frequencies):
        cfg.optimization.update_freq = [world * f // processes for f in frequencies]
        outcome = "the batch stays the same"
    else:
        outcome = f"a batch is {processes}/{world} of the config's"
    logger.info(
        f"the config is for {world} GPUs, {reason}: training with "
        f"{WORLD_SIZE}={processes} {UPDATE_FREQ}={_listed(cfg.optimization.update_freq)}; {outcome}"
    )


def _refusal(cfg: DictConfig, world: int, machine: Machine) -> str:
    """Why ``world`` processes are refused, and what has the same batch here."""
    raised = [math.ceil(world * f / machine.places) for f in cfg.optimization.update_freq]
    return (
        f"{WORLD_SIZE}={world}, but this machine has {machine.described}; use "
        f"{WORLD_SIZE}={machine.places} {UPDATE_FREQ}={_listed(raised)}"
    )


def _listed(values: Collection[int]) -> str:
    return "[" + ",".join(str(value) for value in values) + "]"
