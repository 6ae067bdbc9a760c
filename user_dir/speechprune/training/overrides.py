"""Hydra's overrides as text: what they set, and values as hydra's grammar takes them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from speechprune.errors import UserError

#: What may end a training before its last update; off if it is not positive.
EARLY_ENDS = (
    "checkpoint.patience",
    "optimization.max_epoch",
    "optimization.stop_min_lr",
    "optimization.stop_time_hours",
)


def key_of(override: str) -> str:
    """The key of a hydra override: "model.w2v_path" of "+model.w2v_path=x.pt"."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0].strip()


def value_of(override: str) -> str:
    """The text after the equals sign."""
    return override.partition("=")[2]


def as_override(value: Any) -> str:
    """A value as an override gives it: of JSON, what hydra reads too."""
    plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    return json.dumps(plain).replace('"', "")


def by_key(groups: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of all groups by key, such as "model.w2v_path"; nested ones stay whole, and what
    is in no group keeps its name."""
    found: dict[str, Any] = {}
    for group, section in groups.items():
        if isinstance(section, dict):
            found.update({f"{group}.{name}": value for name, value in section.items()})
        else:
            found[group] = section
    return found


def refuse_own(
    overrides: Sequence[str], own: Collection[str], who: str, advice: Mapping[str, str]
) -> None:
    """Raise UserError for overrides of keys that ``who`` sets, or of groups that hold some, with
    what to do instead."""
    for override in overrides:
        for key in _among(own, override):
            raise UserError(f"{key} is set by {who} itself; {advice.get(key, 'leave it out')}")


def refuse_early_ends(overrides: Sequence[str], who: str) -> None:
    """Raise UserError for overrides by which a training may end before its last update: methods are
    compared after equal numbers of them, and masks would not be as sparse as they are to be."""
    for override in overrides:
        for key in _among(EARLY_ENDS, override):
            if override.startswith("~") or (key == key_of(override) and _is_off(override)):
                continue
            raise UserError(
                f"{key} may end a training before its updates are done, which {who} counts on; "
                "leave it out, and ask for fewer with --updates"
            )


def _among(keys: Collection[str], override: str) -> list[str]:
    """Those that an override sets, by itself or with its group."""
    given = key_of(override)
    return [key for key in sorted(keys) if key == given or key.startswith(f"{given}.")]


def _is_off(override: str) -> bool:
    """Whether an override sets a number that is not positive."""
    try:
        return float(value_of(override)) <= 0
    except ValueError:
        return False


def is_quoted(value: str) -> bool:
    """Whether a value begins with a quotation mark."""
    return value[:1] in ("'", '"')


def unquoted(value: str) -> str:
    """A value without the quotation marks around it."""
    quote = value[:1]
    if is_quoted(value) and value.endswith(quote) and len(value) > 1:
        return value[1:-1].replace(f"\\{quote}", quote)
    return value


def quoted(value: str) -> str:
    """``value`` as hydra's grammar takes it."""
    if re.fullmatch(r"[A-Za-z0-9_./-]+", value):
        return value
    return "'" + value.replace("'", "\\'") + "'"
