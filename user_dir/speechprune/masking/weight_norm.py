"""Weight norm as a parametrization, which a mask can follow.

fairseq's positional convolution keeps a weight as its magnitude ``weight_g`` and its direction
``weight_v``, of which a hook makes the weight before each forward pass. S3-Router masks what the
hook has made.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.weight_norm import WeightNorm

#: What weight norm adds to a tensor's name for its magnitude and its direction.
PARTS = ("_g", "_v")


class NormalisedWeight(nn.Module):
    """magnitude * direction / |direction|, with PyTorch's own arithmetic.

    Args:
        magnitude, direction: the parameters that there are.
        dimension: the one that has a norm for each of its entries.
    """

    def __init__(self, magnitude: Tensor, direction: Tensor, dimension: int) -> None:
        super().__init__()
        self.dimension = dimension
        self._parts = (magnitude, direction)

    def forward(self, magnitude: Tensor, direction: Tensor) -> Tensor:
        return torch._weight_norm(direction, magnitude, self.dimension)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The parameters that this was made of, bit for bit; asked for once, as it is put on."""
        return self._parts


def has_weight_norm(module: nn.Module, tensor: str) -> bool:
    """Whether a hook of PyTorch's `weight_norm` makes ``module.tensor``."""
    return _hook(module, tensor) is not None


def _hook(module: nn.Module, tensor: str) -> tuple[int, WeightNorm] | None:
    for key, hook in module._forward_pre_hooks.items():
        if isinstance(hook, WeightNorm) and hook.name == tensor:
            return key, hook
    return None


def current_weight(module: nn.Module, tensor: str) -> Tensor:
    """``module.tensor``, made anew if weight norm makes it: the hook's is of the last forward pass,
    and perhaps of parameters before these were loaded."""
    found = _hook(module, tensor)
    weight: Tensor = getattr(module, tensor) if found is None else found[1].compute_weight(module)
    return weight


def parametrize_norm(module: nn.Module, tensor: str) -> None:
    """Let a parametrization of ``module.tensor`` do what the hook of weight norm does."""
    found = _hook(module, tensor)
    assert found is not None
    key, hook = found
    del module._forward_pre_hooks[key]
    magnitude, direction = (module._parameters.pop(tensor + part) for part in PARTS)
    assert magnitude is not None and direction is not None
    norm = NormalisedWeight(magnitude, direction, hook.dim)
    delattr(module, tensor)
    trains = magnitude.requires_grad or direction.requires_grad
    weight = norm(magnitude, direction).detach()
    module.register_parameter(tensor, nn.Parameter(weight, requires_grad=trains))
    parametrize.register_parametrization(module, tensor, norm, unsafe=True)


def restore_norm(module: nn.Module, tensor: str, weight: Tensor, dimension: int) -> None:
    """Give a module without ``tensor`` the hook again, which makes ``weight`` to the last bit.

    The direction is the weight itself and the magnitude its norm, whose quotient is 1.
    """
    norm_shape = [size if d == dimension else 1 for d, size in enumerate(weight.shape)]
    ones = weight.new_ones(norm_shape)
    # Not `torch.norm_except_dim`, which rounds otherwise.
    magnitude = torch._weight_norm_interface(weight, ones, dimension)[1].view(norm_shape)
    # 0 * 1 / 1, where 0 * 0 / 0 would not be a number.
    direction = torch.where(magnitude == 0, 1.0, weight)
    setattr(module, tensor, nn.Parameter(weight))
    nn.utils.weight_norm(module, tensor, dimension)
    for part, value in zip(PARTS, (magnitude, direction)):
        getattr(module, tensor + part).data = value.to(weight.dtype)
    setattr(module, tensor, weight)
