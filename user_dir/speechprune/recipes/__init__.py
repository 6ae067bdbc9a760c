"""Pruning methods and their baselines as training runs one after the other."""

from speechprune.recipes import distillation, languages, methods  # noqa: F401  (they fill RECIPES)
from speechprune.recipes.base import RECIPES, Recipe, cook
from speechprune.recipes.setting import Setting

__all__ = ["RECIPES", "Recipe", "Setting", "cook"]
