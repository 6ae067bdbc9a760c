"""The pages name what exists, leave nothing out, and read well."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from fairseq.criterions.ctc import CtcCriterionConfig
from fairseq.dataclass.configs import FairseqConfig
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig
from omegaconf import OmegaConf
from readme import PAGES, ROOT, anchors, blocks, inline_code, prose

import speechprune.plugin  # noqa: F401  (registers the models)
from speechprune.backbones import BACKBONES
from speechprune.criterions.config import CriterionConfig
from speechprune.manifests.corpora import CORPORA
from speechprune.masking.policies import POLICIES
from speechprune.models.text_config import TextFinetuning, TextNetwork
from speechprune.tools.main import commands

OUR_MODELS = [
    name
    for name in MODEL_DATACLASS_REGISTRY
    if re.fullmatch(r"(wav2vec_(ctc|labels)|roberta)_\w+", name)
]
#: Phrases that make a reader stop: "X is no Y".
RIDDLES = re.compile(r"\b(?:is|are) no [a-z]+\b|gone on with|\blet(?:ting)? loose\b|\btold\b", re.I)
CODE = [code for page in PAGES for code in inline_code(page)]


def fields_of(model: str) -> dict[str, object]:
    """The settings of a model, and their defaults."""
    return vars(MODEL_DATACLASS_REGISTRY[model]())


def is_interpolated(default: object) -> bool:
    """Whether a setting only repeats another group's."""
    return isinstance(default, str) and default.startswith("${")


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[str]:
    """The full names of all commands that are not groups."""
    if not isinstance(command, click.Group):
        yield " ".join(("speechprune", *path))
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None
        yield from leaves(child, (*path, name))


def test_every_setting_of_our_models_is_explained() -> None:
    assert {"wav2vec_ctc_st", "wav2vec_ctc_parp"} <= set(OUR_MODELS)
    theirs = {*Wav2Vec2CtcConfig.__dataclass_fields__, *TextNetwork.__dataclass_fields__}
    theirs |= set(TextFinetuning.__dataclass_fields__) - {"roberta_path"}
    ours = {
        key
        for model in OUR_MODELS
        for key, default in fields_of(model).items()
        if key not in theirs and not is_interpolated(default)
    }
    assert len(ours) > 30
    assert {f"model.{key}" for key in ours} <= set(CODE)


def test_every_setting_of_our_criterions_is_explained() -> None:
    ours = set(CriterionConfig.__dataclass_fields__) - set(CtcCriterionConfig.__dataclass_fields__)
    assert {"teacher", "penalty_weight"} <= ours
    assert {f"criterion.{key}" for key in ours} <= set(CODE)


def test_every_key_that_is_named_exists() -> None:
    known = {f"model.{key}" for model in OUR_MODELS for key in fields_of(model)}
    for group, field in FairseqConfig.__dataclass_fields__.items():
        known |= {f"{group}.{key}" for key in getattr(field.type, "__dataclass_fields__", ())}
    for code in CODE:
        for word in code.split():
            key = word.partition("=")[0]
            group = key.partition(".")[0]
            if group in ("model", "dataset", "checkpoint", "common", "optimization") and "." in key:
                found = key in known or any(re.fullmatch(key.replace("*", ".*"), k) for k in known)
                assert found or key == "model.*", code


def test_every_command_is_on_the_page_of_commands() -> None:
    named = inline_code(ROOT / "docs" / "commands.md") + inline_code(ROOT / "docs" / "pruning.md")
    for leaf in leaves(commands):
        assert any(f"{code} ".startswith(f"{leaf} ") for code in named), leaf


def test_every_option_that_is_named_exists() -> None:
    def options(command: click.Command) -> Iterator[str]:
        for parameter in command.params:
            yield from (*parameter.opts, *parameter.secondary_opts)
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                assert child is not None
                yield from options(child)

    # The last two are hydra's and pip's.
    known = {*options(commands), "--help", "--config-dir", "--no-build-isolation"}
    for code in CODE:
        if code.startswith("--"):
            assert code.split()[0].partition("=")[0] in known, code


def test_parts_are_named() -> None:
    text = " ".join(CODE)
    for name in (*POLICIES.names(), *(name.replace("_", "-") for name in CORPORA.names())):
        assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text), name
    assert {"wav2vec2", "data2vec_audio"} <= set(BACKBONES.names())


@pytest.mark.parametrize("page", ["docs/extending.md"])
def test_maps_show_what_there_is(page: str) -> None:
    (drawn,) = [b for b in blocks("text") if b.section == "Map" and b.page == ROOT / page]
    folders: list[Path] = []
    for line in drawn.text.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.findall(r"\S+", line.lstrip().partition("   ")[0])
        parent = folders[depth - 1] if depth else ROOT
        for name in names:
            if re.fullmatch(r"[\w/]+/|\w+\.py", name):
                assert (parent / name).exists(), line
        folders[depth:] = [parent / names[0]]


def test_output_is_not_commands() -> None:
    """Commands belong into blocks that a test reads."""
    for block in blocks("text"):
        for line in block.text.splitlines():
            assert not re.match(r"\$ |(speechprune|make|pip|python|fairseq-\S+) (?!d)", line), block


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_read_well(page: Path) -> None:
    found = RIDDLES.search(prose(page))
    assert found is None, found
    assert len(set(anchors(page))) == len(anchors(page))


def test_every_page_is_in_the_navigation() -> None:
    nav = OmegaConf.load(ROOT / "mkdocs.yml").nav
    named = {file for entry in nav for file in entry.values()}
    assert named == {path.name for path in (ROOT / "docs").glob("*.md")}


def test_every_result_is_linked() -> None:
    """But for what a linked report shows, and the values behind a linked table."""
    text = re.sub(r"\s", "", prose(ROOT / "docs" / "results.md"))
    results = ROOT / "benchmarks" / "results"
    for path in sorted(each for each in results.rglob("*") if each.is_file()):
        of_report = path.name.startswith("layers_auto_") and path.suffix != ".md"
        of_table = path.suffix == ".json" and path.with_suffix(".txt").exists()
        if not of_report and not of_table:
            assert f"{path.relative_to(ROOT)})" in text, path.name
