"""How alike hidden states are: statistics gathered in one pass, and measures made of them."""

from speechprune.layers.similarity.base import MEASURES, Measure
from speechprune.layers.similarity.gathering import gather

__all__ = ["MEASURES", "Measure", "gather"]
