"""What a file or folder was made with: it is used again under the same settings, and no others."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from speechprune.checksums import read_json, write_json
from speechprune.errors import UserError

#: The file in a folder that says what the folder was made with.
SETTINGS = "settings.json"
_NOT_SET = "(not set)"


def differing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The keys of settings that differ, in order; values count as JSON gives them back."""
    wanted = json.loads(json.dumps(wanted))
    return [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]


def refuse_other_settings(
    place: Path,
    found: Mapping[str, Any],
    wanted: Mapping[str, Any],
    advice: str,
    may_change: Collection[str] = (),
) -> None:
    """Raise UserError, with what differs, unless a file or folder was made with these settings.

    Args:
        found: what it was made with.
        wanted: what it would be made with now.
        advice: what to do in the other case.
        may_change: keys whose values do not count.
    """
    others = [key for key in differing(found, wanted) if key not in may_change]
    if not others:
        return
    pairs = [f"{k}={_shown(found, k)}, not {_shown(wanted, k)}" for k in others]
    raise UserError(f"{place} was made with other settings ({'; '.join(pairs)}); {advice}")


def claim(folder: Path, settings: Mapping[str, Any], may_change: Collection[str] = ()) -> None:
    """Note in a folder what it is made with, unless it was made with something else before.

    Args:
        settings: what JSON can hold.
        may_change: settings that may still be changed.

    Raises:
        UserError: the folder was made with other settings, or what it says of them is damaged.
    """
    path = folder / SETTINGS
    found = read_json(path) if path.exists() else {}
    if found:
        refuse_other_settings(folder, found, settings, "name another folder", may_change)
    if differing(found, settings):
        write_json(path, settings)


def _shown(settings: Mapping[str, Any], key: str) -> str:
    if key not in settings:
        return _NOT_SET
    value = settings[key]
    return value if isinstance(value, str) else json.dumps(value)
