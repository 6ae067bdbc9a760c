"""fairseq-hydra-train's arguments, completed and checked before hydra sees them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Mapping, Sequence
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
import speechprune.tools
from speechprune.errors import UserError
from speechprune.models.names import WEIGHTS
from speechprune.registry import unknown_name

#: Keys of files and folders. A run changes its folder, which would break relative paths.
PATHS = (
    "checkpoint.finetune_from_model",
    "checkpoint.restore_file",
    "common.user_dir",
    "model.layer_plan",
    "model.mask_file",
    "model.w2v_path",
    "task.data",
    "task.target_dictionary",
)
#: Of these, the ones that fairseq also looks for in the run's folder or its own.
_ALSO_ELSEWHERE = ("checkpoint.restore_file", "common.user_dir")


@dataclass(frozen=True)
class CommandLine:
    """Arguments in an order that hydra's parser accepts, and what is read from them."""

    arguments: list[str]
    config_name: str
    sweeps: bool


def complete(arguments: Sequence[str]) -> CommandLine:
    """Fill in the plugin and the recipe's folder, make paths absolute, and check every key.

    Args:
        arguments: hydra overrides and options in any order.

    Raises:
        UserError: a malformed argument, or an unknown recipe, model or key.
    """
    parsed, options = _parse(arguments)
    overrides = [_with_absolute_path(override) for override in parsed.overrides]
    given = {key_of(override): value_of(override) for override in overrides}
    if "common.user_dir" in given:
        import_user_module(argparse.Namespace(user_dir=_unquoted(given["common.user_dir"])))
    else:
        plugin = str(Path(speechprune.__file__).parent)
        overrides.append(f"common.user_dir={quoted(plugin)}")
    # The folder of each run is where its checkpoints go; older hydras have no choice, and no key.
    if "hydra.job.chdir" not in given and "chdir" in {field.name for field in fields(JobConf)}:
        overrides.append("hydra.job.chdir=true")
    if parsed.config_name is None:
        raise UserError(f"name a recipe with --config-name: {', '.join(_recipes())}")
    folder, name = parsed.config_dir, parsed.config_name
    if folder is None and parsed.config_path is None:
        recipe = find_recipe(name)
        folder, name = str(recipe.parent), recipe.stem
    if folder is not None:
        options += ["--config-dir", folder]
        check_keys(given, _read(Path(folder, f"{name}.yaml")))
    sweeps = parsed.multirun or given.get("hydra.mode", "").upper() == "MULTIRUN"
    return CommandLine([*overrides, *options, "--config-name", name], name, sweeps)


def find_recipe(name: str) -> Path:
    """The YAML called ``name`` or ``folder/name`` below speechprune's config folder.

    Raises UserError, with the nearest name, if there is none, or more than one.
    """
    recipes = _recipes()
    found = [full for full in recipes if name in (full, full.rpartition("/")[2])]
    if not found:
        short = {full.rpartition("/")[2] for full in recipes}
        raise UserError(unknown_name("recipe", name, sorted({*recipes, *short})))
    if len(found) > 1:
        raise UserError(f"recipe {name!r} is ambiguous; choose one of {', '.join(found)}")
    return recipes[found[0]]


def check_keys(given: Mapping[str, str], recipe: Mapping[str, Any]) -> None:
    """Refuse overrides of keys that do not exist, and unknown models, tasks and the like.

    Args:
        given: values of overrides by key ("model.prune_rate").
        recipe: the YAML that they override.

    Raises:
        UserError: with the nearest name.
    """
    groups = {*FairseqConfig.__dataclass_fields__, *recipe, "hydra"}
    for key in given:
        group, _, rest = key.partition(".")
        if rest and group not in groups:
            raise UserError(unknown_name("config group", group, sorted(groups - {"_name"})))
        section = recipe.get(group) or {}
        if not rest or group not in FairseqConfig.__dataclass_fields__:
            continue
        if not isinstance(section, Mapping):
            continue
        names = _choices(given.get(f"{group}._name", str(section.get("_name", ""))))
        known = _known_keys(group, names)
        if known is not None and rest.split(".")[0] not in {*known, *section, "_name"}:
            candidates = [f"{group}.{name}" for name in sorted({*known, *section})]
            raise UserError(unknown_name("key", key, candidates))


def key_of(override: str) -> str:
    """The key of a hydra override: "model.w2v_path" of "+model.w2v_path=x.pt"."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0].strip()


def refuse_own(
    overrides: Sequence[str], own: Collection[str], who: str, advice: Mapping[str, str]
) -> None:
    """Raise UserError for overrides of keys that ``who`` sets, with what to do instead."""
    for override in overrides:
        key = key_of(override)
        if key in own:
            raise UserError(f"{key} is set by {who} itself; {advice.get(key, 'leave it out')}")


def value_of(override: str) -> str:
    """The text after the equals sign."""
    return override.partition("=")[2]


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


def _recipes() -> dict[str, Path]:
    """Our YAMLs by "folder/name", sorted."""
    # The configs lie beside the commands, in a checkout as in an installed package.
    root = Path(speechprune.tools.__file__).parent.parent / "config"
    return {f"{file.parent.name}/{file.stem}": file for file in sorted(root.glob("*/*.yaml"))}


def _read(path: Path) -> Mapping[str, Any]:
    """The YAML as it is written; empty where there is none, which hydra reports itself."""
    if not path.is_file():
        return {}
    content: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    return content if isinstance(content, Mapping) else {}


def _with_absolute_path(override: str) -> str:
    """``override`` with its path made absolute, as it is meant here, whether it exists or not."""
    key, equals, value = override.partition("=")
    name = key_of(override)
    if name not in PATHS or not equals:
        return override
    choices = [value] if _is_quoted(value) else value.split(",")
    meant_here = name not in _ALSO_ELSEWHERE and _is_literal(value)
    made = []
    for choice in map(str.strip, choices):
        path = Path(_unquoted(choice)).expanduser()
        is_path = path.exists() or (meant_here and choice.lower() != "null")
        known = is_path and _unquoted(choice)
        made.append(quoted(str(path.absolute())) if known else choice)
    return f"{key}={','.join(made)}"


def _is_literal(value: str) -> bool:
    """Whether hydra reads a value as it stands: no ???, interpolation, function or escape."""
    if _is_quoted(value):
        return "${" not in value
    return not re.search(r"[$(){}\[\]\\?]", value)


def _is_quoted(value: str) -> bool:
    return value[:1] in ("'", '"')


def _unquoted(value: str) -> str:
    quote = value[:1]
    if _is_quoted(value) and value.endswith(quote) and len(value) > 1:
        return value[1:-1].replace(f"\\{quote}", quote)
    return value


def quoted(value: str) -> str:
    """``value`` as hydra's grammar takes it."""
    if re.fullmatch(r"[A-Za-z0-9_./-]+", value):
        return value
    return "'" + value.replace("'", "\\'") + "'"
