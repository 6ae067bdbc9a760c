"""Parts of a file, which `cat` joins."""

from __future__ import annotations

import subprocess
from pathlib import Path

from speechprune.file_parts import write_parts


def test_cat_joins_the_parts(tmp_path: Path) -> None:
    path = tmp_path / "a model.pt"
    path.write_bytes(bytes(range(256)) * 10)
    (tmp_path / "a model.pt.part7").write_bytes(b"of an earlier file")
    parts = write_parts(path, largest=1000)
    assert [part.stat().st_size for part in parts] == [1000, 1000, 560]
    assert sorted(tmp_path.glob("*.part*")) == parts
    path.unlink()
    joined = "cat 'a model.pt.part'* > 'a model.pt' && sha256sum -c 'a model.pt.sha256'"
    subprocess.run(["bash", "-c", joined], cwd=tmp_path, check=True, capture_output=True)
    assert path.read_bytes() == bytes(range(256)) * 10


def test_there_are_nine_parts_at_most(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(bytes(1001))
    parts = write_parts(tmp_path / "model.pt", largest=10)
    assert len(parts) == 9 and sum(part.stat().st_size for part in parts) == 1001
