"""`fairseq-hydra-train`, with what it lacks: checked input, processes on a CPU, and a result."""

from speechprune.training.launch import run, train, train_rank

__all__ = ["run", "train", "train_rank"]
