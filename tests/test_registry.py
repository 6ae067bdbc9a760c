"""Parts are found by walking a folder, and built strictly."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from speechprune.errors import UserError
from speechprune.registry import Registry, unknown_name

PARTS = {
    "__init__": 'from speechprune.registry import Registry\nPARTS = Registry("part", __name__)\n',
    "zebra": """
from parts import PARTS


@PARTS.register("stripes")
class Stripes:
    def __init__(self, width: int = 1, colour: str = "black") -> None:
        self.width, self.colour = width, colour
""",
    "ant": """
from parts import PARTS


@PARTS.register("legs")
class Legs:
    pass


@PARTS.register("antennae")
class Antennae:
    pass
""",
}


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """The registry of a package that was never imported before."""
    (tmp_path / "parts").mkdir()
    for name, text in PARTS.items():
        (tmp_path / "parts" / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    import parts

    yield parts.PARTS
    for name in [name for name in sys.modules if name.split(".")[0] == "parts"]:
        del sys.modules[name]


def test_parts_are_found_in_every_file_of_the_folder(parts: Registry) -> None:
    assert "parts.zebra" not in sys.modules
    assert parts.names() == ["antennae", "legs", "stripes"]
    assert parts.get("legs") is sys.modules["parts.ant"].Legs


def test_options_reach_the_part(parts: Registry) -> None:
    built = parts.build("stripes", width=3)
    assert (built.width, built.colour) == (3, "black")


def test_an_unknown_name_is_refused_with_the_nearest(parts: Registry) -> None:
    for refuse in (parts.get, parts.build):
        with pytest.raises(UserError) as refused:
            refuse("strips")
        assert str(refused.value) == "unknown part 'strips'; did you mean 'stripes'?"


def test_a_name_like_no_other_is_refused_with_all(parts: Registry) -> None:
    with pytest.raises(UserError, match="'qqq'; known: antennae, legs, stripes"):
        parts.get("qqq")


def test_an_unknown_option_is_refused_with_the_nearest(parts: Registry) -> None:
    with pytest.raises(UserError, match="option of part 'stripes' 'color'.*'colour'"):
        parts.build("stripes", color="white")
    with pytest.raises(UserError, match="option of part 'legs' 'width'"):
        parts.build("legs", width=1)


def test_a_name_belongs_to_one_class(parts: Registry) -> None:
    first = parts.get("legs")

    class Other:
        pass

    with pytest.raises(ValueError, match="'legs' is registered twice"):
        parts.register("legs")(Other)
    assert parts.get("legs") is first


def test_registering_returns_the_class_and_bears_a_second_import(parts: Registry) -> None:
    class Own:
        pass

    assert parts.register("own")(Own) is Own
    assert parts.register("own")(Own) is Own
    assert parts.get("own") is Own
    assert parts.names() == ["antennae", "legs", "own", "stripes"]


def test_a_broken_part_is_not_hidden(parts: Registry, tmp_path: Path) -> None:
    (tmp_path / "parts" / "broken.py").write_text("import no_such_module\n", encoding="utf-8")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_module"):
            parts.names()


@pytest.mark.parametrize("name", ["version", "help", "prune"])
def test_a_far_name_is_not_offered(name: str) -> None:
    commands = ["compare", "evaluate", "layers", "masks", "prepare", "recipe", "train"]
    assert f"unknown command {name!r}; known: compare, " in unknown_name("command", name, commands)


def test_a_name_that_is_begun_is_offered() -> None:
    message = unknown_name("policy", "gradual", ["s3router", "gradual_magnitude"])
    assert message == "unknown policy 'gradual'; did you mean 'gradual_magnitude'?"
    assert "known" in unknown_name("policy", "", ["s3router"])


def test_refusals_are_one_line() -> None:
    message = unknown_name("flag", "model.prune_rat", ["model.prune_rate", "model.init_score"])
    assert message == "unknown flag 'model.prune_rat'; did you mean 'model.prune_rate'?"
    assert "\n" not in unknown_name("flag", "x", ["a", "b"])
