"""The commands, one per file: argument parsing and one library call."""
