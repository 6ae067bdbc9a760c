"""Our configs: the YAMLs that `--config-name` names."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from speechprune.errors import UserError
from speechprune.registry import unknown_name

#: The group of settings that are added to a config (`+sweeps=...`).
SWEEPS = "sweeps"


def configs() -> dict[str, Path]:
    """All of them by "folder/name", sorted."""
    root = Path(str(files("speechprune.config")))
    found = {f"{file.parent.name}/{file.stem}": file for file in sorted(root.glob("*/*.yaml"))}
    return {name: file for name, file in found.items() if file.parent.name != SWEEPS}


def find_config(name: str) -> Path:
    """The YAML called ``name`` or ``folder/name`` below speechprune's config folder.

    Raises UserError, with the nearest name, if there is none, or more than one.
    """
    known = configs()
    found = [full for full in known if name in (full, full.rpartition("/")[2])]
    if not found:
        short = {full.rpartition("/")[2] for full in known}
        raise UserError(unknown_name("config", name, sorted({*known, *short})))
    if len(found) > 1:
        raise UserError(f"the config {name!r} is ambiguous; choose one of {', '.join(found)}")
    return known[found[0]]


@cache
def ends_by_updates(name: str) -> tuple[str, ...]:
    """An override for a config that ends after so many epochs too, as GLUE's do: a workflow counts
    updates, and masks would not have become as sparse as they are to be.

    Raises UserError as `find_config`.
    """
    from omegaconf import OmegaConf

    config: Any = OmegaConf.load(find_config(name))
    return ("optimization.max_epoch=0",) if config.optimization.get("max_epoch") else ()
