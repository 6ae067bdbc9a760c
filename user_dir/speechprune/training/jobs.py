"""What a job of a sweep was begun with: its checkpoints tell what models made of that."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from speechprune.checksums import read_json, write_json
from speechprune.errors import UserError
from speechprune.made_with import differing
from speechprune.models.restart import LAST
from speechprune.training.continuing import LIMITS, MAY_CHANGE
from speechprune.training.inputs import begun_with, contents_of, refuse_other_inputs
from speechprune.training.overrides import as_override, by_key
from speechprune.training.paths import PATHS

JOB = "job.json"
#: The parts of the note: settings by key, contents of what they name, and which were given.
_SETTINGS, _INPUTS, _GIVEN = "settings", "inputs", "given"
#: Settings that are fitted to the machine or to the data, unless they are given.
_FITTED = (
    "checkpoint.best_checkpoint_metric",
    "distributed_training.distributed_world_size",
    "optimization.update_freq",
)
_ADVICE = "name another hydra.sweep.dir"


def claim_job(
    asked: DictConfig, anchored: DictConfig, given: Collection[str], folder: Path
) -> None:
    """Note what a job of a sweep is begun with, and refuse that it goes on from what was trained
    with other values: a sweep that is typed anew counts its jobs from 0 again, in the same folders.

    Args:
        asked: complete, as it was asked for, not fitted to the machine.
        anchored: the same with paths as they are read.
        given: the keys that the user set.
        folder: of the job's checkpoints; it has to be there, and locked.

    Raises:
        UserError: a checkpoint is there already, of another value or of unknown ones.
    """
    wanted: dict[str, Any] = {
        _SETTINGS: _settings(asked),
        _INPUTS: contents_of(partial(OmegaConf.select, anchored)),
        _GIVEN: [key for key in _FITTED if key in given],
    }
    note = folder / JOB
    known = read_json(note, _ADVICE) if note.exists() else {}
    if (folder / LAST).is_file():
        _refuse_another(folder, known, wanted)
        wanted[_INPUTS] = begun_with(known[_INPUTS], wanted[_INPUTS])
    if differing(known, wanted):
        write_json(note, wanted)


def _settings(cfg: DictConfig) -> dict[str, Any]:
    """The settings of all groups, nested ones as a whole, and what is in no group; those that
    follow another one come last.

    They are resolved, but for what follows a limit, which may become a later one.
    """
    resolved = copy.deepcopy(cfg)
    for key in LIMITS:
        OmegaConf.update(resolved, key, 0)
    groups: Any = OmegaConf.to_container(resolved, resolve=True, enum_to_str=True)
    unresolved: Any = OmegaConf.to_container(cfg, resolve=False, enum_to_str=True)
    found, asked = by_key(groups), by_key(unresolved)
    follows = {key for key, value in asked.items() if str(value).startswith("${")}
    ordered = {key: found[key] for key in sorted(found, key=follows.__contains__)}
    limits = {key: OmegaConf.select(cfg, key) for key in LIMITS}
    return {key: value for key, value in {**ordered, **limits}.items() if key not in MAY_CHANGE}


def _refuse_another(folder: Path, known: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise UserError unless what was trained in a folder was begun as this job is."""
    if known.keys() != wanted.keys():
        raise UserError(
            f"{folder.absolute()} has a checkpoint, and no {JOB} that says what it was begun with: "
            f"{_ADVICE}"
        )
    _refuse_other_settings(folder, known[_SETTINGS], wanted[_SETTINGS])
    refuse_other_inputs(folder.absolute(), known[_INPUTS], wanted[_INPUTS])
    for key in differing(dict.fromkeys(known[_GIVEN], True), dict.fromkeys(wanted[_GIVEN], True)):
        before, now = ("with", "without") if key in known[_GIVEN] else ("without", "with")
        raise UserError(
            f"{folder.absolute()} has a job that was begun {before} {key}, and this one is begun "
            f"{now} it: {_ADVICE}"
        )


def _refuse_other_settings(
    folder: Path, before: Mapping[str, Any], wanted: Mapping[str, Any]
) -> None:
    """Raise UserError for the first setting by which two jobs have other results; those that only
    one of them knows are of another version."""
    for key in differing(before, wanted):
        if key not in before or key not in wanted:
            continue
        if key in LIMITS and _limit(before[key]) <= _limit(wanted[key]):
            continue
        moved = ", or link what moved to where it was" if key in PATHS else ""
        raise UserError(
            f"{folder.absolute()} has a job of {key}={as_override(before[key])}, and this one is "
            f"of {as_override(wanted[key])}: {_ADVICE}{moved}"
        )


def _limit(value: float) -> float:
    return value if value > 0 else math.inf
