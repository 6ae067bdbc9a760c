"""Heads and channels that are removed but not cut out: other models would let them grow again."""

from typing import Any, Dict

from torch import nn

from speechprune.checkpoint.slimming import refuse_uncut


def refuse_removed_units(model: nn.Module, state: Dict[str, Any], *rest: Any) -> None:
    """A hook of a model that keeps nothing at zero, before it loads a state dict.

    Raises:
        UserError: the state dict is one of slimming.
    """
    refuse_uncut("the checkpoint", state, "which this model would let grow again")
