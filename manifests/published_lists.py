"""The ten-language, one-hour lists of Common Voice that PARP and S3-Router use.

Source: Riviere et al., ICASSP 2020. A folder per language with `trainSeqs_1.0_*.txt`,
`valSeqs_1.0_*.txt` and `testSeqs_1.0_*.txt`, a clip's name a line; `validated_phones_reduced.txt`,
a clip's name and the numbers of its phones a line; and `phonesMatches_reduced.json`, the number of
each phone.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from speechprune.errors import UserError
from speechprune.manifests.lines import ENCODING, read_lines

PHONES = "validated_phones_reduced.txt"
SYMBOLS = "phonesMatches_reduced.json"

_LIST = re.compile(r"(train|val|valid|dev|test)(Seqs)?([_.-].*)?\.txt")
_SPLITS = {"train": "train", "val": "valid", "valid": "valid", "dev": "valid", "test": "test"}
_ONE_HOUR = "_1.0_"


def language_folder(folder: Path, language: str) -> Path:
    """The folder of one language's lists: below `folder`, or `folder` itself.

    Raises UserError if the folder does not exist.
    """
    folder = folder.absolute()
    below = folder / language
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; name the folder of the split lists")
    return below if below.is_dir() else folder


def read_lists(folder: Path) -> dict[str, list[str]]:
    """Names of clips, such as "common_voice_es_18306544.mp3", by split.

    Where a split has lists of several sizes, the one of an hour is read.

    Raises:
        UserError: no list of training clips, or several and none of an hour; a name is there twice.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.txt")):
        named = _LIST.fullmatch(path.name)
        if named:
            found.setdefault(_SPLITS[named[1]], []).append(path)
    if "train" not in found:
        raise UserError(f"{folder} has no list of training clips, trainSeqs_1.0_*.txt or train.txt")
    lists: dict[str, list[str]] = {}
    seen: dict[str, str] = {}
    for split, paths in found.items():
        path = _only(paths)
        lists[split] = [clip_name(line) for line in read_lines(path) if line.strip()]
        for name in lists[split]:
            if name in seen:
                raise UserError(f"{path}: {name} is listed in {seen[name]} already")
            seen[name] = path.name
    return lists


def read_phones(folder: Path) -> dict[str, str]:
    """Phones, parted by spaces, by the name of the clip: IPA where the numbers are explained.

    Raises:
        UserError: a file is missing or malformed, or a number stands for no phone.
    """
    symbols = _symbols(folder / SYMBOLS) if (folder / SYMBOLS).exists() else None
    phones = {}
    for number, line in enumerate(read_lines(folder / PHONES), start=1):
        if not line.strip():
            continue
        name, *numbers = line.split()
        try:
            said = numbers if symbols is None else [symbols[int(n)] for n in numbers]
        except (KeyError, ValueError):
            raise UserError(
                f"{folder / PHONES} line {number}: a phone has no symbol in {SYMBOLS}"
            ) from None
        phones[clip_name(name)] = " ".join(said)
    return phones


def clip_name(listed: str) -> str:
    """The file name of a clip as lists and old releases write it: perhaps without an ending."""
    name = listed.strip().rpartition("/")[2]
    return name if "." in name else f"{name}.mp3"


def _only(paths: list[Path]) -> Path:
    chosen = [path for path in paths if _ONE_HOUR in path.name] if len(paths) > 1 else paths
    if len(chosen) != 1:
        names = ", ".join(path.name for path in paths)
        raise UserError(f"{paths[0].parent} has several lists of one split, {names}; leave one")
    return chosen[0]


def _symbols(path: Path) -> dict[int, str]:
    try:
        numbers = json.loads(path.read_text(encoding=ENCODING))
        return {int(number): symbol for symbol, number in numbers.items()}
    except (ValueError, AttributeError, TypeError):
        raise UserError(f'{path} is not JSON of the form {{"phone": number}}') from None
