"""Manifests need neither torch nor fairseq: their commands start at once, and run without."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import importlib, pkgutil, sys

for heavy in ("torch", "fairseq", "hydra", "omegaconf"):
    sys.modules[heavy] = None  # whoever imports it fails
import speechprune.manifests as manifests
from speechprune.manifests.corpora import CORPORA

for module in pkgutil.walk_packages(manifests.__path__, "speechprune.manifests."):
    importlib.import_module(module.name)
print(*CORPORA.names())
"""


def test_every_module_is_imported_without_torch_and_fairseq() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert {"librispeech", "synthetic"} <= set(ran.stdout.split())
