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
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Optional

from parts import PARTS
from speechprune.registry import option


@PARTS.register("stripes")
@dataclass(frozen=True)
class Stripes:
    count: int = option("how many there are")
    width: float = option("how wide each is, in cm", 1.0)
    colour: Literal["black", "brown"] = option("the colour of each", "black")
    name: Optional[str] = option("the name of its bearer", None)
    straight: bool = option("whether they are straight", True)
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
    built = parts.build("stripes", count=3, width=2)
    assert (built.count, built.width, built.colour, built.name) == (3, 2, "black", None)


def test_options_are_listed_with_what_they_may_be(parts: Registry) -> None:
    listed = parts.options("stripes")
    assert [(o.name, o.kind, o.required, o.optional, o.values) for o in listed] == [
        ("count", int, True, False, "a whole number"),
        ("width", float, False, False, "a number"),
        ("colour", str, False, False, "black or brown"),
        ("name", str, False, True, "text"),
        ("straight", bool, False, False, "true or false"),
    ]
    assert listed[0].help == "how many there are"
    assert [o.default for o in listed[1:]] == [1.0, "black", None, True]
    assert parts.options("legs") == []


@pytest.mark.parametrize(
    "options, message",
    [
        ({"count": "3"}, "option 'count' of part 'stripes' must be a whole number, not '3'"),
        ({"count": True}, "must be a whole number, not True"),
        ({"count": 1.5}, "must be a whole number, not 1.5"),
        ({"count": None}, "must be a whole number, not None"),
        ({"count": 1, "width": "wide"}, "'width' .* must be a number, not 'wide'"),
        ({"count": 1, "width": False}, "'width' .* must be a number, not False"),
        ({"count": 1, "colour": "blue"}, "'colour' .* must be black or brown, not 'blue'"),
        ({"count": 1, "straight": 1}, "'straight' .* must be true or false, not 1"),
        ({"width": 1.0}, "part 'stripes' needs the option 'count'"),
    ],
)
def test_an_option_of_another_type_is_refused(parts: Registry, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parts.build("stripes", **options)


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
        parts.build("stripes", count=1, color="white")
    with pytest.raises(UserError, match="option of part 'legs' 'width'"):
        parts.build("legs", width=1)


def test_a_name_belongs_to_one_class(parts: Registry) -> None:
    first = parts.get("legs")

    class Other:
        pass

    with pytest.raises(ValueError, match="'legs' is registered twice"):
        parts.register("legs")(Other)
    assert parts.get("legs") is first


def test_a_second_class_of_the_same_name_does_not_replace_the_first(parts: Registry) -> None:
    def define() -> type:
        class Twin:
            pass

        return Twin

    first = parts.register("twin")(define())
    with pytest.raises(ValueError, match="'twin' is registered twice: by .*Twin and by .*Twin"):
        parts.register("twin")(define())
    assert parts.get("twin") is first


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
