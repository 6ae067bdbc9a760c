"""Whether what is to draw a run's curves is installed."""

from __future__ import annotations

from fairseq.logging import progress_bar
from omegaconf import DictConfig

from speechprune.errors import UserError

#: Settings that ask for curves elsewhere, the package that draws them, and what fairseq has of it.
_TRACKERS = (
    ("aim_repo", "aim", "get_aim_run"),
    ("azureml_logging", "azureml-core", "Run"),
    ("tensorboard_logdir", "tensorboard", "SummaryWriter"),
    ("wandb_project", "wandb", "wandb"),
)


def check_trackers(common: DictConfig) -> None:
    """Refuse curves that fairseq would leave out, with a warning among many lines."""
    for key, package, name in _TRACKERS:
        if common[key] and getattr(progress_bar, name, None) is None:
            raise UserError(
                f"common.{key} needs {package}, which is not installed: pip install {package}, or "
                "leave the setting out"
            )
