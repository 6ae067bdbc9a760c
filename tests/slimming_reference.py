"""What Intel Neural Compressor made of three small layers over four updates."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class SlimmingReference:
    """The inputs and the results in the folder ``slimming`` of the shared data."""

    def __init__(self, shared_data: Path) -> None:
        self.folder = shared_data / "slimming"

    @cached_property
    def inputs(self) -> dict[str, np.ndarray]:
        return dict(np.load(self.folder / "inputs.npz"))

    @cached_property
    def expected(self) -> dict[str, np.ndarray]:
        return dict(np.load(self.folder / "expected.npz"))

    @cached_property
    def facts(self) -> dict[str, Any]:
        return json.loads((self.folder / "expected.json").read_text(encoding="utf-8"))

    def tensor(self, layer: int, module: str, what: str, update: int) -> Tensor:
        """The ``weight`` or ``grad`` of a module before or at an update."""
        return torch.from_numpy(self.inputs[f"layer{layer}.{module}.{what}.{update}"])

    def scores(self, kind: str, criterion: str) -> Tensor:
        """(updates, layers, units); ``kind`` is ``column`` or ``head``."""
        return torch.from_numpy(self.expected[f"{kind}_scores.{criterion}"])

    def masks(self, kind: str) -> dict[str, Tensor]:
        """Masks (layers, units) after the last update, by ``CRITERION.SCOPE.SHARE`` and bounds."""
        start = f"{kind}_mask."
        return {
            key[len(start) :]: torch.from_numpy(mask).bool()
            for key, mask in self.expected.items()
            if key.startswith(start)
        }
