"""Phoneme inventories of languages, and how alike two of them are.

The eleven that come along are those of S3-Router's languages (Fu et al., NeurIPS 2022), from
PHOIBLE (phoible.org, CC BY-SA 3.0), as the file itself says. Others are read from a user's file.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from math import sqrt
from pathlib import Path
from typing import Any
from unicodedata import normalize

from speechprune.checksums import read_json
from speechprune.errors import UserError
from speechprune.files import kind_of
from speechprune.manifests.lines import open_text
from speechprune.registry import unknown_name

BUILT_IN = Path(str(files("speechprune"))) / "assets" / "phonemes.json"

#: The columns of a table of one's own, and those that are read of PHOIBLE's phoible.csv.
_OWN_COLUMNS = ("language", "phoneme")
_PHOIBLE_COLUMNS = ("InventoryID", "Glottocode", "ISO6393", "Phoneme")
#: What PHOIBLE writes where it knows nothing.
_UNKNOWN = ("", "NA")
_ADVICE = "give a JSON object of lists of phonemes by language, or a table"
_MOST_NAMED = 6


@dataclass(frozen=True)
class Inventory:
    """The phonemes of one language, as one source describes it.

    Attributes:
        language: its code.
        number: PHOIBLE's InventoryID, or "".
        phonemes: one or more, in Unicode's decomposed form (NFD).
    """

    language: str
    number: str
    phonemes: frozenset[str]

    @classmethod
    def of(cls, language: str, phonemes: Iterable[str], number: str = "") -> Inventory:
        """The inventory of phonemes however they are composed; raises UserError if there are none
        or one is blank."""
        found = frozenset(normalize("NFD", phoneme.strip()) for phoneme in phonemes)
        if not found:
            raise UserError(f"language {language!r} has no phonemes")
        if "" in found:
            raise UserError(f"language {language!r} has a phoneme without a symbol")
        return cls(language, number, found)

    def cosine(self, other: Inventory) -> float:
        """Cosine of the two inventories as vectors of 0 and 1 over all phonemes."""
        both = len(self.phonemes & other.phonemes)
        return both / sqrt(len(self.phonemes) * len(other.phonemes))


class Inventories:
    """Inventories by the code of their language: those that come along, and those of a file.

    A code is that of ISO 639-1 ("es") or 639-3 ("spa"), of Glottolog, or whatever a file says;
    "zh_TW" and "zh-CN" stand for "zh" unless a file has them.
    """

    def __init__(self, by_code: Mapping[str, Sequence[Inventory]]) -> None:
        self._by_code = {code: tuple(found) for code, found in by_code.items()}

    @classmethod
    def built_in(cls) -> Inventories:
        """The eleven of S3-Router's languages."""
        return cls({code: [inventory] for code, inventory in _built_in()[0].items()})

    @classmethod
    def with_file(cls, path: Path) -> Inventories:
        """Those of a file, and the built-in ones of languages that it does not have.

        Args:
            path: JSON of ``{language: [phoneme, ...]}``; a table (CSV, or TSV with tabs in its
                first line) with the columns "language" and "phoneme", a phoneme to the row; or
                PHOIBLE's own phoible.csv.

        Raises:
            UserError: the file is missing, empty, malformed, or has a language without phonemes.
        """
        found = _read_json(path) if kind_of(path) == "JSON" else _read_table(path)
        if not found:
            raise UserError(f"{path} has no phonemes; {_ADVICE}")
        return cls({**cls.built_in()._by_code, **found})

    def find(self, asked: str) -> Inventory:
        """The inventory of a language: "CODE", or "CODE:NUMBER" where it has several.

        Of several, S3-Router's is taken without a number, if it is among them. Raises UserError if
        there is none, or no telling which.
        """
        name, _, number = asked.partition(":")
        code = _code(name)
        found = self._by_code.get(code) or self._by_code.get(code.partition("-")[0])
        if found is None:
            near = get_close_matches(code, self._by_code, n=1)
            refusal = unknown_name("language", name, near or sorted(_built_in()[0]))
            raise UserError(f"{refusal} (--inventories FILE gives the phonemes of others)")
        usual = _built_in()[0].get(found[0].language)
        wanted = number or (usual.number if usual and len(found) > 1 else "")
        matching = [each for each in found if wanted in ("", each.number)]
        if len(matching) == 1:
            return matching[0]
        numbers = [each.number or "one without a number" for each in found]
        listed = ", ".join(numbers[:_MOST_NAMED]) + (", ..." if numbers[_MOST_NAMED:] else "")
        if number:
            raise UserError(f"language {name!r} has no inventory {number!r}, but {listed}")
        raise UserError(
            f"language {name!r} has several inventories ({listed}); choose one, such as "
            f"{name}:{numbers[0]}"
        )


@cache
def _built_in() -> tuple[dict[str, Inventory], dict[str, str]]:
    """The inventories that come along by code, and these codes by those of ISO 639-3."""
    content = json.loads(BUILT_IN.read_text(encoding="utf-8"))["languages"]
    inventories = {
        code: Inventory.of(code, entry["phonemes"], str(entry["inventory"]))
        for code, entry in content.items()
    }
    return inventories, {entry["iso639_3"]: code for code, entry in content.items()}


def _code(name: str) -> str:
    """A code in lower case, of two letters where it is one of the built-in languages."""
    language, dash, region = name.strip().lower().replace("_", "-").partition("-")
    return _built_in()[1].get(language, language) + dash + region


def _read_json(path: Path) -> dict[str, list[Inventory]]:
    content = read_json(path, _ADVICE)
    return _inventories(path, ((language, found) for language, found in content.items()))


def _inventories(path: Path, entries: Iterable[tuple[str, Any]]) -> dict[str, list[Inventory]]:
    """One inventory to each language; raises UserError if an entry is no list of texts."""
    found: dict[str, list[Inventory]] = {}
    for language, phonemes in entries:
        code = _code(language)
        if not isinstance(phonemes, list) or not all(isinstance(each, str) for each in phonemes):
            raise UserError(f"{path}: the phonemes of {language!r} are not a list of texts")
        if not code or code in found:
            raise UserError(f"{path}: {language!r} is there twice, or names no language")
        try:
            found[code] = [Inventory.of(code, phonemes)]
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    return found


def _read_table(path: Path) -> dict[str, list[Inventory]]:
    with open_text(path, newline="", hint=_ADVICE) as file:
        first = file.readline()
        file.seek(0)
        reader = csv.DictReader(file, delimiter="\t" if "\t" in first else ",")
        try:
            columns = set(reader.fieldnames or ())
            if columns.issuperset(_PHOIBLE_COLUMNS):
                return _of_phoible(path, _rows(path, reader, _PHOIBLE_COLUMNS))
            if columns.issuperset(_OWN_COLUMNS):
                return _of_own_table(path, _rows(path, reader, _OWN_COLUMNS))
        except csv.Error as error:
            raise UserError(f"{path} cannot be read as a table: {error}") from error
    raise UserError(
        f"{path} has neither the columns {' and '.join(_OWN_COLUMNS)} nor those of PHOIBLE's "
        f"phoible.csv ({', '.join(_PHOIBLE_COLUMNS)})"
    )


def _rows(
    path: Path, reader: csv.DictReader[str], columns: Sequence[str]
) -> Iterable[tuple[str, ...]]:
    """The cells of some columns, row by row; raises UserError if a row is too short."""
    for row in reader:
        cells = tuple(row[column] for column in columns)
        if None in cells:
            raise UserError(f"{path} line {reader.line_num} has fewer columns than the first")
        yield cells


def _of_own_table(path: Path, rows: Iterable[tuple[str, ...]]) -> dict[str, list[Inventory]]:
    phonemes: dict[str, list[str]] = {}
    for language, phoneme in rows:
        phonemes.setdefault(_code(language), []).append(phoneme)
    return _inventories(path, phonemes.items())


def _of_phoible(path: Path, rows: Iterable[tuple[str, ...]]) -> dict[str, list[Inventory]]:
    """PHOIBLE's inventories by the codes of ISO 639-3 and Glottolog; by number within a code."""
    phonemes: dict[tuple[str, str, str], list[str]] = {}
    for number, glottocode, iso, phoneme in rows:
        phonemes.setdefault((number, glottocode, iso), []).append(phoneme)
    found: dict[str, list[Inventory]] = {}
    for (number, *names), listed in phonemes.items():
        codes = [_code(name) for name in reversed(names) if name not in _UNKNOWN]
        for code in dict.fromkeys(codes):
            try:
                inventory = Inventory.of(codes[0], listed, number)
            except UserError as error:
                raise UserError(f"{path}: inventory {number}: {error}") from error
            found.setdefault(code, []).append(inventory)
    for inventories in found.values():
        inventories.sort(key=lambda each: (len(each.number), each.number))
    return found
