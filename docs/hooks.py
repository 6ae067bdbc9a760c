"""What mkdocs does beside rendering docs/: pages of the API, files from elsewhere, and a check.

The pages link to files outside docs/ as they are seen on GitHub (`../benchmarks/results/x.png`).
On the site these files lie where the links point without the `../`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "user_dir" / "speechprune"
#: Files of the repository that the site has too.
SHARED = ("CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/results/**/*")
#: Where the packages of the API lie, by name, and under which name they are found there.
MANIFESTS = "manifests"
#: What a browser would load by itself.
_LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc=["']?(?:https?:)?//[^\s"'>]+"""
    r"""|<link\b[^>]*\bhref=["']?(?:https?:)?//[^\s"'>]+"""
    r"""|url\(["']?(?:https?:)?//[^\s"')]+|@import\s+["'](?:https?:)?//[^\s"']+"""
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add to the navigation what docs/ does not hold."""
    api = [{name: f"api/{name}.md"} for name in packages()]
    config.nav += [{"API": api}, {"Contributing": "CONTRIBUTING.md"}, {"Changes": "CHANGELOG.md"}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that are shared, and a page for each package."""
    for pattern in SHARED:
        for path in sorted(filter(Path.is_file, ROOT.glob(pattern))):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    for name, modules in packages().items():
        files.append(File.generated(config, f"api/{name}.md", content=_page(name, modules)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links on pages of the repository fit the site, which has docs/ for its root."""
    prefix = "docs/" if page.file.src_uri in SHARED else "../"
    return markdown.replace(f"]({prefix}", "](")


def on_post_build(config: MkDocsConfig) -> None:
    """Fail if any page would load something from another machine."""
    for path in sorted(Path(config.site_dir).rglob("*")):
        if path.suffix not in (".html", ".css"):
            continue
        found = _LOADED.search(path.read_text(encoding="utf-8"))
        if found is not None:
            raise PluginError(f"{path} loads something from another machine: {found.group()}")


def packages() -> dict[str, dict[str, str]]:
    """The packages of the API, and their modules: where each is found, by its name."""
    found: dict[str, dict[str, str]] = {}
    for folder, name in ((LIBRARY, "speechprune"), (ROOT / MANIFESTS, f"speechprune.{MANIFESTS}")):
        for path in _modules(folder):
            parts = path.relative_to(folder).with_suffix("").parts
            package = ".".join((name, *parts[:-1]))
            found.setdefault(package, {})[".".join((name, *parts))] = ".".join(
                (folder.name, *parts)
            )
    return dict(sorted(found.items()))


def _modules(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*.py")):
        if not path.name.startswith("_"):
            yield path


def _page(package: str, modules: dict[str, str]) -> str:
    parts: list[Any] = [f"# {package}"]
    for name, where in modules.items():
        parts += [f"## {name.rpartition('.')[2]}", f"`{name}`", f"::: {where}"]
    return "\n\n".join(parts) + "\n"
