"""Model families: where their maskable tensors, layers and hidden states are."""
