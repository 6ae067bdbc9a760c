"""Settings as a file holds them, made plain: containers and scalars that name no code."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from speechprune.checkpoint.evaluated import refuse_code
from speechprune.checkpoint.kinds import NUMBER, described, is_one_of
from speechprune.errors import UserError

#: Deeper, and more, than settings are.
_DEEPEST = 20
_MOST_SETTINGS = 50_000
#: What omegaconf would call a function for.
_RESOLVER = re.compile(r"\$\{[^}]*:")
#: What a setting takes from another one, by its path.
_REFERENCE = re.compile(r"\$\{([^${}]+)\}")
#: What is read of settings of today.
_SECTIONS = ("task", "model", "common", "checkpoint", "dataset", "optimization", "criterion")
#: What some settings must be, in whatever section they are, if they have a value. fairseq checks
#: those of a model when it builds it; these are read before.
_TYPES: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("_name", "arch", "w2v_path", "save_dir", "restore_file"), (str,)),
    **dict.fromkeys(("finetune_from_model", "best_checkpoint_metric", "target_dictionary"), (str,)),
    **dict.fromkeys(("train_subset", "valid_subset"), (str,)),
    **dict.fromkeys(("data", "labels"), (str, list)),
    **dict.fromkeys(("normalize", "maximize_best_checkpoint_metric"), (bool,)),
    **dict.fromkeys(("sample_rate", "encoder_embed_dim", "max_epoch", "patience", "seed"), (int,)),
    **dict.fromkeys(("label_rate", "max_update", "stop_min_lr", "stop_time_hours"), NUMBER),
    "w2v_args": (dict, Namespace),
    **dict.fromkeys(("dropped_layers", "slim_plan"), (dict,)),
    **dict.fromkeys(("encoder_layers", "vocabulary", "max_positions", "num_classes"), (int,)),
    "roberta_path": (str,),
}


def plain_sections(cfg: Any, path: object) -> dict[str, Any] | None:
    """Settings by section: dicts, lists and scalars, with what they take from each other.

    Args:
        cfg: as fairseq saves it since 2021, of plain containers, omegaconf or namespaces.

    Returns:
        None if there are none. ``user_dir`` is None wherever it is.

    Raises:
        UserError: it is something else, or a setting is of a wrong type, or code.
    """
    if cfg is None or (isinstance(cfg, dict) and not cfg):
        return None
    written = _Plain(path, keep_namespaces=False).of(cfg, "cfg")
    if not isinstance(written, dict):
        raise UserError(f"{path} is damaged: its cfg is {described(cfg)}")
    plain = _resolved(written, path)
    for name in _SECTIONS:
        section = plain.get(name)
        if section is not None and not isinstance(section, dict):
            raise UserError(f"{path} is damaged: its cfg.{name} is {described(section)}")
    _check_types(plain, path)
    refuse_code(plain, path)
    return plain


def plain_namespace(args: Any, path: object) -> Namespace | None:
    """The flat settings of 2020, likewise."""
    if args is None:
        return None
    plain = _Plain(path, keep_namespaces=True).of(args, "args")
    if not isinstance(plain, Namespace):
        raise UserError(f"{path} is damaged: its args are {described(args)}")
    _check_types(plain, path)
    refuse_code(plain, path)
    return plain


class _Plain:
    """Makes plain copies of settings.

    Args:
        path: the file that they are of.
        keep_namespaces: or make dicts of them, with ``_name`` as newer settings have.
    """

    def __init__(self, path: object, *, keep_namespaces: bool) -> None:
        self.path = path
        self.keep_namespaces = keep_namespaces
        self.count = 0

    def of(self, value: Any, name: str) -> Any:
        """A copy of nested settings; raises UserError for what cannot be a setting.

        Args:
            name: of the value, with those of all that it is in.
        """
        self.count += 1
        if self.count > _MOST_SETTINGS or name.count(".") > _DEEPEST:
            raise _too_many(self.path)
        if isinstance(value, (DictConfig, ListConfig)):
            value = self._contained(value, name)
        if isinstance(value, Namespace):
            inner = self.of(vars(value), name)
            return Namespace(**inner) if self.keep_namespaces else _named(inner)
        if isinstance(value, dict):
            pairs = ((key, self.of(each, f"{name}.{key}")) for key, each in value.items())
            return {key: None if key == "user_dir" else each for key, each in pairs}
        if isinstance(value, (list, tuple)):
            return type(value)([self.of(each, f"{name}.{i}") for i, each in enumerate(value)])
        if value is not None and type(value) not in (str, int, float, bool):
            raise UserError(
                f"{self.path} is damaged: {name} is {described(value)}, which cannot be a setting"
            )
        if isinstance(value, str) and _RESOLVER.search(value):
            raise UserError(f"{self.path}: {name}={value[:60]} is refused: it names a function")
        if isinstance(value, str) and value.count("${") > 1:
            raise UserError(f"{self.path}: {name}={value[:60]} is refused: it is made of others")
        return value

    def _contained(self, value: Any, name: str) -> Any:
        try:
            return OmegaConf.to_container(value, resolve=False, enum_to_str=True)
        # A damaged one may fail anywhere.
        except Exception as error:
            raise UserError(f"{self.path} is damaged: {name} cannot be read") from error


def _named(section: dict[str, Any]) -> dict[str, Any]:
    """A section with its name under the key of today."""
    for old in ("arch", "task"):
        if section.get("_name") is None and isinstance(section.get(old), str):
            section["_name"] = section[old]
    return section


def _resolved(plain: dict[str, Any], path: object) -> dict[str, Any]:
    """Settings with what they take from others; what leads nowhere stays as it is written."""
    count = 0

    def value_of(value: Any, depth: int = 0) -> Any:
        nonlocal count
        count += 1
        # References to references could double a few bytes until they fill any memory.
        if count > _MOST_SETTINGS:
            raise _too_many(path)
        reference = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if reference is not None and depth <= _DEEPEST:
            found = _at(plain, reference[1].split("."))
            return value if found is None else value_of(found, depth + 1)
        if isinstance(value, dict):
            return {key: value_of(each, depth + 1) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)([value_of(each, depth + 1) for each in value])
        return value

    return {key: value_of(value) for key, value in plain.items()}


def _at(settings: Any, names: Sequence[str]) -> Any:
    """The setting at a path; None if there is none."""
    for name in names:
        settings = settings.get(name) if isinstance(settings, dict) else None
    return settings


def _too_many(path: object) -> UserError:
    return UserError(f"{path} is damaged: it has more settings than any model")


def _check_types(settings: Any, path: object) -> None:
    """Raise UserError if a setting of _TYPES is of another type."""
    if isinstance(settings, Namespace):
        settings = vars(settings)
    if isinstance(settings, dict):
        for name, value in settings.items():
            types = _TYPES.get(name)
            if types and value is not None and not is_one_of(value, types):
                raise UserError(f"{path} is damaged: its setting {name} is {described(value)}")
            _check_types(value, path)
