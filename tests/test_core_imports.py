"""The core works where neither fairseq nor hydra is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "user_dir" / "speechprune"
#: What only the adapters and commands need.
ADAPTERS_ONLY = (
    "fairseq",
    "hydra",
    "omegaconf",
    "click",
    "tqdm",
    "matplotlib",
    "soundfile",
    "soxr",
    "torchaudio",
)
#: Folders and files of the core; those of later rings are tested once they exist.
CORE = (
    *("errors.py", "registry.py", "scoring.py", "backbones/base.py"),
    *("masking", "layers", "slimming", "distillation", "bank"),
)

PROGRAM = """
import importlib, sys, tempfile
from pathlib import Path

class Without:
    "A finder that does not find some packages, as if they were not installed."

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            return None
        return self.finder.find_spec(name, path, target)

blocked = set(sys.argv[1].split(","))
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
for name in sys.argv[2].split(","):
    importlib.import_module(name)

from speechprune.masking.policies import POLICIES
from toy import MaskedToy, output, train

for name in POLICIES.names():
    model = train(MaskedToy(POLICIES.build(name)), 2)
    masked = output(model)
    assert len(model.mask_controller.mask_set()) == len(model.sites)
    model.mask_controller.fold()
    assert (output(model) == masked).all()

from banks import random_masks, task, write_bank

with tempfile.TemporaryDirectory() as folder:
    bank = write_bank(Path(folder, "bank.safetensors"), task("es", random_masks(0.3, 1)))
    bank.check_base()
    assert bank.masks("es") == random_masks(0.3, 1)

found = sorted(blocked & {name.split(".")[0] for name in sys.modules})
assert not found, found
print("trained", *POLICIES.names())
"""


def core_modules() -> list[str]:
    """Dotted names of all modules of the core."""
    files = []
    for part in CORE:
        path = PACKAGE / part
        files += [path] if path.is_file() else sorted(path.rglob("*.py"))
    names = [file.relative_to(PACKAGE.parent).with_suffix("").parts for file in files]
    return [".".join(parts).replace(".__init__", "") for parts in names]


def test_core_needs_neither_fairseq_nor_the_libraries_of_commands() -> None:
    modules = core_modules()
    assert {"speechprune.masking.controller", "speechprune.backbones.base"} <= set(modules)
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    command = [sys.executable, "-c", PROGRAM, ",".join(ADAPTERS_ONLY), ",".join(modules)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("trained") and "s3router" in ran.stdout


def test_no_file_of_the_core_names_fairseq_in_an_import() -> None:
    """Not even inside a function, where the test above would not see it."""
    for module in core_modules():
        path = PACKAGE.parent.joinpath(*module.split("."))
        file = (
            path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        )
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        imports = [line for line in lines if line.startswith(("import ", "from "))]
        assert not [line for line in imports if line.split()[1].split(".")[0] == "fairseq"], module
