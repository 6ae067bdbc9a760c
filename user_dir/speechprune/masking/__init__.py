"""Choosing, applying and storing masks. Imports torch and numpy only."""
