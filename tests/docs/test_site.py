"""`make docs`: skipped where the tools for it are not installed (it installs them)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from readme import ROOT

pytest.importorskip("mkdocs")
pytest.importorskip("mkdocstrings")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    # A proxy that nobody answers at: the build needs no network.
    nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    environment = {**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


def test_pages_figures_and_the_api_are_there(site: Path) -> None:
    results = (site / "results.html").read_text(encoding="utf-8")
    figures = re.findall(r'<img[^>]* src="([^"]+)"', results)
    assert any(figure.endswith("pruning_digits.png") for figure in figures)
    assert all((site / figure).is_file() for figure in figures)
    masking = (site / "api" / "speechprune.masking.html").read_text(encoding="utf-8")
    assert "Masks on the sites of one model." in masking
    assert (site / "CONTRIBUTING.html").is_file()


def test_nothing_is_loaded_from_another_machine(site: Path) -> None:
    """The hook of the build fails on it too; here the addresses are looked at one by one."""
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)\b[^>]*\bsrc=[\"']?([^\"'\s>]+)", text)
        loaded += re.findall(r"<link\b[^>]*\bhref=[\"']?([^\"'\s>]+)", text)
        assert loaded and not [each for each in loaded if re.match(r"(https?:)?//", each)], page
