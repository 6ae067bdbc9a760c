"""Imports flow one way between folders, and names of models and tensors have one home each.

All imports of the package's source count, those inside of functions too; only those for the type
checker do not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "user_dir" / "speechprune"
#: Folders that lie beside the package, and are part of it once it is installed.
BESIDE = ("manifests", "tools", "config")

#: What may import what: parts of a level import those of lower levels, which come first here, and
#: each other as long as that makes no circle.
LEVELS = (
    (
        "errors",
        "registry",
        "checksums",
        "files",
        "file_parts",
        "locks",
        "state_names",
        "made_with",
        "tables",
        "figures",
        "curves",
        "intervals",
        "workers",
        "quiet_fairseq",
        "replacing",
        "safe_dictionary",
        "ending",
        "starting",
    ),
    ("masking", "layers", "slimming", "distillation", "bank"),
    ("backbones",),
    ("huggingface",),
    ("manifests",),
    ("checkpoint",),
    ("tasks",),
    ("models",),
    ("rewriting", "decoding"),
    ("exporting",),
    ("criterions",),
    ("seams",),
    ("plugin",),
    ("training",),
    ("reports", "benchmarking"),
    ("recipes", "dropping", "autoslim"),
    ("tools", "config"),
)
LEVEL = {part: number for number, parts in enumerate(LEVELS) for part in parts}


def source_files() -> Iterator[tuple[str, Path]]:
    """Dotted names and files of all modules but the package's own `__init__`, which only registers
    what there is."""
    for folder, prefix in ((PACKAGE, ()), *((ROOT / name, (name,)) for name in BESIDE)):
        for file in sorted(folder.rglob("*.py")):
            names = (*prefix, *file.relative_to(folder).with_suffix("").parts)
            if names != ("__init__",):
                yield ".".join(("speechprune", *names)).replace(".__init__", ""), file


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def is_for_types(node: ast.AST) -> bool:
    """Whether a statement is `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below one, without what is for the type checker."""
    for child in ast.iter_child_nodes(node):
        if not is_for_types(child):
            yield child
            yield from nodes(child)


def imports(file: Path, modules: frozenset[str]) -> set[str]:
    """The modules of the package that a file imports."""
    found = set()
    for node in nodes(tree_of(file)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                found.add(module if module in modules else str(node.module))
    return {name for name in found if name.startswith("speechprune.")}


def part_of(module: str) -> str:
    """The folder, or the file beside the folders, that a module belongs to."""
    return module.split(".")[1]


def edges() -> dict[tuple[str, str], set[str]]:
    """Which parts import which others, with the modules that do."""
    files = dict(source_files())
    found: dict[tuple[str, str], set[str]] = {}
    for module, file in files.items():
        for imported in imports(file, frozenset(files)):
            pair = (part_of(module), part_of(imported))
            if pair[0] != pair[1]:
                found.setdefault(pair, set()).add(f"{module} imports {imported}")
    return found


def test_every_part_has_its_place() -> None:
    parts = {part_of(module) for module, _ in source_files()} - {"config"}
    assert parts == set(LEVEL) - {"config"}


def test_imports_flow_downwards() -> None:
    upwards = [
        line
        for (importer, imported), lines in sorted(edges().items())
        if LEVEL[imported] > LEVEL[importer]
        for line in sorted(lines)
    ]
    assert not upwards, "\n".join(upwards)


def test_parts_of_a_level_import_each_other_in_no_circle() -> None:
    found = edges()
    for parts in LEVELS:
        left = set(parts)
        while left:
            # Whoever imports none of those that are left can be taken away.
            free = {a for a in left if not any((a, b) in found for b in left)}
            assert free, f"{sorted(left)} import each other in a circle"
            left -= free


def texts(file: Path) -> Iterator[tuple[int, str]]:
    """The strings in a file's code with their lines; docstrings are none of them."""
    documentation = set()
    for node in ast.walk(tree_of(file)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            for statement in node.body:
                if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                    documentation.add(statement.value)
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node not in documentation:
                yield node.lineno, node.value


def naming(pattern: str, home: Path) -> list[str]:
    """Where a pattern is found in strings outside of a file or folder."""
    return [
        f"{file.relative_to(ROOT)}:{line}: {text!r}"
        for _, file in source_files()
        if file != home and home not in file.parents
        for line, text in texts(file)
        if re.search(pattern, text)
    ]


def test_models_are_named_in_their_folder_alone() -> None:
    """Others take names from `speechprune.models.names`, or ask a model what it is."""
    found = naming("wav2vec_ctc|hubert_ctc", home=PACKAGE / "models")
    assert not found, "\n".join(found)


def test_names_of_tensors_are_in_one_file() -> None:
    home = PACKAGE / "state_names.py"
    found = naming("w2v_encoder|w2v_model", home=home)
    found += naming(r"^_(mask|regrown|observed|scores)$", home=home)
    # With a 0 before it, it is torch's own name of a parametrization, which no checkpoint holds.
    found += naming(r"(weight|bias)_(mask|regrown|observed)$|(?<!^0)\.scores$", home=home)
    assert not found, "\n".join(found)
