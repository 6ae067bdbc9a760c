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
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from speechprune.errors import UserError
from speechprune.plugin import end_in_time
from speechprune.training.command_line import CommandLine, complete
from speechprune.training.devices import Machine, find_machine, fit
from speechprune.training.failures import storage_failure
from speechprune.training.overrides import key_of
from speechprune.training.preflight import (
    check_checkpoints,
    check_data,
    check_settings,
    warn_of_denser_best,
    warn_of_unread,
)
from speechprune.training.processes import address_of, run_ranks, set_environment
from speechprune.training.yardstick import choose_yardstick

logger = logging.getLogger(__name__)

_OF_OBJECTS = ("object_type", "reference_type")


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
    values: list[float] = []
    failures: list[Exception] = []

    def job(cfg: DictConfig) -> float:
        try:
            values.append(run(cfg, {key_of(o) for o in HydraConfig.get().overrides.task}))
        except Exception as error:
            if line.sweeps:
                raise
            # Hydra would print the error in its own words.
            failures.append(error)
            return math.inf
        return values[-1]

    _start_hydra(job, line)
    for failure in failures:
        raise failure
    return values


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
    cfg = _with_logging(completed(cfg))
    check_settings(cfg)
    machine = find_machine(cfg.common.cpu)
    processes = fit(cfg, given, machine)
    check_data(cfg)
    choose_yardstick(cfg, given)
    check_checkpoints(cfg)
    warn_of_denser_best(cfg)
    warn_of_unread(cfg, given)
    try:
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
    _forget_last_run(loop)
    with ExitStack() as stack:
        if cfg.common.profile:
            stack.enter_context(torch.cuda.profiler.profile())
            stack.enter_context(torch.autograd.profiler.emit_nvtx())
        stack.enter_context(_telling_full_disks(cfg.checkpoint.save_dir))
        values = stack.enter_context(_measured(loop))
        if rank is None:
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
    """Call ``job`` with each config that the command line stands for; report hydra's errors in one
    line."""
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
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(first_lines(error)) from error
    finally:
        sys.argv = words


def completed(cfg: DictConfig) -> DictConfig:
    """A composed config with all keys that fairseq knows, interpolations resolved, enumerations as
    text; raises UserError for keys that the config leaves to its user."""
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
    try:
        add_defaults(cfg)
        return _config(_settings(cfg))
    except OmegaConfBaseException as error:
        raise UserError(first_lines(error)) from error


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


def _forget_last_run(loop: ModuleType) -> None:
    """fairseq keeps a run's state on functions: the next run of a sweep must not go on with it."""
    for function in (checkpoint_utils.save_checkpoint, loop.should_stop_early):
        for name in ("best", "num_runs"):
            if hasattr(function, name):
                delattr(function, name)


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


def first_lines(error: Exception) -> str:
    """A hydra or omegaconf error and its cause, less what they say of their objects."""
    chain = [error] if error.__cause__ is None else [error, error.__cause__]
    lines = [line.strip().rstrip(".") for link in chain for line in str(link).splitlines()]
    kept = [line for line in lines if line and not line.startswith(_OF_OBJECTS)]
    return "; ".join(dict.fromkeys(kept))
