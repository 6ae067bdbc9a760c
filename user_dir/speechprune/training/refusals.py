"""What hydra and fairseq raise of settings, before training, in one line that names the setting."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

import speechprune
from speechprune.errors import UserError
from speechprune.training.failures import user_message

logger = logging.getLogger(__name__)

_OURS = str(Path(speechprune.__file__).parent)
_LONGEST_REASON = 300
_OF_OBJECTS = ("object_type", "reference_type")
#: What the extra for sweeps adds to hydra.
_OF_SWEEPS_EXTRA = ("submitit_local", "submitit_slurm", "optuna")
_SWEEPS_EXTRA = "pip install 'speechprune[sweeps]'"
#: Calls of this many functions, from the innermost on, may name the setting that they read.
_NEAR = 4


@contextmanager
def naming_refused_settings(loop: ModuleType, cfg: DictConfig) -> Iterator[None]:
    """Turn what is raised before the first update into a UserError, unless it is our own mistake.

    Args:
        loop: `fairseq_cli.train`.
        cfg: what it trains with.
    """
    train, begun = loop.train, []

    def note_and_train(*args: Any, **options: Any) -> Any:
        begun.append(True)
        return train(*args, **options)

    loop.train = note_and_train  # type: ignore[attr-defined]
    try:
        yield
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        is_known = user_message(error) is not None
        if begun or is_known or frames[-1].filename.startswith(_OURS):
            raise
        logger.debug("the traceback of what fairseq raised", exc_info=error)
        named = _setting(error, frames, cfg)
        raise UserError(
            f"fairseq cannot begin with {named or 'these settings'}: {_reason(error, frames)}"
        ) from error
    finally:
        loop.train = train  # type: ignore[attr-defined]


def _setting(error: Exception, frames: traceback.StackSummary, cfg: DictConfig) -> str | None:
    """The setting that is meant: the message names it as an option, or the code that fails reads
    it; None if neither does."""
    names = [name.replace("-", "_") for name in re.findall(r"--([a-z][\w-]+)", str(error))]
    for frame in reversed(frames[-_NEAR:]):
        names += re.findall(r"cfg\.(?:\w+\.)?(\w+)", frame.line or "")
    for name in names:
        for group, section in cfg.items():
            if isinstance(section, DictConfig) and name in section:
                return f"{group!s}.{name}={section[name]}"
    return None


def _reason(error: Exception, frames: traceback.StackSummary) -> str:
    """What an exception says, in one line, or else the code that raised it."""
    text = first_lines(error) if isinstance(error, OmegaConfBaseException) else str(error).strip()
    if "Traceback" in text:  # from a process that loads data
        text = text.rpartition("\n")[2]
    words = " ".join(text.split())[:_LONGEST_REASON]
    return words or f"{type(error).__name__} in `{frames[-1].line}`"


def first_lines(error: Exception) -> str:
    """A hydra or omegaconf error and its cause, less what they say of their objects."""
    chain = [error] if error.__cause__ is None else [error, error.__cause__]
    lines = [line.strip().rstrip(".") for link in chain for line in str(link).splitlines()]
    kept = [line for line in lines if line and not line.startswith(_OF_OBJECTS)]
    return "; ".join(dict.fromkeys(kept))


def words_of_hydra(error: Exception) -> str:
    """Why hydra did not come to a job, in one line."""
    if isinstance(error, MissingConfigException):
        return _missing_config(error)
    if isinstance(error, OSError):
        folder = f"{error.filename} cannot be" if error.filename else "an empty name cannot name"
        return f"{folder} the folder of the run ({error.strerror}); name another hydra.run.dir"
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return first_lines(error)
    return f"hydra cannot begin: {first_lines(error)}"


def _missing_config(error: MissingConfigException) -> str:
    """Which file of a config is not there, and whether an extra brings it."""
    name = str(error.missing_cfg_file).removesuffix(".yaml")
    group, _, option = name.rpartition("/")
    known = ", ".join(map(str, error.options or ()))
    choice = f"; there are {known}" if known else ""
    hint = f": {_SWEEPS_EXTRA}" if option in _OF_SWEEPS_EXTRA else ""
    return f"{group or 'the config'} has no {option}{choice}{hint}"
