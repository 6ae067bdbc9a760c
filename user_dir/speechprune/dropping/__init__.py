"""Dropping layers, from checkpoints and recordings: similarity, verified plans, finetuning."""
