"""`fairseq-hydra-train`, with what it lacks: checked input, processes on a CPU, and a result."""

from __future__ import annotations

from speechprune import quiet_fairseq  # noqa: F401  (before fairseq)

# isort: split
import logging
import math
import os
import sys
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

import hydra
import torch
from fairseq import checkpoint_utils
from fairseq.dataclass.initialize import add_defaults, hydra_init
from fairseq.dataclass.utils import omegaconf_no_object_check
from fairseq.distributed import utils as distributed
from fairseq.utils import reset_logging
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from speechprune.checkpoint.resuming import mend_last
from speechprune.errors import UserError
from speechprune.files import make_folder
from speechprune.locks import give_back_kept, locked
from speechprune.models.restart import LAST
from speechprune.seams.training_loop import end_in_time
from speechprune.starting import why_nothing_starts
from speechprune.training.command_line import CommandLine, complete
from speechprune.training.devices import Machine, find_machine, fit, is_started_by_torchrun
from speechprune.training.failures import storage_failure, user_message
from speechprune.training.jobs import claim_job
from speechprune.training.leftovers import leaving_nothing
from speechprune.training.overrides import key_of
from speechprune.training.parts import check_parts
from speechprune.training.paths import anchor_paths, check_paths, number_curves
from speechprune.training.preflight import (
    check_checkpoints,
    check_data,
    check_settings,
    fit_schedule,
    warn_of_denser_best,
    warn_of_unread,
)
from speechprune.training.processes import address_of, run_ranks, set_environment
from speechprune.training.refusals import first_lines, naming_refused_settings, words_of_hydra
from speechprune.training.sweeps import noting_outcomes, run_name
from speechprune.training.yardstick import choose_yardstick

logger = logging.getLogger(__name__)

#: Seconds that each rank of another launcher waits for the others to look at the last checkpoint.
_PATIENCE_WITH_RANKS = 120.0


def train(arguments: Sequence[str]) -> list[float]:
    """Do what `fairseq-hydra-train` does with ``arguments``, and return what came of it.

    Args:
        arguments: hydra overrides and options in any order; ``common.user_dir`` and
            ``--config-dir`` may be left out.

    Returns:
        Best validation value (``checkpoint.best_checkpoint_metric``) of each run in order, which
        is also what a hydra sweeper gets: one without ``-m``, none for ``--cfg`` and the like.

    Raises:
        UserError: what cannot be trained, or a failure outside the program such as a full disk.
    """
    line = complete(arguments)
    if line.sweeps:
        return _sweep(line)
    values: list[float] = []
    failures: list[Exception] = []

    def job(cfg: DictConfig) -> float:
        try:
            values.append(run(cfg, _given_keys()))
        except Exception as error:
            # Hydra would print the error in its own words.
            failures.append(error)
            return math.inf
        return values[-1]

    try:
        _start_hydra(job, line)
    except Exception as error:
        raise UserError(words_of_hydra(error)) from error
    for failure in failures:
        raise failure
    return values


def _sweep(line: CommandLine) -> list[float]:
    """As `train`, for the jobs of a sweep: all are begun, whichever fails."""
    if is_started_by_torchrun():
        raise UserError(
            "each process of torchrun would sweep by itself; leave out -m, or give the jobs of a "
            "sweep several processes with distributed_training.distributed_world_size"
        )

    def job(cfg: DictConfig) -> float:
        try:
            return run(cfg, _given_keys())
        except Exception as error:
            # Hydra keeps it until all jobs have ended, and other processes lose its traceback.
            message, number = user_message(error), HydraConfig.get().job.num
            logger.error(f"job {number} failed: {message or error}", exc_info=message is None)
            raise UserError(message) from error if message else error

    with noting_outcomes() as outcomes:
        try:
            _start_hydra(job, line)
        except Exception as error:
            if isinstance(error, UserError) and not outcomes.failures:
                raise
            if not outcomes.failures:
                raise UserError(words_of_hydra(error)) from error
    outcomes.refuse_failures()
    return outcomes.values


def run(cfg: DictConfig, given: Collection[str]) -> float:
    """One run, in the current folder.

    Args:
        cfg: as hydra composed it.
        given: keys that the user set, which are done or refused; the others may be adapted.

    Returns:
        The best validation value; infinite, in the bad direction, if there was no validation.

    Raises:
        UserError: as `train`.
    """
    hydra_cfg = HydraConfig.get()
    is_job_of_sweep = not OmegaConf.is_missing(hydra_cfg.job, "num")
    if is_job_of_sweep:
        number_curves(cfg, hydra_cfg.job.num)
    asked, cfg = cfg, _with_logging(completed(cfg, Path(hydra_cfg.runtime.cwd)))
    check_settings(cfg)
    check_paths(cfg)
    fit_schedule(cfg)
    machine = find_machine(cfg.common.cpu)
    processes = fit(cfg, given, machine)
    check_data(cfg)
    choose_yardstick(cfg, given)
    if processes is None:
        _refuse_folders_apart(cfg, hydra_cfg)
    # Another launcher's processes all come here, and each sees to it in turn.
    patience = _PATIENCE_WITH_RANKS if processes is None else 0.0
    checkpoints = Path(cfg.checkpoint.save_dir).absolute()
    if is_job_of_sweep:
        make_folder(checkpoints)
    if checkpoints.is_dir():
        # Unless another process trains there.
        with locked(checkpoints, patience=patience):
            mend_last(checkpoints / LAST)
            if is_job_of_sweep:
                claim_job(asked, cfg, given, checkpoints)
    check_checkpoints(cfg)
    warn_of_denser_best(cfg)
    warn_of_unread(cfg, given)
    try:
        with set_environment(_names(hydra_cfg) if is_job_of_sweep else {}):
            value = _train_in(cfg, processes, machine)
    except Exception as error:
        if not cfg.common.suppress_crashes:
            raise
        logger.error(f"crashed: {error}")
        value = None
    metric = cfg.checkpoint.best_checkpoint_metric
    if value is None:
        return -math.inf if cfg.checkpoint.maximize_best_checkpoint_metric else math.inf
    logger.info(f"best {metric} on {cfg.dataset.valid_subset.split(',')[0]}: {value:g}")
    return value


def train_rank(rank: int | None, settings: dict[str, Any], address: str | None) -> float | None:
    """fairseq's training loop in this process.

    Args:
        rank: None if this process trains alone, or fairseq arranges the processes.
        settings: the whole config as plain containers, which pickle.
        address: where the ranks meet.

    Returns:
        The best validation value of this run, earlier parts of a resumed run included.
    """
    # Imported late: it sets up logging for the console script that it is.
    from fairseq_cli import train as loop

    end_in_time(loop)
    cfg = _config(settings)
    with ExitStack() as stack:
        stack.enter_context(leaving_nothing(loop))
        if cfg.common.profile:
            stack.enter_context(torch.cuda.profiler.profile())
            stack.enter_context(torch.autograd.profiler.emit_nvtx())
        # What the plugin locks when training begins.
        stack.callback(give_back_kept)
        stack.enter_context(_telling_full_disks(cfg.checkpoint.save_dir))
        stack.enter_context(naming_refused_settings(loop, cfg))
        values = stack.enter_context(_measured(loop))
        if rank is None:
            _refuse_to_start_nothing(cfg)
            distributed.call_main(cfg, loop.main)
        else:
            cfg.distributed_training.distributed_init_method = address
            cfg.distributed_training.distributed_no_spawn = True
            cfg.distributed_training.distributed_rank = rank
            distributed.distributed_main(rank, loop.main, cfg, {})
        if hasattr(checkpoint_utils.save_checkpoint, "best"):
            values.append(checkpoint_utils.save_checkpoint.best)
    best = max if cfg.checkpoint.maximize_best_checkpoint_metric else min
    return best(values, default=None)


def _start_hydra(job: Any, line: CommandLine) -> None:
    """Call ``job`` with each config that the command line stands for."""
    hydra_init(line.config_name)
    # Hydra looks for the main config folder, fairseq's, relative to the module of the job.
    job.__module__ = "fairseq_cli.hydra_train"
    # The behaviour that fairseq relies on; hydra 1.0 knows no versions.
    version = {"version_base": "1.1"} if "version_base" in signature(hydra.main).parameters else {}
    main = hydra.main(config_path=os.path.join("..", "fairseq", "config"), **version)(job)
    words = sys.argv
    sys.argv = [words[0], *line.arguments]
    try:
        # Otherwise hydra prints errors itself and exits.
        with set_environment({"HYDRA_FULL_ERROR": "1"}), warnings.catch_warnings():
            # What newer hydras think of fairseq's configs.
            warnings.filterwarnings("ignore", r"[\s\S]*hydra\.cc/docs", UserWarning)
            main()
    finally:
        sys.argv = words


def _given_keys() -> set[str]:
    """The keys that the user set for the job that hydra runs."""
    # As they were typed: interpolations in them are of the config, not of hydra's own.
    overrides: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    return set(map(key_of, overrides))


def completed(cfg: DictConfig, folder: Path) -> DictConfig:
    """A composed config with all keys that fairseq knows, interpolations resolved, enumerations as
    text, and paths that are relative to ``folder`` made absolute; raises UserError for keys that
    the config leaves to its user."""
    try:
        _refuse_incomplete(cfg)
        check_parts(cfg)  # of parts that do not go together, fairseq would name keys alone
        add_defaults(cfg)
        anchor_paths(cfg, folder)
        return _config(_settings(cfg))
    except OmegaConfBaseException as error:
        raise UserError(first_lines(error)) from error


def _refuse_incomplete(cfg: DictConfig) -> None:
    missing = [
        f"{group!s}.{key!s}"
        for group, section in cfg.items()
        if isinstance(section, DictConfig)
        for key in section
        if OmegaConf.is_missing(section, key)
    ]
    if missing:
        raise UserError(f"the config leaves these to you: {'=... '.join(missing)}=...")
    options = cfg.model.get("policy_options") if "model" in cfg and cfg.model else None
    if options is not None and not isinstance(options, DictConfig):
        raise UserError(
            f"model.policy_options={options} must give options by name, such as '{{n:2,m:4}}'"
        )


def _with_logging(cfg: DictConfig) -> DictConfig:
    """Log as the config asks fairseq to."""
    if cfg.common.reset_logging:
        reset_logging()
    else:
        with open_dict(cfg):
            logging_cfg = HydraConfig.get().job_logging
            cfg.job_logging_cfg = OmegaConf.to_container(logging_cfg, resolve=True)
    return cfg


def _settings(cfg: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)  # type: ignore[return-value]


def _config(settings: dict[str, Any]) -> DictConfig:
    with omegaconf_no_object_check():
        cfg = OmegaConf.create(settings)
    OmegaConf.set_struct(cfg, True)
    return cfg


def _train_in(cfg: DictConfig, processes: int | None, machine: Machine) -> float | None:
    """Train in this process or in new ones; None if there was no validation."""
    settings = _settings(cfg)
    if processes is None or processes == 1:
        return train_rank(None, settings, None)
    address = address_of(cfg.distributed_training.distributed_init_method)
    environment = {}
    if not machine.gpus:
        # Ranks share the cores, and do not see GPUs that the config rules out.
        threads = str(max(1, machine.places // processes))
        environment = {
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
        }
    return run_ranks(train_rank, processes, settings, address, environment=environment)


def _refuse_folders_apart(cfg: DictConfig, hydra_cfg: HydraConf) -> None:
    """Each process of another launcher finds the folder of the run by itself."""
    folder: Any = OmegaConf.to_container(hydra_cfg.run, resolve=False)
    if cfg.distributed_training.distributed_world_size > 1 and "${now:" in folder["dir"]:
        raise UserError(
            "processes that another program starts need one folder, and hydra.run.dir is named by "
            "the time: set hydra.run.dir, to a folder that all machines share"
        )


def _names(hydra_cfg: HydraConf) -> dict[str, str]:
    """Variables that tell the jobs of a sweep apart."""
    asked = os.environ.get("WANDB_NAME")
    return {"WANDB_NAME": run_name(hydra_cfg.sweep.dir, hydra_cfg.job.num, asked)}


def _refuse_to_start_nothing(cfg: DictConfig) -> None:
    reason = why_nothing_starts(cfg)
    if reason is not None:
        raise UserError(f"{reason}; without torchrun or Slurm, `speechprune train` starts its own")


@contextmanager
def _measured(loop: ModuleType) -> Iterator[list[float]]:
    """Collect what each validation measured on the first split."""
    values: list[float] = []
    validate = loop.validate

    def validate_and_note(*args: Any, **options: Any) -> list[Any]:
        losses = validate(*args, **options)
        values.extend(float(loss) for loss in losses[:1] if loss is not None)
        return losses

    loop.validate = validate_and_note  # type: ignore[attr-defined]
    try:
        yield values
    finally:
        loop.validate = validate  # type: ignore[attr-defined]


@contextmanager
def _telling_full_disks(folder: str) -> Iterator[None]:
    """Turn failures to write into a UserError that names the folder of the checkpoints."""
    # fairseq logs the traceback of a failed save, and then raises the error.
    logging.getLogger("fairseq.checkpoint_utils").addFilter(_is_no_traceback)
    try:
        yield
    except Exception as error:
        message = storage_failure(error)
        if message is None:
            raise
        for half_written in Path(folder).glob("*.pt.tmp"):
            half_written.unlink()
        raise UserError(f"{message} (checkpoint.save_dir is {os.path.abspath(folder)})") from error


def _is_no_traceback(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Traceback")
