"""Choosing layers to drop: how alike layers are, which to drop, and how good what is left is."""
