"""What fairseq evaluates is a literal: the values of those that are, and the rest refused."""

from __future__ import annotations

import ast
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import fairseq
import pytest
from checkpoints import refusal
from omegaconf import OmegaConf

from speechprune.checkpoint.evaluated import ANY_LITERAL, FORMS, literal, refuse_code

#: As published models have them: wav2vec 2.0, wav2vec, HuBERT, data2vec; and optimizers.
PUBLISHED = (
    "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]",
    "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] * 2",
    "[(512, 10, 5), (512, 8, 4), (512, 4, 2), (512, 4, 2), (512, 4, 2)]",
    "2 * [(512, 3, 2)] + [(512, 2, 2)]",
    "(0.9, 0.98)",
    "[0.9,0.98]",
    " (1e-30, -1e-3) ",
    "{'a': [True, None]}",
    "[]",
)


@pytest.mark.parametrize("text", PUBLISHED)
def test_literals_are_what_python_makes_of_them(text: str) -> None:
    assert literal(text) == eval(text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "[(512, 10, 5)] + list(range(3))",
        "[x for x in (1, 2)]",
        "(lambda: [(512, 10, 5)])()",
        "[(512, 10, 5)] * 1000000",
        "[[0] * 900] * 900",
        "[(512, 10, 5)] ** 2",
        "[1] * 2.5",
        "'a' * 1000",
        "9 ** 9 ** 9",
        "1 + 1",
        "[1] + (2,)",
        "()[0]",
        "f'{1}'",
        "x",
        "{**{}}['a']",
        "{[]: 1}",
        "(" * 500,
        "-" * 9000 + "1",
        "[" * 20_000,
        "",
        "1; 2",
        "\0",
    ],
)
def test_everything_else_is_no_literal(text: str) -> None:
    with pytest.raises(ValueError):
        literal(text)


@pytest.mark.parametrize(
    "settings",
    [
        {"model": {"w2v_args": {"model": {"conv_feature_layers": "exit()"}}}},
        Namespace(w2v_args=Namespace(conv_feature_layers="exit()")),
        OmegaConf.create({"model": [{"conv_feature_layers": "exit()"}]}),
        {"conv_feature_layers": "[(512, 10)]"},
        {"conv_feature_layers": "[(512, 10, 0)]"},
        {"conv_feature_layers": "[]"},
        {"conv_feature_layers": 3},
        {"conv_feature_layers": [[512, 10, 5]]},
        {"optimizer": {"adam_betas": "abc"}},
        {"optimizer": {"adam_betas": "(0.9, 1.0)"}},
        {"optimizer": {"adam_betas": [0.9]}},
        {"criterion": {"wer_args": "exit()"}},
        {"model": {"feature_encoder_spec": "exit()"}},
    ],
)
def test_code_in_settings_is_refused_by_name(settings: Any) -> None:
    message = refusal(refuse_code, settings, "a file")
    assert message.startswith("a file: ")
    name = next(n for n in sorted({*FORMS, *ANY_LITERAL}) if f"{n}=" in message)
    assert f"{name}=" in message


def test_settings_as_they_are_meant_pass() -> None:
    layers = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]"
    optimizer = {"adam_betas": "(0.9,0.98)", "others": [{"adam_betas": [0.9, 0.98]}]}
    model = {"conv_feature_layers": layers, "encoder_layers": 12, "data": "exit()"}
    refuse_code({"model": model, "optimizer": optimizer, "wer_args": None}, "a file")


def _evaluated_by(tree: ast.AST) -> set[str]:
    """The names of settings that code gives to `eval`, or to what gives them to it."""
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        method = isinstance(node.func, ast.Attribute) and name == "eval"
        if not method and name in ("eval", "eval_str_list", "eval_str_dict", "eval_bool"):
            found |= {a.attr for a in node.args if isinstance(a, ast.Attribute)}
        if name == "add_argument":
            option = node.args[0] if node.args else None
            kinds = [ast.unparse(k.value) for k in node.keywords if k.arg == "type"]
            if isinstance(option, ast.Constant) and re.search(r"eval_(str|bool)", str(kinds)):
                found.add(option.value.lstrip("-").replace("-", "_"))
    return found


def test_all_that_fairseq_evaluates_is_known() -> None:
    """In everything that fairseq imports, and in its examples of speech encoders."""
    folder = Path(fairseq.__file__).parent
    examples = [folder / "examples" / name for name in ("data2vec", "hubert", "wav2vec")]
    files = [file for file in folder.rglob("*.py") if folder / "examples" not in file.parents]
    files += [file for example in examples for file in example.rglob("*.py")]
    found = set().union(*(_evaluated_by(ast.parse(file.read_text())) for file in files))
    assert {"conv_feature_layers", "adam_betas", "wer_args"} <= found
    assert found - {*FORMS, *ANY_LITERAL} == set()
