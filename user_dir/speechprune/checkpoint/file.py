"""Checkpoint files: read without running what is in them, written whole or not at all."""

from __future__ import annotations

from speechprune import quiet_fairseq  # noqa: F401  (before fairseq)

# isort: split
import pickle
import re
import zipfile
from argparse import Namespace
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Any, Union

import torch
from fairseq.data.dictionary import Dictionary
from fairseq.distributed.utils import _TensorPlaceholder
from omegaconf import DictConfig, ListConfig
from omegaconf.base import ContainerMetadata, Metadata
from omegaconf.nodes import AnyNode

from speechprune.checkpoint.contents import check_tensors, refuse_infinite, validated
from speechprune.checkpoint.training_state import PROVENANCE
from speechprune.errors import UserError
from speechprune.files import digest, kind_of, replacing_file
from speechprune.safe_dictionary import forget_stand_in

__all__ = ["PROVENANCE", "PathLike", "allow_known_classes", "digest", "read", "write"]

PathLike = Union[str, Path]

#: What fairseq checkpoints hold beside tensors and plain containers. The first two are in those of
#: 2020, in HuBERT's and in every finetuned one; the next in xlsr_53_56k.pt; the last is in what
#: fairseq's first process sends of a checkpoint to the others.
KNOWN_CLASSES = [
    Namespace,
    Dictionary,
    DictConfig,
    ListConfig,
    ContainerMetadata,
    Metadata,
    AnyNode,
    # Before Python 3.10 it did not know its own name.
    Any if hasattr(Any, "__qualname__") else (Any, "typing.Any"),
    defaultdict,
    dict,
    list,
    int,
    _TensorPlaceholder,
]

#: Files, as they were, whose weights are known to be finite.
_FINITE: set[tuple[Path, int, int, int]] = set()


class DamagedCheckpoint(UserError):
    """A file that is empty, cut short, or not what was written."""


def allow_known_classes() -> None:
    """Let `torch.load(weights_only=True)`, the default since torch 2.6, accept KNOWN_CLASSES.

    fairseq cannot resume or finetune from its own finetuned checkpoints otherwise.
    """
    if hasattr(torch.serialization, "add_safe_globals"):
        forget_stand_in()
        torch.serialization.add_safe_globals(KNOWN_CLASSES)


allow_known_classes()


def read(path: PathLike, *, mmap: bool = False) -> dict[str, Any]:
    """The state in a fairseq checkpoint, on the CPU, without running any code in the file.

    It is as `speechprune.checkpoint.contents.validated` describes, and its weights are finite.

    Args:
        mmap: leave the tensors on the disk until they are used, where the format allows it.

    Raises:
        UserError: the file is missing, empty, truncated or damaged (its checksums are verified),
            holds classes that are not known to be safe, is not a fairseq checkpoint, has a part of
            another type, or weights that are not finite; a DamagedCheckpoint in the first cases.
    """
    path = Path(path)
    is_archive = _check_file(path)
    status = path.stat()
    state = validated(_unpickled(path, mmap=mmap and is_archive), path)
    content = (path.absolute(), status.st_mtime_ns, status.st_size, status.st_ino)
    if content not in _FINITE:
        refuse_infinite(state["model"], path)
        _FINITE.add(content)
    return state


def read_tensors(path: PathLike) -> dict[str, torch.Tensor]:
    """The tensors by name in a file that holds nothing else, as libraries beside fairseq save
    them; on the CPU, without running any code in the file.

    Raises:
        UserError: as `read`.
    """
    path = Path(path)
    found = _unpickled(path, mmap=_check_file(path))
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a file of tensors by name; give the weights of a model")
    tensors = dict(found)
    check_tensors(tensors, path)
    refuse_infinite(tensors, path)
    return tensors


def _unpickled(path: Path, *, mmap: bool) -> Any:
    """What is in a file that was checked; raises UserError, or DamagedCheckpoint, as `read`."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    # A damaged pickle may fail anywhere, with any exception.
    except Exception as error:
        names = _unknown_classes(path, error)
        if names:
            raise UserError(
                f"{path} asks for {', '.join(names)}, not known to be safe in a checkpoint; "
                "save it again with tensors and plain containers only"
            ) from error
        raise DamagedCheckpoint(_damaged(path, error)) from error


def write(state: dict[str, Any], path: PathLike) -> None:
    """Save ``state`` at ``path``, whole or not at all.

    Raises:
        UserError: it cannot be written (no such folder, no permission, full disk); whatever was at
            ``path`` is still there.
    """
    try:
        with replacing_file(path) as file:
            torch.save(state, file)
    # The archive writer hides what the file said when it took no more.
    except RuntimeError as error:
        raise UserError(
            f"{path} cannot be written: no space left on the disk, or the file grew too large"
        ) from error


def _check_file(path: Path) -> bool:
    """Whether the file is a zip archive, as torch 1.6 and later write.

    Raises UserError if it cannot be read, or if a part of the archive does not match its checksum,
    which torch does not verify.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; check the path of the checkpoint")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the checkpoint file in it")
    try:
        with open(path, "rb") as file:
            start = file.read(4)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if not start:
        raise DamagedCheckpoint(f"{path} is empty; copy or download it again")
    if start != b"PK\x03\x04":
        if not start.startswith(b"\x80"):  # a pickle, as older versions of torch write
            raise DamagedCheckpoint(
                f"{path} is no PyTorch checkpoint, but another file ({kind_of(path)})"
            )
        return False
    status = path.stat()
    _check_archive(path.absolute(), status.st_mtime_ns, status.st_size)
    return True


@lru_cache
def _check_archive(path: Path, modified: int, size: int) -> None:
    """Compare every checksum, once for each state of a file; raises UserError if one is wrong."""
    try:
        with zipfile.ZipFile(path) as archive:
            # torch compresses nothing; what is compressed could fill any memory.
            if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                raise ValueError("it is compressed")
            broken = archive.testzip()
    # The directory of a damaged archive may say anything.
    except Exception as error:
        raise DamagedCheckpoint(_damaged(path, error)) from error
    if broken is not None:
        raise DamagedCheckpoint(_damaged(path, f"wrong checksum of {broken}"))


def _unknown_classes(path: Path, error: Exception) -> list[str]:
    """Names of the classes for which a checkpoint was refused, sorted; none if it is damaged."""
    if not isinstance(error, pickle.UnpicklingError):
        return []
    if hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
        try:
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        except (ValueError, RuntimeError):
            pass  # not an archive: only the message tells the first name
    return re.findall(r"GLOBAL ([\w.]+)", str(error))[:1]


def _damaged(path: Path, reason: object) -> str:
    return (
        f"{path} is truncated, damaged or no PyTorch checkpoint ({_first_line(reason)}); "
        "copy or download it again"
    )


def _first_line(reason: object) -> str:
    # What a pickle's reader stumbles over, such as the KeyError of a byte, tells nobody anything.
    words = "" if isinstance(reason, LookupError) else str(reason)
    lines = words.strip().splitlines()
    return lines[0].rstrip(".:") if lines else type(reason).__name__
