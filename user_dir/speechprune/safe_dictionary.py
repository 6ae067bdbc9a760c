"""Lets `torch.load` read finetuned checkpoints, whose dictionaries are of a class of fairseq's.

fairseq takes seconds to import, which is left until a checkpoint holds such a dictionary.
"""

from __future__ import annotations

from typing import Any

from torch import serialization


class _Dictionary:
    """Stands for fairseq's class until one is made."""

    def __new__(cls) -> Any:
        from speechprune import quiet_fairseq  # noqa: F401  (before fairseq)

        # isort: split
        from fairseq.data.dictionary import Dictionary

        forget_stand_in()
        serialization.add_safe_globals([Dictionary])
        return Dictionary.__new__(Dictionary)


_STAND_IN = (_Dictionary, "fairseq.data.dictionary.Dictionary")


def allow_stand_in() -> None:
    """Let torch make the class known when it meets its name."""
    serialization.add_safe_globals([_STAND_IN])


def forget_stand_in() -> None:
    """Leave the name to the class itself: torch would take either."""
    others = [each for each in serialization.get_safe_globals() if each != _STAND_IN]
    serialization.clear_safe_globals()
    serialization.add_safe_globals(others)
