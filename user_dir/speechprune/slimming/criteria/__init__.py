"""Slimming criteria, one per file."""

from speechprune.slimming.criteria.base import CRITERIA, Criterion

__all__ = ["CRITERIA", "Criterion"]
