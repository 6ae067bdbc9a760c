"""Training a model to have the hidden states of another, its teacher."""
