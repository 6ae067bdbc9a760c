"""What a folder was made of: it is gone on with under the same settings, and no others."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from speechprune.errors import UserError
from speechprune.files import write_atomically

_SETTINGS = "settings.json"


def claim(folder: Path, settings: Mapping[str, Any], open_keys: Collection[str]) -> None:
    """Note the settings of a folder, unless others were noted before.

    Args:
        settings: what JSON can hold.
        open_keys: settings that may still be changed.

    Raises:
        UserError: the folder is of other settings, or what it says of them is damaged.
    """
    path = folder / _SETTINGS
    wanted = json.loads(json.dumps(settings))
    found = read_json(path) if path.exists() else wanted
    others = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
    closed = [key for key in others if key not in open_keys]
    if closed:
        raise UserError(f"{folder} is of other settings ({', '.join(closed)}); name another folder")
    if others or not path.exists():
        write_atomically(path, (json.dumps(wanted, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """What an earlier call left; raises UserError if it is damaged."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged; remove it to have it made anew") from error
    return found
