"""`provenance.json`: where a manifest folder came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechprune import __version__
from speechprune.errors import UserError
from speechprune.manifests.lines import ENCODING, write_lines

PROVENANCE = "provenance.json"
#: The key under which a corpus lists who speaks both in train and in test because it means to test
#: on speakers whom training knows.
SHARED_SPEAKERS = "shared_speakers"

#: The key of what tells the recordings that a corpus was cut from apart from others of their name.
ARCHIVE_DIGEST = "archive_digest"


def read_provenance(folder: Path) -> dict[str, Any]:
    """The provenance of a folder; empty if it has none.

    Raises UserError if it is not a JSON object.
    """
    path = folder / PROVENANCE
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding=ENCODING))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a JSON object; remove it if it is not ours")
    return found


def write_provenance(folder: Path, described: Mapping[str, Any]) -> None:
    """Write the provenance of a folder, with our version added."""
    text = json.dumps(
        {"speechprune": __version__, **described}, indent=2, sort_keys=True, ensure_ascii=False
    )
    # Names of files need not be text; JSON has an escape for each of their bytes.
    write_lines(folder / PROVENANCE, [text.encode(errors="backslashreplace").decode()])


def finished(folder: Path, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """The provenance of a folder that was prepared with `wanted` settings; None if it was not yet.

    Raises UserError if it was prepared with other settings.
    """
    if not (folder / PROVENANCE).exists():
        return None
    found = read_provenance(folder)
    for key, value in json.loads(json.dumps(wanted)).items():
        if found.get(key) != value:
            raise UserError(
                f"{folder} was prepared with {key} {found.get(key)!r}, not {value!r}; choose "
                "another folder or add --overwrite"
            )
    return found


def shared_speakers(provenance: Mapping[str, Any]) -> list[str]:
    """Who may be trained and tested on; as a rule nobody."""
    found = provenance.get(SHARED_SPEAKERS)
    return list(map(str, found)) if isinstance(found, list) else []


def origin(folder: Path, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What a new folder's provenance says about a folder that it was made from."""
    return {"folder": folder.resolve().name, "provenance": dict(provenance) or None}
