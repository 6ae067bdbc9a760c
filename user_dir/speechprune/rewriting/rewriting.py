"""A checkpoint made of another one: written whole or not at all, with its provenance."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any

from speechprune import __version__
from speechprune.checkpoint.file import PROVENANCE, PathLike, digest, read, write
from speechprune.files import refuse_to_replace

#: Where fairseq keeps its running average of a model (`ema.store_ema`), in ``extra_state``.
AVERAGES = ("ema", "ema_fp32_params")


class Rewriting:
    """The way from one checkpoint to another.

    Args:
        source: the checkpoint that the new one is made of.
        out: the file to write.
        others: what else may not be overwritten.

    Raises:
        UserError: the source cannot be read, or would be overwritten.
    """

    def __init__(self, source: PathLike, out: PathLike, *others: PathLike) -> None:
        refuse_to_replace(out, source, *others)
        self.source = source
        self.out = out
        #: The state in the source, its tensors on the disk until they are used.
        self.state = read(source, mmap=True)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the source."""
        return digest(self.source)

    @property
    def noted_before(self) -> Mapping[str, Any]:
        """What was noted of how the source came about."""
        return self.state.get(PROVENANCE) or {}

    def write(
        self,
        state: Mapping[str, Any],
        noted: Mapping[str, Any],
        forget: Collection[str] = (),
    ) -> None:
        """Write ``state``, with what was noted before and what is ``noted`` of it now.

        Args:
            forget: what was noted before and does not hold any more.

        Raises:
            UserError: it cannot be written; whatever was at ``out`` is still there.
        """
        before = {key: fact for key, fact in self.noted_before.items() if key not in forget}
        provenance = {**before, "version": __version__, **noted}
        write({**state, PROVENANCE: provenance}, self.out)
