"""What a training reads besides its settings: the contents of what settings name by a path."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from speechprune.errors import UserError
from speechprune.files import digest
from speechprune.manifests.label_files import CLASSES
from speechprune.manifests.split_files import digest_of_files, is_of_texts, split_digest
from speechprune.models.restart import LAST
from speechprune.training.configs import find_config
from speechprune.training.continuing import MAY_CHANGE
from speechprune.training.overrides import by_key, key_of, unquoted, value_of
from speechprune.training.paths import FILES

_DATA = "task.data"
#: The keys of subsets, and fairseq's values.
_SUBSETS = {"dataset.train_subset": "train", "dataset.valid_subset": "valid"}
#: What says where data and labels are.
_OF_DATA = (_DATA, "task.label_dir", "task.labels", "task._name", *_SUBSETS)

#: What there is to read, and what people call a part of it.
CONFIG, READ, SPLITS = "config", "files", "data"
_NAMES = {CONFIG: "{} of the config", READ: "the file that {} names", SPLITS: "{} of task.data"}

#: By section: settings of the config as JSON, digests of files by key, and of data by subset.
Inputs = Mapping[str, Mapping[str, str]]


def inputs_of(config: str, overrides: Sequence[str]) -> Inputs:
    """What tells apart all that a training reads; what is missing is left out.

    Args:
        config: its name, such as ``finetuning/base_1h``. Settings that overrides replace, or on
            which no result depends, are left out.
        overrides: hydra's, of which the last one of a key counts.

    Raises:
        UserError: there is no such config.
    """
    settings: Any = OmegaConf.load(find_config(config))
    given = {key_of(override): unquoted(value_of(override)) for override in overrides}
    plain: Any = OmegaConf.to_container(settings)
    plain.pop("hydra", None)
    own = {key: json.dumps(each, sort_keys=True) for key, each in by_key(plain).items()}
    passed_over = MAY_CHANGE | given.keys()
    for key in given.keys() & {*FILES, *_OF_DATA}:
        OmegaConf.update(settings, key, given[key])

    def value(key: str) -> Any:
        try:
            return OmegaConf.select(settings, key)
        except OmegaConfBaseException:  # it follows a setting that is not given
            return None

    kept = {key: own[key] for key in sorted(own) if key not in passed_over}
    return {CONFIG: kept, **contents_of(value)}


def contents_of(value: Callable[[str], Any]) -> Inputs:
    """What tells apart the files and the data that settings name; what is missing is left out.

    Args:
        value: of a key of fairseq's settings; None for one that is not set.
    """
    named = {key: value(key) for key in FILES}
    files = {key: _path(name) for key, name in named.items() if name and name != LAST}
    subsets = [
        subset
        for key, default in _SUBSETS.items()
        for subset in str(value(key) or default).split(",")
    ]
    return {
        READ: {key: digest(path) for key, path in files.items() if path.is_file()},
        SPLITS: dict(_of_splits(value, subsets)) if value(_DATA) else {},
    }


def _path(value: Any) -> Path:
    return Path(str(value)).expanduser()


def _of_splits(value: Callable[[str], Any], subsets: Sequence[str]) -> Iterator[tuple[str, str]]:
    folder = _path(value(_DATA))
    for subset in subsets:
        try:
            if is_of_texts(folder):
                yield subset, split_digest(folder, subset, "")
            elif (folder / f"{subset}.bin").exists():  # of plain text
                yield subset, digest_of_files(folder / f"{subset}.{end}" for end in ("bin", "idx"))
            else:
                labels = _path(value("task.label_dir") or folder)
                files = [labels / f"{subset}.{ending}" for ending in _endings(value)]
                yield subset, digest_of_files([folder / f"{subset}.tsv", *files])
        except OSError:  # the training will say what is missing, if it begins at all
            pass


def _endings(value: Callable[[str], Any]) -> list[str]:
    """Of the files of labels beside a manifest."""
    # Imports torch, which reading a finished run does without.
    from speechprune.checkpoint.slots import AUDIO_LABELS

    if value("task._name") == AUDIO_LABELS:
        return [CLASSES]
    labels = value("task.labels") or "ltr"
    if isinstance(labels, str):  # of an override, a list is text
        return [each.strip() for each in labels.strip("[]").split(",")]
    return [str(each) for each in labels]


def by_name(inputs: Inputs) -> dict[str, str]:
    """What tells contents apart, by what people call them."""
    return {
        words.format(key): told
        for section, words in _NAMES.items()
        for key, told in inputs.get(section, {}).items()
    }


def begun_with(noted: Inputs, now: Inputs) -> Inputs:
    """What a run has read since it began: what was noted then, and what was missing then."""
    sections = {**now, **noted}
    return {name: {**now.get(name, {}), **noted.get(name, {})} for name in sections}


def changed(before: Inputs, now: Inputs) -> list[str]:
    """The names of what differs; what is not there any more does not count: a run that has ended
    does not need it."""
    known, found = by_name(before), by_name(now)
    return [name for name in known if name in found and known[name] != found[name]]


def refuse_other_inputs(folder: Path, before: Inputs, now: Inputs) -> None:
    """Raise UserError, with what changed, if a run has read something else.

    Args:
        folder: the run's.
        before: what it began with.
        now: the same as it is.
    """
    others = changed(before, now)
    if others:
        raise UserError(
            f"{folder} was trained with something else: {', '.join(others)} changed since then; "
            "put back what was there, or name another folder"
        )
