"""Many masks and heads on one model: a value, its file, and switching between them."""
