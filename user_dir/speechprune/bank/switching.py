"""The weights of one model made those of one task after another, by what differs between masks.

Removed weights have to come from somewhere when they return. In the memory of the machine, they are
read again from the bank's file, whose pages the kernel keeps as long as it has room: the model is
all that a process holds, however many tasks there are. On other devices, the values that the
present masks remove are kept beside the model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from speechprune.bank.arrays import rounded
from speechprune.bank.bank import Bank
from speechprune.bank.task import PRECISIONS
from speechprune.errors import UserError
from speechprune.masking.mask_set import MaskSet
from speechprune.state_names import encoder_tensors

#: Entries that are masked at a time: a tensor's, or fewer where they take room beside the model.
_BLOCK, _BLOCK_BESIDE = 1 << 22, 1 << 17
#: The share of the model's bytes that decoded masks may take beside those in use.
_ROOM = 0.04


class Switch:
    """An encoder that is made one task's after another's.

    Args:
        bank: where the weights come from.
        tensors: those of the encoder by name, each of ``bank.base`` among them; contiguous, float32
            or float16, on one device. Whatever their values, they are the bank's afterwards.
        keep_removed: keep what masks remove beside the model, in place of reading it again: for
            files on slow disks. By default on other devices than the CPU.

    Attributes:
        current: the task whose weights the encoder has; None if it has the shared ones alone.
        masks: those of that task; None if there is none.

    Raises UserError if a shared tensor is missing, or has another shape.
    """

    def __init__(
        self, bank: Bank, tensors: Mapping[str, Tensor], *, keep_removed: bool | None = None
    ) -> None:
        for name in bank.base:
            if name not in tensors or tuple(tensors[name].shape) != bank.base.shape(name):
                raise UserError(f"{bank.path}: its tensor {name} does not fit the model")
        self._bank = bank
        self._tensors = {name: tensors[name].detach() for name in bank.base}
        self._decoded: OrderedDict[str, MaskSet] = OrderedDict()
        nbytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        self._room = int(_ROOM * nbytes)
        if keep_removed is None:
            keep_removed = any(tensor.device.type != "cpu" for tensor in tensors.values())
        self._keep_removed = keep_removed
        self._removed: dict[str, Tensor] = {}
        self.current: str | None = None
        self.masks: MaskSet | None = None
        self._owned: set[str] = set()
        self._precision: str = PRECISIONS[0]
        self._is_halfway: bool = False
        self._begin(self._precision)

    def use(self, name: str) -> None:
        """Make the encoder that of a task.

        Raises:
            UserError: there is no such task, or it is damaged; the encoder is as it was. If
                anything else ends it halfway, the next task begins from the shared weights.
        """
        if name == self.current:
            return
        masks, precision = self._masks_of(name), self._bank.precision(name)
        # What only pretraining needs may be a task's own too, and no encoder's.
        own = {
            tensor: array
            for tensor, array in encoder_tensors(self._bank.own(name)).items()
            if tensor in self._tensors
        }
        if self._is_halfway or precision != self._precision:
            self._begin(precision)
        self.current, self._is_halfway = None, True
        for tensor in sorted(self._owned):
            self._restore(tensor)
        self._change_masks(masks)
        for tensor, array in own.items():
            self._fill(tensor, array)
        self.masks, self._owned, self.current = masks, set(own), name
        self._is_halfway = False

    def _begin(self, precision: str) -> None:
        """Give all tensors the shared values."""
        self._is_halfway = True
        self._precision = precision
        self.current, self.masks = None, None
        self._owned.clear()
        self._removed.clear()
        for name in self._tensors:
            self._restore(name)
        self._is_halfway = False

    def _restore(self, name: str) -> None:
        self._fill(name, self._rounded(self._bank.base[name]))
        self._bank.base.forget_pages_of(name)

    def _fill(self, name: str, values: np.ndarray) -> None:
        tensor = self._tensors[name]
        if tensor.device.type == "cpu":
            np.copyto(tensor.numpy(), values)
        else:
            tensor.copy_(torch.from_numpy(np.array(values)))

    def _rounded(self, values: np.ndarray) -> np.ndarray:
        """Shared values as they were in the training of the present task."""
        if values.dtype == self._precision:
            return values
        found: np.ndarray = rounded(values, getattr(torch, self._precision), torch.float32).numpy()
        return found

    def _masks_of(self, name: str) -> MaskSet:
        """The masks of a task; those that were used last stay decoded, as far as there is room."""
        if name in self._decoded:
            self._decoded.move_to_end(name)
            return self._decoded[name]
        sizes = [masks.nbytes for masks in self._decoded.values()]
        while sizes and sum(sizes) + max(sizes) > self._room:
            sizes.pop(0)
            self._decoded.popitem(last=False)
        self._decoded[name] = self._bank.masks(name)
        return self._decoded[name]

    def _change_masks(self, masks: MaskSet) -> None:
        before = self.masks
        sites = [site for site in self._tensors if site in masks or (before and site in before)]

        def change(site: str) -> None:
            entries = self._tensors[site].numel()
            old, new = _bits_of(before, site, entries), _bits_of(masks, site, entries)
            if self._keep_removed:
                self._patch_beside(site, old, new)
            else:
                self._patch(site, old, new)

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(change, sites))

    def _patch_beside(self, site: str, old: np.ndarray, new: np.ndarray) -> None:
        """Take a tensor from one mask to another, by what is kept beside the model."""
        if np.array_equal(old, new):
            return
        weight = self._tensors[site].view(-1)
        if site in self._removed:
            weight.masked_scatter_(_zeros_of(old, weight), self._removed.pop(site))
        removed = _zeros_of(new, weight)
        self._removed[site] = weight.masked_select(removed)
        weight.masked_fill_(removed, 0.0)

    def _patch(self, site: str, old: np.ndarray, new: np.ndarray) -> None:
        """The same by the shared weights in the bank's file.

        Where anything of a block differs, all of it is masked anew: nearly every cache line holds
        an entry that differs, and the memory sets the pace.
        """
        weight: np.ndarray = self._tensors[site].view(-1).numpy()
        shared = self._bank.base[site].dtype
        is_plain = shared == weight.dtype == self._precision
        size = _BLOCK if is_plain else _BLOCK_BESIDE
        for start in range(0, weight.size, size):
            bits = new[start // 8 : (start + size) // 8]
            if bits.data == old[start // 8 : (start + size) // 8].data:
                continue  # this comparison ends at the first difference
            block = weight[start : start + size]
            values = block if is_plain else np.empty(block.size, dtype=shared)
            self._bank.base.read_into(site, start, values)
            factors = np.unpackbits(bits, count=block.size, bitorder="little")
            np.multiply(values if is_plain else self._rounded(values), factors, out=block)


def _bits_of(masks: MaskSet | None, site: str, entries: int) -> np.ndarray:
    """The packed mask of a site; all ones where it has none."""
    if masks is not None and site in masks:
        return masks.packed(site).bits
    return np.packbits(np.ones(entries, dtype=np.bool_), bitorder="little")


def _zeros_of(bits: np.ndarray, like: Tensor) -> Tensor:
    """Where packed bits are zero, bool (entries,), on the device of a flat tensor of as many."""
    packed = torch.from_numpy(np.array(bits)).to(like.device)
    shifts = torch.arange(8, dtype=torch.uint8, device=like.device)
    return ((packed[:, None] >> shifts) & 1).view(-1)[: like.numel()] == 0
