"""Language models in KenLM's files: which words they know, opened without a crash or a word."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Protocol

from speechprune.errors import UserError

_INSTALL = "pip install 'speechprune[lm]'"
#: How KenLM's binary files begin, of whatever version.
_BINARY = b"mmap lm http://kheafield.com/code"
#: How files begin that gzip has packed.
_GZIP = b"\x1f\x8b"
#: What stands in a model for the beginning and the end of texts, and for words that it lacks.
MARKS = frozenset(("<s>", "</s>", "<unk>", "<UNK>"))
#: Opens a model where a crash does no harm: a damaged binary file can end the process.
_PROBE = """
import kenlm, sys
model = kenlm.Model(sys.argv[1])
model.score("a b"), model.perplexity("a")
"""


class Vocabulary(Protocol):
    """What a model knows."""

    def __contains__(self, word: str) -> bool:
        """Whether the model knows a word."""


def check_installed() -> None:
    """Raise UserError unless the libraries of the extra ``lm`` are installed."""
    try:
        for name in ("kenlm", "flashlight.lib.text.decoder.kenlm"):
            import_module(name)
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            "a beam search, with a language model or without, needs flashlight-text and kenlm, "
            f"which cannot be imported ({reason}): {_INSTALL}"
        ) from error


def is_binary(path: Path) -> bool:
    """Whether a model is in KenLM's binary form, and not in ARPA's.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read(len(_BINARY)) == _BINARY
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def vocabulary_of(path: Path) -> Vocabulary:
    """The words of a model.

    Raises:
        UserError: it cannot be read, or is damaged.
    """
    if not is_binary(path):
        return frozenset(arpa_words(path))
    _probe(path)
    with _speaking(path):
        vocabulary: Vocabulary = import_module("kenlm").Model(str(path))
    return vocabulary


def arpa_words(path: Path) -> list[str]:
    """The words of a model in ARPA's form, in the order of the file, without its `MARKS`.

    Raises:
        UserError: it is of another form, or not in UTF-8.
    """
    words: list[str] = []
    inside = False
    _refuse_packed(path)
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                if line.startswith("\\"):
                    if inside:
                        return words
                    inside = line.startswith("\\1-grams:")
                elif inside and line.strip():
                    fields = split_fields(line)
                    if len(fields) not in (2, 3):
                        raise UserError(
                            f"{path} is damaged: {line.strip()[:60]!r} is not a word with its "
                            "probabilities; make the language model again"
                        )
                    if fields[1] not in MARKS:
                        words.append(fields[1])
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is neither a language model in ARPA's form, in UTF-8, nor in KenLM's binary "
            "form"
        ) from error
    raise UserError(
        f"{path} is not a whole language model in ARPA's form: it ends before its words do; "
        "make it again"
    )


def _refuse_packed(path: Path) -> None:
    with open(path, "rb") as file:
        if file.read(2) == _GZIP:
            raise UserError(f"{path} is packed: unpack it by gunzip")


def split_fields(line: str) -> list[str]:
    """The fields of a line, parted by blanks and tabs, as KenLM parts them: a word may hold any
    other white space."""
    return re.findall(r"[^ \t\r\n]+", line)


def open_kenlm(path: Path, words: Any) -> Any:
    """A model for flashlight's decoders.

    Args:
        words: flashlight's `Dictionary` of the words by which the decoder asks.

    Raises:
        UserError: it cannot be read, or is damaged.
    """
    if is_binary(path):
        _probe(path)
    with _speaking(path):
        return import_module("flashlight.lib.text.decoder.kenlm").KenLM(str(path), words)


def _probe(path: Path) -> None:
    """Raise UserError if the process that opens a binary model would end."""
    _probe_state(path, os.stat(path).st_mtime_ns)


@cache
def _probe_state(path: Path, modified: int) -> None:
    """As `_probe`, once for each state of a file."""
    ran = subprocess.run(
        [sys.executable, "-c", _PROBE, os.path.abspath(path)], capture_output=True, check=False
    )
    if ran.returncode < 0:
        raise UserError(
            f"{path} is a damaged language model, which ends the process that opens it; make it "
            "again"
        )


@contextmanager
def _speaking(path: Path) -> Iterator[None]:
    """Keeps KenLM's progress from the terminal, and turns what it raises into UserError."""
    try:
        with _without_stderr():
            yield
    except (OSError, RuntimeError, UnicodeDecodeError, MemoryError) as error:
        raise UserError(f"{path} is not a language model that KenLM reads: {_reason(error)}") from (
            error
        )


def _reason(error: Exception) -> str:
    """What KenLM complains of, without its own source lines."""
    if isinstance(error, UnicodeDecodeError):
        return "it is neither in ARPA's nor in its binary form"
    cause = error.__cause__ or error.__context__
    lines = [line.strip() for line in str(cause or error).splitlines() if line.strip()]
    own = [line for line in lines if " threw " not in line] or lines
    return own[0][:200] if own else "no reason given"


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Nothing that C++ writes to stderr appears; Python's own stream waits."""
    sys.stderr.flush()
    with TemporaryFile() as nowhere:
        kept = os.dup(2)
        try:
            os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
