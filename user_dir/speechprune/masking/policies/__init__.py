"""Mask policies, one per file."""

from speechprune.masking.policies.base import POLICIES, MaskPolicy

__all__ = ["POLICIES", "MaskPolicy"]
