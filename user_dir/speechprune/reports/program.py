"""Which program this is: what was measured by another one does not count as measured by this."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from importlib import import_module
from pathlib import Path


@cache
def program_digest() -> str:
    """SHA-256, in hexadecimal, of the names and contents of all modules: of the package, and of its
    manifests, which lie beside it in a checkout."""
    found = sha256()
    for package in ("speechprune", "speechprune.manifests"):
        folder = Path(import_module(package).__path__[0])
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.py")}
        for name in sorted(files):
            content = files[name].read_bytes()
            found.update(f"{package}/{name} {len(content)}\n".encode() + content)
    return found.hexdigest()
