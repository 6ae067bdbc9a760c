"""`evaluate` and `transcribe` by a task of a bank: as by its checkpoint, or one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from banks import say
from checkpoints import rewrite
from click.testing import CliRunner, Result
from fairseq.data.dictionary import Dictionary
from mask_files import MASKED
from model_banks import Lab, make_sure

from speechprune.bank import task as task_module
from speechprune.models.loading import load_finetuned
from speechprune.models.mask_reading import read_mask_set
from speechprune.rewriting.banking import add, create
from speechprune.tools import _options
from speechprune.tools.main import commands

#: What is not the same each time.
CHANGING = ("checkpoint", "checkpoint_digest", "task", "seconds_of_audio_per_second")


class Spoken:
    """A bank with tasks that write texts, one of which tells classes."""

    def __init__(self, folder: Path) -> None:
        self.lab = Lab(folder)
        self.bank, self.data, self.tones = self.lab.bank, self.lab.data, folder / "tones"
        self.sources = {
            "es": self.lab.finetuned("es", MASKED, seed=1),
            "tone": self.lab.labelled("tone"),
            "sure": make_sure(self.lab.finetuned("sure", MASKED, seed=3), 50.0),
        }
        for name, path in self.sources.items():
            add(self.bank, name, path)
        self.file = self.data / "audio" / "valid-0.wav"


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Spoken:
    return Spoken(tmp_path_factory.mktemp("spoken"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(commands, list(map(str, arguments)))


def succeed(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def fail(*arguments: object) -> str:
    """The one line of a command that fails and prints nothing else."""
    result = run(*arguments)
    assert result.exit_code != 0 and result.stdout == ""
    assert result.stderr.startswith("speechprune: error: ") and result.stderr.count("\n") == 1
    return result.stderr


def measured(path: Path, data: Path, *rest: object) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(
        succeed("evaluate", path, "--data", data, "--subset", "valid", "--json", *rest)
    )
    return report


def lasting(report: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in report.items() if key not in CHANGING}


@pytest.mark.parametrize("name", ["es", "tone", "sure"])
def test_evaluate_prints_what_it_prints_of_the_checkpoint(spoken: Spoken, name: str) -> None:
    data = spoken.tones if name == "tone" else spoken.data
    found = measured(spoken.bank, data, "--task", name)
    expected = measured(spoken.sources[name], data)
    assert found["task"] == name and "task" not in expected
    assert lasting(found) == lasting(expected)
    assert found["density"] == pytest.approx(read_mask_set(spoken.sources[name]).density)


def test_transcribe_prints_what_it_prints_of_the_checkpoint(spoken: Spoken) -> None:
    for name, path in spoken.sources.items():
        found = succeed("transcribe", spoken.bank, spoken.file, "--task", name)
        assert found == succeed("transcribe", path, spoken.file)


def test_auto_prints_the_task_before_the_text(spoken: Spoken) -> None:
    other = spoken.data / "audio" / "train-0.wav"
    files = (spoken.file, other)
    lines = succeed("transcribe", spoken.bank, *files, "--task", "auto").splitlines()
    plain = succeed("transcribe", spoken.sources["sure"], *files).splitlines()
    assert lines == [line.replace("\t", "\tsure\t", 1) for line in plain]
    rows = json.loads(succeed("transcribe", spoken.bank, *files, "--task", "auto", "--json"))
    texts = [line.split("\t", 1)[1] for line in plain]
    assert rows == [
        {"file": str(file), "task": "sure", "text": text} for file, text in zip(files, texts)
    ]


def test_auto_counts_who_was_surest(spoken: Spoken) -> None:
    found = measured(spoken.bank, spoken.data, "--task", "auto")
    assert found["chosen"] == {"es": 0, "sure": 1}
    assert sum(found["chosen"].values()) == found["utterances"]
    sure = measured(spoken.sources["sure"], spoken.data)
    differing = {"parameters", "density", "chosen"}
    assert {k: v for k, v in lasting(found).items() if k not in differing} == {
        k: v for k, v in lasting(sure).items() if k not in differing
    }
    masks = [read_mask_set(spoken.sources[name]).density for name in ("es", "sure")]
    assert found["density"] == pytest.approx(sum(masks) / 2)
    head = load_finetuned(spoken.sources["es"]).model.w2v_encoder.proj
    assert found["parameters"] - sure["parameters"] == sum(p.numel() for p in head.parameters())
    text = succeed(
        "evaluate", spoken.bank, "--data", spoken.data, "--subset", "valid", "--task", "auto"
    )
    assert text.splitlines()[-1] == "chosen      sure 1"


def renamed(path: Path, symbols: dict[str, str]) -> Path:
    """Give the outputs of a checkpoint other symbols."""
    dictionary = Dictionary()
    for symbol in "|ABCDE":
        dictionary.add_symbol(symbols.get(symbol, symbol))
    return rewrite(path, lambda s: s["task_state"].update(target_dictionary=dictionary))


def test_the_alphabet_is_that_of_all_tasks(spoken: Spoken, tmp_path: Path) -> None:
    """The first task knows no letter of the texts; a second does."""
    path = tmp_path / "bank.safetensors"
    create(spoken.lab.pretrained, path)
    greek = shutil.copy(spoken.sources["es"], tmp_path / "greek.pt")
    add(path, "el", renamed(greek, dict(zip("ABCDE", "ΑΒΓΔΕ"))))
    evaluate = ("evaluate", path, "--data", spoken.data, "--subset", "valid", "--task")
    assert "another alphabet" in fail(*evaluate, "auto")
    add(path, "sure", spoken.sources["sure"])
    found = measured(path, spoken.data, "--task", "auto")
    assert found["chosen"] == {"el": 0, "sure": 1}
    assert found["wer"] == measured(spoken.sources["sure"], spoken.data)["wer"]
    assert "another alphabet" in fail(*evaluate, "el")


def test_words_and_units_are_not_compared(spoken: Spoken, tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    path.write_bytes(spoken.bank.read_bytes())
    phones = shutil.copy(spoken.sources["es"], tmp_path / "phones.pt")
    add(path, "phones", renamed(phones, {"|": "F"}))
    evaluate = ("evaluate", path, "--data", spoken.data, "--subset", "valid", "--task")
    assert "write words" in fail(*evaluate, "auto")
    text = succeed("transcribe", path, spoken.file, "--task", "auto")
    assert text.split("\t")[1] == "sure"


def test_texts_are_needed(spoken: Spoken, tmp_path: Path) -> None:
    data = shutil.copytree(spoken.data, tmp_path / "data")
    (data / "valid.ltr").write_text("\n")
    evaluate = ("evaluate", spoken.bank, "--data", data, "--subset", "valid", "--task")
    for name in ("auto", "es"):
        assert "has a text to compare" in fail(*evaluate, name)


def test_bad_input_ends_in_one_line(spoken: Spoken, tmp_path: Path) -> None:
    bank, source = spoken.bank, spoken.sources["es"]
    on = ("--data", spoken.data, "--subset", "valid")
    commands_of = (
        lambda path, *rest: ("evaluate", path, *on, *rest),
        lambda path, *rest: ("transcribe", path, spoken.file, *rest),
    )
    empty, tones = tmp_path / "empty.safetensors", tmp_path / "tones.safetensors"
    for path in (empty, tones):
        create(spoken.lab.pretrained, path)
    add(tones, "tone", spoken.sources["tone"])
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(bank.read_bytes()[: bank.stat().st_size // 2])
    hostile = tmp_path / "hostile.safetensors"
    hostile.write_bytes(bank.read_bytes())
    say(hostile, lambda header: header["tasks"]["es"]["about"].update(kind="labels", settings=1))
    read_mask_set(source).save(tmp_path / "masks.safetensors")
    cases: list[tuple[Path, str | None, str]] = [
        (bank, "ess", "did you mean 'es'?"),
        (bank, None, "name one of its tasks by --task (es, tone, sure)"),
        (source, "es", "leave out --task es"),
        (source, "auto", "leave out --task auto"),
        (tmp_path / "none", "es", "does not exist"),
        (tmp_path / "none", "auto", "does not exist"),
        (empty, "es", "no task yet"),
        (empty, "auto", "no task that writes texts"),
        (empty, None, "it has none yet"),
        (tones, "auto", "no task that writes texts"),
        (cut, "es", "cut.safetensors"),
        (cut, "auto", "cut.safetensors"),
        (hostile, "es", "hostile.safetensors"),
        (tmp_path / "masks.safetensors", "es", "but not a bank"),
    ]
    for path, task, what in cases:
        for command in commands_of:
            told = fail(*command(path, *(() if task is None else ("--task", task))))
            assert what in told, (path, task, told)


@pytest.mark.parametrize("name", ["es", "auto"])
def test_a_figure_of_classes_needs_classes(spoken: Spoken, tmp_path: Path, name: str) -> None:
    evaluate = ("evaluate", spoken.bank, "--data", spoken.data, "--subset", "valid", "--task", name)
    assert "is no model for labels" in fail(*evaluate, "--figure", tmp_path / "figure.png")
    assert not (tmp_path / "figure.png").exists()


def test_a_figure_of_a_task_of_labels(spoken: Spoken, tmp_path: Path) -> None:
    rest = ("--task", "tone", "--figure", tmp_path / "figure.svg")
    report = measured(spoken.bank, spoken.tones, *rest)
    drawn = sorted(path.name for path in tmp_path.iterdir())
    assert len(drawn) == len(report["slots"]) and all(name.endswith(".svg") for name in drawn)


def test_auto_is_one_word() -> None:
    """The commands' own, which imports nothing, and the one that is not the name of a task."""
    assert _options.AUTO == task_module.AUTO
