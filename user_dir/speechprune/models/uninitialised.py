"""Building models that are about to be loaded, without drawing their random weights first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

#: The methods of tensors that starting values are drawn by.
_DRAWS = (Tensor.normal_, Tensor.uniform_)


class Uninitialised(TorchFunctionMode):
    """Within it, parameters of new modules have whatever values their memory has.

    Every one of them has to be loaded then. Drawing takes longer than reading a file, and touches
    memory that is thrown away where a model is cut before it is loaded.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in _DRAWS or getattr(function, "__module__", None) == torch.nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)
