"""A checkpoint in, a checkpoint out: folding, masks, averages, fewer layers, other layouts."""
