"""The configs: hydra YAMLs by folder, and the template that most of them are made from."""
