"""Slimming a model from end to end: prune while finetuning, cut, average, evaluate."""
