"""Tensors as a bank keeps them, and the other way round."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor


def array_of(tensor: Tensor) -> np.ndarray:
    """A tensor's values, of bfloat16 as float32, which has them all; it may share its memory."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    array: np.ndarray = tensor.contiguous().numpy()
    return array


def tensor_of(array: np.ndarray) -> Tensor:
    """An array's values, in its memory: where that is a file, nobody may write to the tensor."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def rounded(array: np.ndarray, precision: torch.dtype, dtype: torch.dtype) -> Tensor:
    """A shared tensor as a checkpoint holds it; counters stay what they are.

    Args:
        precision: of the checkpoint's training.
        dtype: of its file; fairseq widens half precision when it saves.
    """
    tensor = tensor_of(array)
    return tensor.to(precision).to(dtype) if tensor.is_floating_point() else tensor
