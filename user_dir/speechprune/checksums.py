"""Files that carry a checksum of what they say, so that a changed byte is noticed.

Those of earlier versions have none, and neither need those that were written by hand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from speechprune.errors import UserError
from speechprune.files import write_atomically

if TYPE_CHECKING:
    import numpy as np

#: The key of the checksum.
CHECKSUM = "sha256"

_ANEW = "remove it to have it made anew"


def with_checksum(
    content: Mapping[str, Any], arrays: Mapping[str, np.ndarray] = {}
) -> dict[str, Any]:
    """What JSON can hold, with a checksum of it and of the arrays that go with it."""
    return {**content, CHECKSUM: checksum(content, arrays)}


def verified(found: Mapping[str, Any], arrays: Mapping[str, np.ndarray] = {}) -> dict[str, Any]:
    """What `with_checksum` was given; raises UserError, without the name of a file, if it differs
    from its checksum."""
    content = {key: value for key, value in found.items() if key != CHECKSUM}
    if CHECKSUM in found and found[CHECKSUM] != checksum(content, arrays):
        raise UserError(f"it differs from its checksum ({CHECKSUM}): it is damaged or was edited")
    return content


def write_json(path: Union[str, Path], content: Mapping[str, Any]) -> None:
    """Write a JSON object with its checksum; raises UserError as `write_atomically`."""
    write_atomically(path, (json.dumps(with_checksum(content), indent=2) + "\n").encode())


def read_json(path: Path, advice: str = _ANEW) -> dict[str, Any]:
    """What `write_json` wrote, or any JSON object.

    Raises UserError, with ``advice``, if it cannot be read, is something else, or differs from its
    checksum.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique)
        if not isinstance(found, dict):
            raise UserError("it is not a JSON object")
        return verified(found)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {advice}") from error
    except UserError as error:
        raise UserError(f"{path} cannot be used: {error}; {advice}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged; {advice}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; raises UserError for a key that is there twice, of which one was lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{twice!r} is there twice")
    return found


def write_entries(path: Path, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Write JSON objects by name, each with its own checksum; raises as `write_atomically`."""
    checked = {name: with_checksum(entry) for name, entry in entries.items()}
    write_atomically(path, (json.dumps(checked, indent=2) + "\n").encode())


def read_entries(path: Path) -> dict[str, Any]:
    """What `write_entries` wrote, as far as it is as it was; nothing of a file that cannot be read.

    For what can be had again.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    entries = {}
    for name, entry in found.items() if isinstance(found, dict) else ():
        try:
            if isinstance(entry, dict):
                entries[name] = verified(entry)
        except UserError:
            continue
    return entries


def checksum(content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of what JSON can hold, and of arrays with their names, in hexadecimal."""
    # As it will be read: JSON knows no tuples, and keys are text.
    plain = json.loads(json.dumps(content))
    found = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        found.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        found.update(array.tobytes())
    return found.hexdigest()
