"""The bounds of densities and sparsities, stated once."""

from __future__ import annotations

from speechprune.errors import UserError


def check_density(name: str, density: float) -> None:
    """Raise UserError, with the ``name`` of the setting, unless a share kept lies in (0, 1]."""
    if not 0.0 < density <= 1.0:
        raise UserError(f"{name} is the share kept and must lie in (0, 1], not {density}")


def check_sparsity(name: str, sparsity: float) -> None:
    """Raise UserError, with the ``name`` of the setting, unless a share removed lies in [0, 1)."""
    if not 0.0 <= sparsity < 1.0:
        raise UserError(f"{name} is the share removed and must lie in [0, 1), not {sparsity}")
