"""Models in the formats of others: one file for each part of a format."""
