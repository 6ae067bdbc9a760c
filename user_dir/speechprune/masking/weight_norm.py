"""Weight norm as a parametrization, which a mask can follow.

fairseq's positional convolution keeps a weight as its magnitude ``weight_g`` and its direction
``weight_v``, of which a hook makes the weight before each forward pass. S3-Router masks what the
hook has made. In Hugging Face's models PyTorch's newer weight norm does so, which is a
parametrization itself.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _WeightNorm as ParametrizedNorm
from torch.nn.utils.weight_norm import WeightNorm

#: What weight norm adds to a tensor's name for its magnitude and its direction.
PARTS = ("_g", "_v")
#: The same, where weight norm is a parametrization.
ORIGINALS = ("original0", "original1")


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
    """Whether weight norm of either kind makes ``module.tensor``."""
    return direction_of(module, tensor) is not None


def direction_of(module: nn.Module, tensor: str) -> tuple[str, nn.Module, str] | None:
    """The parameter that is the direction of ``module.tensor``; None if no weight norm makes it.

    Returns:
        Its dotted name from the module, the module that owns it and its attribute name there.
    """
    if _hook(module, tensor) is not None:
        return tensor + PARTS[1], module, tensor + PARTS[1]
    if not isinstance(norm_of(module, tensor), ParametrizedNorm):
        return None
    chain: nn.Module = module.parametrizations[tensor]  # type: ignore[index, union-attr, assignment]
    return f"parametrizations.{tensor}.{ORIGINALS[1]}", chain, ORIGINALS[1]


def norm_of(module: nn.Module, tensor: str) -> NormalisedWeight | ParametrizedNorm | None:
    """The weight norm that is the first parametrization of ``module.tensor``; None without."""
    if not parametrize.is_parametrized(module, tensor):
        return None
    first = module.parametrizations[tensor][0]  # type: ignore[index, union-attr]
    return first if isinstance(first, (NormalisedWeight, ParametrizedNorm)) else None


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
    """Let a parametrization of ``module.tensor`` do what the hook of weight norm does, if it is a
    hook."""
    found = _hook(module, tensor)
    if found is None:
        return
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


def restore_norm(
    module: nn.Module, tensor: str, weight: Tensor, norm: NormalisedWeight | ParametrizedNorm
) -> list[nn.Parameter]:
    """Give a module without ``tensor`` weight norm of its kind again, which makes ``weight`` to the
    last bit, and return its two parameters.

    The direction is the weight itself and the magnitude its norm, whose quotient is 1.
    """
    setattr(module, tensor, nn.Parameter(weight))
    if isinstance(norm, ParametrizedNorm):
        dimension = norm.dim
        parametrize.register_parametrization(
            module, tensor, ParametrizedNorm(dimension), unsafe=True
        )
        chain = module.parametrizations[tensor]  # type: ignore[index, union-attr]
        parameters = [getattr(chain, part) for part in ORIGINALS]
    else:
        dimension = norm.dimension
        nn.utils.weight_norm(module, tensor, dimension)
        parameters = [getattr(module, tensor + part) for part in PARTS]
    for parameter, value in zip(parameters, _exact_parts(weight, dimension)):
        parameter.data = value.to(weight.dtype)
    if not isinstance(norm, ParametrizedNorm):
        setattr(module, tensor, weight)
    return parameters


def _exact_parts(weight: Tensor, dimension: int) -> tuple[Tensor, Tensor]:
    """The magnitude and direction of which weight norm makes ``weight`` to the last bit."""
    norm_shape = [size if d == dimension else 1 for d, size in enumerate(weight.shape)]
    ones = weight.new_ones(norm_shape)
    # Not `torch.norm_except_dim`, which rounds otherwise.
    magnitude = torch._weight_norm_interface(weight, ones, dimension)[1].view(norm_shape)
    # 0 * 1 / 1, where 0 * 0 / 0 would not be a number.
    return magnitude, torch.where(magnitude == 0, 1.0, weight)
