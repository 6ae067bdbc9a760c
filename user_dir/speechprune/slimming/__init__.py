"""Choosing the attention heads and feed-forward channels of a model, and cutting them out."""
