"""fairseq-hydra-train's arguments, completed and checked before hydra sees them."""

from __future__ import annotations

from speechprune import quiet_fairseq  # noqa: F401  (before fairseq)

# isort: split
import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fairseq.dataclass.configs import FairseqConfig
from fairseq.models import ARCH_MODEL_NAME_REGISTRY, MODEL_DATACLASS_REGISTRY, MODEL_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY
from fairseq.utils import import_user_module
from hydra._internal.utils import get_args_parser
from hydra.conf import JobConf
from omegaconf import OmegaConf

import speechprune
import speechprune.plugin  # registers our models, whose keys are checked
from speechprune.errors import UserError
from speechprune.models.names import WEIGHTS
from speechprune.registry import unknown_name
from speechprune.training.configs import SWEEPS, configs, find_config
from speechprune.training.overrides import is_quoted, key_of, quoted, unquoted, value_of
from speechprune.training.paths import PATHS


@dataclass(frozen=True)
class CommandLine:
    """Arguments in an order that hydra's parser accepts, and what is read from them."""

    arguments: list[str]
    config_name: str
    sweeps: bool


def complete(arguments: Sequence[str]) -> CommandLine:
    """Fill in the plugin and the config's folder, and check every key.

    Args:
        arguments: hydra overrides and options in any order.

    Raises:
        UserError: a malformed argument, or an unknown config, model or key.
    """
    parsed, options = _parse(arguments)
    overrides = [_with_quoted_path(override) for override in parsed.overrides]
    given = {key_of(override): value_of(override) for override in overrides}
    # The folder of each run is where its checkpoints go; older hydras have no choice, and no key.
    if "hydra.job.chdir" not in given and "chdir" in {field.name for field in fields(JobConf)}:
        overrides.append("hydra.job.chdir=true")
    if SWEEPS in given and "hydra.searchpath" not in given:
        overrides.append("hydra.searchpath=[pkg://speechprune.config]")
    if parsed.config_name is None:
        raise UserError(f"name a config with --config-name: {', '.join(configs())}")
    folder, name = parsed.config_dir, parsed.config_name
    if folder is None and parsed.config_path is None:
        file = find_config(name)
        folder, name = str(file.parent), file.stem
    config = {} if folder is None else _read(Path(folder, f"{name}.yaml"))
    user_folder = _user_folder(given, config)
    if user_folder is None:
        overrides.append(f"common.user_dir={quoted(str(Path(speechprune.__file__).parent))}")
    elif "$" not in user_folder:
        _import_user_folder(user_folder)
    if folder is not None:
        options += ["--config-dir", folder]
        check_keys(given, config)
    sweeps = parsed.multirun or given.get("hydra.mode", "").upper() == "MULTIRUN"
    if SWEEPS in given and not sweeps:
        raise UserError(f"+{SWEEPS}={given[SWEEPS]} is a sweep of several jobs: add -m")
    return CommandLine([*overrides, *options, "--config-name", name], name, sweeps)


def check_keys(given: Mapping[str, str], config: Mapping[str, Any]) -> None:
    """Refuse overrides of keys that do not exist, and unknown models, tasks and the like.

    Args:
        given: values of overrides by key ("model.prune_rate").
        config: the YAML that they override.

    Raises:
        UserError: with the nearest name.
    """
    groups = {*FairseqConfig.__dataclass_fields__, *config, "hydra"}
    for key in given:
        group, _, rest = key.partition(".")
        if rest and group not in groups:
            raise UserError(unknown_name("config group", group, sorted(groups - {"_name"})))
        section = config.get(group) or {}
        if not rest or group not in FairseqConfig.__dataclass_fields__:
            continue
        if not isinstance(section, Mapping):
            continue
        names = _choices(given.get(f"{group}._name", str(section.get("_name", ""))))
        known = _known_keys(group, names)
        if known is not None and rest.split(".")[0] not in {*known, *section, "_name"}:
            candidates = [f"{group}.{name}" for name in sorted({*known, *section})]
            raise UserError(unknown_name("key", key, candidates))


def _user_folder(given: Mapping[str, str], config: Mapping[str, Any]) -> str | None:
    """The user folder that the command line names, or else the config; None if neither does."""
    common = config.get("common")
    named = common.get("user_dir") if isinstance(common, Mapping) else None
    value = unquoted(given.get("common.user_dir", str(named or "")))
    return None if value.lower() in ("", "null") else value


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Hydra's options as it understands them, and their words without the overrides."""
    parser = get_args_parser()

    def refuse(message: str) -> None:
        raise UserError(f"{message}; see `speechprune train --help`")

    parser.error = refuse  # type: ignore[method-assign, assignment]
    # Hydra's own call refuses overrides on both sides of an option.
    parsed = parser.parse_intermixed_args(list(arguments))
    overrides = list(parsed.overrides)
    options = []
    for word in arguments:
        if overrides and word == overrides[0]:
            overrides.pop(0)
        else:
            options.append(word)
    return parsed, options


def _known_keys(group: str, names: Sequence[str]) -> set[str] | None:
    """Keys of a config group; None where they cannot be known.

    Raises UserError for the name of a model, task or the like that does not exist.
    """
    declared = FairseqConfig.__dataclass_fields__[group].type
    if is_dataclass(declared):
        return {field.name for field in fields(declared)}
    typed, all_names = _registered(group)
    known: set[str] = set()
    for name in names:
        if name not in all_names:
            near = get_close_matches(name, sorted(all_names), n=1)
            candidates = near or [n for n in sorted(all_names) if n.startswith(WEIGHTS)]
            raise UserError(unknown_name(group, name, candidates or sorted(all_names)))
        if name not in typed:
            return None
        known.update(field.name for field in fields(typed[name]))
    return known if names else None


def _registered(group: str) -> tuple[Mapping[str, type], set[str]]:
    """Dataclasses of a group by name, and all names, with a dataclass or not."""
    if group == "model":
        architectures = {
            name: MODEL_DATACLASS_REGISTRY[model]
            for name, model in ARCH_MODEL_NAME_REGISTRY.items()
            if model in MODEL_DATACLASS_REGISTRY
        }
        typed = {**architectures, **MODEL_DATACLASS_REGISTRY}
        return typed, {*typed, *MODEL_REGISTRY}
    if group == "task":
        return TASK_DATACLASS_REGISTRY, {*TASK_DATACLASS_REGISTRY, *TASK_REGISTRY}
    parts = REGISTRIES.get(group, {"dataclass_registry": {}, "registry": {}})
    return parts["dataclass_registry"], {*parts["dataclass_registry"], *parts["registry"]}


def _choices(value: str) -> list[str]:
    """The names in a value, which in a sweep may be several: "a,b" or "choice(a,b)"."""
    return [] if "$" in value else [n for n in re.findall(r"[\w-]+", value) if n != "choice"]


def _read(path: Path) -> Mapping[str, Any]:
    """The YAML as it is written; empty where there is none, which hydra reports itself."""
    if not path.is_file():
        return {}
    content: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    return content if isinstance(content, Mapping) else {}


def _with_quoted_path(override: str) -> str:
    """``override`` with the path of what exists here in quotes: it may hold any character."""
    key, equals, value = override.partition("=")
    if key_of(override) not in PATHS or not equals:
        return override
    choices = [value] if is_quoted(value) else value.split(",")
    made = []
    for choice in map(str.strip, choices):
        path = Path(unquoted(choice)).expanduser()
        known = unquoted(choice) and path.exists()
        made.append(quoted(str(path.absolute())) if known else choice)
    return f"{key}={','.join(made)}"


def _import_user_folder(path: str) -> None:
    """Import it as fairseq does; raises UserError if there is none, or its name is another's."""
    try:
        import_user_module(argparse.Namespace(user_dir=path))
    except FileNotFoundError as error:
        raise UserError(
            f"common.user_dir={path} does not exist; name one folder, a Python package"
        ) from error
    except ImportError as error:
        if "not globally unique" not in str(error):
            raise
        raise UserError(
            f"common.user_dir={path} has the name of another Python package ({Path(path).name}); "
            "rename the folder, or leave common.user_dir out to use the plugin of this command"
        ) from error
