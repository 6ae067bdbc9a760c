"""What every registered corpus promises."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from click.testing import CliRunner

from speechprune.errors import UserError
from speechprune.manifests.corpora import CORPORA, CorpusMaker, CorpusReader
from speechprune.registry import Option
from speechprune.tools.main import commands

FILES = Path(inspect.getfile(CorpusReader)).parent
NO_CORPORA = {"__init__", "base"}


def test_every_file_is_a_corpus() -> None:
    assert set(CORPORA.names()) == {file.stem for file in FILES.glob("*.py")} - NO_CORPORA


@pytest.mark.parametrize("name", CORPORA.names())
def test_its_help_is_whole_phrases(name: str) -> None:
    summary = inspect.getdoc(CORPORA.get(name))
    assert summary is not None and summary.endswith(".")
    for option in CORPORA.options(name):
        assert option.help[:1].isupper() and option.help.endswith("."), option.name
        assert len(option.help.split()) > 2, option.name


@pytest.mark.parametrize("name", CORPORA.names())
def test_its_command_has_all_its_options(name: str) -> None:
    result = CliRunner().invoke(commands, ["prepare", name.replace("_", "-"), "--help"])
    assert result.exit_code == 0, result.output
    for option in CORPORA.options(name):
        flag = option.details.get("flag", f"--{option.name.replace('_', '-')}")
        assert f"  {flag} " in result.output
    assert ("FOLDER" in result.output) == issubclass(CORPORA.get(name), CorpusReader)


def required(name: str, folder: Path) -> dict[str, object]:
    """Something for each option that has to be given."""

    def value(option: Option) -> object:
        return folder if option.kind is Path else "en"

    return {option.name: value(option) for option in CORPORA.options(name) if option.required}


@pytest.mark.parametrize("name", CORPORA.names())
def test_an_empty_folder_is_refused_in_one_line_and_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / "es").mkdir()  # Common Voice takes the name for the language
    (tmp_path / "something else").mkdir()
    (tmp_path / "something else/here.txt").write_text("mine")
    part = CORPORA.build(name, **required(name, tmp_path / "es"))
    with pytest.raises(UserError) as caught:
        if isinstance(part, CorpusMaker):
            part.make(tmp_path / "something else", overwrite=True)
        else:
            part.read(tmp_path / "es")
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    assert not any((tmp_path / "es").iterdir())
    assert (tmp_path / "something else/here.txt").read_text() == "mine"
