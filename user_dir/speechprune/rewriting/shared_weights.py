"""The weights that a checkpoint shares with a bank, found bit for bit, and those that it has of its
own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from speechprune.bank.arrays import array_of, rounded
from speechprune.bank.bank import Bank
from speechprune.bank.task import PRECISIONS
from speechprune.checksums import checksum
from speechprune.errors import UserError
from speechprune.masking.mask_set import MaskSet
from speechprune.state_names import (
    ENCODER,
    encoder_layer_of,
    is_of_masks,
    key_of,
    regrown_key,
    sibling,
)

#: What files hold of what a bank can keep; fairseq widens half precision when it saves.
_SAVED = (torch.float32, torch.float16)
#: Hexadecimal digits of a digest that messages show.
_SHOWN = 12


class SharedWeights:
    """The tensors of a checkpoint beside those of a bank.

    Attributes:
        saved: the type of the shared weights in the checkpoint.
        precision: what training had rounded them to.
        zeroed: whether the masked weights were saved with their zeros.
        regrown: whether what these were before was saved too.

    Raises UserError if a weight that is masked or frozen differs.
    """

    def __init__(
        self, bank: Bank, masks: MaskSet, tensors: Mapping[str, Tensor], where: str, why: str
    ) -> None:
        self.bank = bank
        self.masks = masks
        self.tensors = tensors
        self.where = where
        self.why = why
        shared = [site for site in masks if site in bank.base]
        if not shared:
            raise UserError(f"{where}: none of its masks is of a tensor of the base")
        self.saved = self._saved(shared[0])
        self.precision = self._precision(shared)
        self.regrown = all(self._regrown(site) is not None for site in shared)
        self.zeroed = self._has_zeros(shared)
        for site in shared:
            self._check_masked(site)

    def own(self) -> Iterator[tuple[str, Tensor]]:
        """All that is not the bank's, in order; raises UserError as the constructor."""
        for name in self.bank.base:
            if ENCODER + name not in self.tensors:
                raise UserError(f"{self.where}: it has no tensor {name}")
        kept = {sibling(key_of(s), regrown_key) for s in self.masks if s not in self.bank.base}
        for key, tensor in self.tensors.items():
            if is_of_masks(key) and key not in kept:
                continue
            name = key[len(ENCODER) :] if key.startswith(ENCODER) else ""
            if name in self.bank.base:
                if name in self.masks or self._is_shared(name):
                    continue
                self._check_free(name, tensor)
            yield key, tensor

    def _saved(self, site: str) -> torch.dtype:
        dtype = self.tensors[key_of(site)].dtype
        if dtype not in _SAVED:
            raise UserError(
                f"{self.where}: {site} is {name_of(dtype)}, but a bank keeps tensors of float32 "
                "and float16; save it again in float32, which holds the same values"
            )
        return dtype

    def _precision(self, sites: Sequence[str]) -> torch.dtype:
        """What the weights under masks were rounded to, as those that are kept tell."""
        if self.saved != torch.float32:
            return self.saved
        for name in PRECISIONS:
            precision: torch.dtype = getattr(torch, name)
            if all(self._keeps(site, precision) for site in sites):
                return precision
        return torch.float32

    def _keeps(self, site: str, precision: torch.dtype) -> bool:
        """Whether what a mask keeps is the bank's, rounded to a precision."""
        base = rounded(self.bank.base[site], precision, self.saved)
        mask, own = self.masks[site], self.tensors[key_of(site)]
        return base.shape == own.shape and _equal(own[mask], base[mask])

    def _has_zeros(self, sites: Iterable[str]) -> bool:
        """Whether what masks remove was saved as zeros, as the first that remove any tell."""
        for site in sites:
            own, base, removed = self.tensors[key_of(site)], self._base(site), ~self.masks[site]
            if own.shape == base.shape and base[removed].any():
                return not own[removed].any()
        return False

    def _base(self, name: str) -> Tensor:
        return rounded(self.bank.base[name], self.precision, self.saved)

    def _regrown(self, site: str) -> Tensor | None:
        return self.tensors.get(sibling(key_of(site), regrown_key))

    def _is_shared(self, name: str) -> bool:
        """Whether a tensor of the encoder is the bank's, bit for bit."""
        return _equal(self.tensors[ENCODER + name], self._base(name))

    def _check_masked(self, site: str) -> None:
        """Raise UserError unless a masked tensor is the bank's, as it is or with its zeros."""
        base, mask = self._base(site), self.masks[site]
        expected = torch.where(mask, base, 0.0) if self.zeroed else base
        if not _equal(self.tensors[key_of(site)], expected):
            raise self._differs(site, self.tensors[key_of(site)], expected)
        regrown = self._regrown(site)
        if regrown is not None and not _equal(regrown, base[~mask]):
            raise self._differs(site, regrown, base[~mask])
        if (regrown is not None) != self.regrown:
            raise UserError(f"{self.where}: only some of its masks have regrown weights")

    def _check_free(self, name: str, tensor: Tensor) -> None:
        """Raise UserError for a tensor that no flag frees while masks are learned: a layer's matrix
        without a mask; or one of another shape."""
        base = self._base(name)
        if (encoder_layer_of(name) is not None and base.dim() > 1) or tensor.shape != base.shape:
            raise self._differs(name, tensor, base)

    def _differs(self, name: str, own: Tensor, base: Tensor) -> UserError:
        return UserError(
            f"{self.where}: {self.why} ({name} is {_shown(own)}, in the bank {_shown(base)})"
        )


def _equal(first: Tensor, second: Tensor) -> bool:
    """Whether tensors have the same type, shape and bits."""
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    left, right = (array_of(tensor).reshape(-1).view(np.uint8) for tensor in (first, second))
    return np.array_equal(left, right)


def name_of(dtype: torch.dtype) -> str:
    """What a type is called, without "torch."."""
    return str(dtype).partition(".")[2]


def _shown(tensor: Tensor) -> str:
    return checksum({}, {"": array_of(tensor)})[:_SHOWN]
