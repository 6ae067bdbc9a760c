"""`fairseq-hydra-train`, with what it lacks: checked input, processes on a CPU, and a result."""
