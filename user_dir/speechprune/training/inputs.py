"""What a training reads besides its settings: the contents of what settings name by a path."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Union

from omegaconf import OmegaConf

from speechprune.errors import UserError
from speechprune.files import digest
from speechprune.manifests.split_files import split_digest
from speechprune.training.configs import find_config
from speechprune.training.overrides import key_of, unquoted, value_of
from speechprune.training.paths import FILES

DATA = "task.data"
_SUBSETS = ("dataset.train_subset", "dataset.valid_subset")

#: Digests of files by key, of a config's settings by "--config-name", and of data by subset.
Inputs = Mapping[str, Union[str, Mapping[str, str]]]


def inputs_of(config: str, overrides: Sequence[str]) -> Inputs:
    """What tells apart the contents of what a training reads; what is missing is left out.

    Args:
        config: its name, such as ``finetuning/base_1h``.
        overrides: hydra's, of which the last one of a key counts.

    Raises:
        UserError: there is no such config.
    """
    settings: Any = OmegaConf.load(find_config(config))
    given = {key_of(override): unquoted(value_of(override)) for override in overrides}

    def value(key: str) -> str:
        return str(given[key] if key in given else OmegaConf.select(settings, key) or "")

    files = {key: Path(value(key)) for key in FILES if value(key)}
    subsets = [subset for key in _SUBSETS for subset in value(key).split(",") if subset]
    plain = json.dumps(OmegaConf.to_container(settings), sort_keys=True)
    return {
        "--config-name": hashlib.sha256(plain.encode()).hexdigest(),
        **{key: digest(path) for key, path in files.items() if path.is_file()},
        DATA: dict(_digests(Path(value(DATA)), subsets, value("task.labels") or "ltr")),
    }


def _digests(folder: Path, subsets: Sequence[str], labels: str) -> Iterator[tuple[str, str]]:
    for subset in subsets:
        try:
            yield subset, split_digest(folder, subset, labels)
        except OSError:  # the training will say what is missing, if it begins at all
            pass


def by_name(inputs: Inputs) -> dict[str, str]:
    """What tells contents apart, by what people call them."""
    found: dict[str, str] = {}
    for key, value in inputs.items():
        if isinstance(value, str):
            found[f"the file of {key}"] = value
        else:
            found |= {f"{subset} of {key}": each for subset, each in value.items()}
    return found


def refuse_other_inputs(folder: Path, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise UserError, with what changed, if a run has read something else.

    Args:
        folder: the run's.
        before: what it began with, by name. What is not there any more does not count: a run that
            has ended does not need it.
        now: the same as it is.
    """
    changed = [name for name in before if name in now and before[name] != now[name]]
    if changed:
        raise UserError(
            f"{folder} was trained on something else: {', '.join(changed)} changed since then; "
            "put back what was there, or name another folder"
        )
