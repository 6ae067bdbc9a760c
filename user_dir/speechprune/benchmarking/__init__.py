"""How fast models hear, and what they take: checkpoints and exported files side by side."""
