"""What training would refuse of settings and data, reported before anything is started."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from inspect import signature
from pathlib import Path

from fairseq.dataclass.initialize import hydra_init
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from speechprune.errors import UserError
from speechprune.training.command_line import complete
from speechprune.training.launch import completed
from speechprune.training.preflight import check_data, check_settings
from speechprune.training.refusals import first_lines

try:
    from hydra import compose, initialize_config_dir
except ImportError:  # hydra 1.0
    from hydra.experimental import (  # type: ignore[assignment]
        compose,
        initialize_config_dir,
    )


def rehearse(arguments: Sequence[str], *, data: bool = True) -> DictConfig:
    """Compose the settings of a training run, and check them as `train` would.

    Files that are named, other than those of the data, need not exist yet.

    Args:
        arguments: of `speechprune train`, without sweeps.
        data: check the data too, which takes time, since all recordings are looked at.

    Returns:
        The settings.

    Raises:
        UserError: what training would refuse of settings and data.
    """
    cfg = completed(_composed(arguments), Path.cwd())
    check_settings(cfg)
    if data:
        check_data(cfg)
    return cfg


def _composed(arguments: Sequence[str]) -> DictConfig:
    words = iter(complete(arguments).arguments)
    overrides, options = [], {}
    for word in words:
        if word.startswith("--"):
            options[word] = next(words)
        else:
            overrides.append(word)
    name = options["--config-name"]
    hydra_init(name)
    # Hydra 1.0 knows no versions.
    versions = "version_base" in signature(initialize_config_dir).parameters
    version = {"version_base": "1.1"} if versions else {}
    try:
        with warnings.catch_warnings(), initialize_config_dir(options["--config-dir"], **version):
            # What newer hydras think of fairseq's configs.
            warnings.filterwarnings("ignore", r"[\s\S]*hydra\.cc/docs", UserWarning)
            return compose(config_name=name, overrides=overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(first_lines(error)) from error
