"""The code on the pages runs as it is pasted, and passes ruff and mypy; links lead somewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mask_files import MASKED
from model_banks import Lab
from readme import PAGES, ROOT, Block, anchors, blocks, links

from speechprune.rewriting.banking import add

#: What each language of a block is tested by; text is what a command prints.
TESTED = {
    "python": "this file, and the tests of what it adds",
    "bash": "test_page_commands.py",
    "text": "nothing",
}
PYTHON = blocks("python")
#: Pieces of Python that need fairseq, and files beside them.
WITH_A_BANK = ("bank.md", "From Python")
#: Those that need an exported file, which tests/exporting/test_export_page.py runs.
WITH_AN_ONNX_FILE = (("export.md", "ONNX"), ("export.md", "OpenVINO"))
#: Pieces of Python that are added to a folder of parts; the tests of these parts run them.
ADDED = (
    *("Add a policy", "Add a slimming criterion", "Add a backbone", "Add a measure"),
    "Add a corpus",
)


def test_every_block_says_what_it_is() -> None:
    for block in blocks():
        assert block.language in TESTED, f"{block} is of no language that a test knows"


def needs_a_bank(block: Block) -> bool:
    return (block.page.name, block.section) == WITH_A_BANK


def stands_alone(block: Block) -> bool:
    needing_files = (WITH_A_BANK, *WITH_AN_ONNX_FILE)
    return block.section not in ADDED and (block.page.name, block.section) not in needing_files


ALONE = [block for block in PYTHON if stands_alone(block)]


@pytest.mark.parametrize("block", ALONE, ids=str)
def test_python_runs_as_it_is_pasted(block: Block, tmp_path: Path) -> None:
    """Without fairseq, in an empty folder."""
    run(f"import sys\nsys.modules['fairseq'] = None\n{block.text}", tmp_path)


def test_python_runs_beside_a_bank(tmp_path: Path) -> None:
    """In the folder of a bank with two languages, and of recordings."""
    lab = Lab(tmp_path)
    for seed, name in enumerate(("es", "fr")):
        add(lab.bank, name, lab.finetuned(name, MASKED, seed=seed))
    for name in ("hola", "salut"):
        shutil.copy(lab.data / "audio" / "valid-0.wav", tmp_path / f"{name}.wav")
    (block,) = filter(needs_a_bank, PYTHON)
    lines = run(block.text, tmp_path).splitlines()
    assert len(lines) == 3 and lines[-1] == "density 0.70"


def run(program: str, folder: Path) -> str:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_python_passes_ruff_and_mypy(tmp_path: Path) -> None:
    """Each block by itself, by the settings of this project."""
    for index, block in enumerate(PYTHON):
        (tmp_path / f"block_{index}.py").write_text(block.text, encoding="utf-8")
    settings = str(ROOT / "pyproject.toml")
    files = sorted(map(str, tmp_path.glob("*.py")))
    for command in (
        ["ruff", "check", "--config", settings, "--ignore", "T20", *files],
        ["ruff", "format", "--check", "--config", settings, *files],
        ["mypy", "--config-file", settings, *files],
    ):
        ran = subprocess.run(
            [str(Path(sys.executable).with_name(command[0])), *command[1:]],
            cwd=ROOT,
            env={**os.environ, "MYPYPATH": str(ROOT / "user_dir")},
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        if ":" in path:
            continue  # another site
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 170
