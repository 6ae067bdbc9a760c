"""Every command on the pages is one: taken apart by bash, and parsed by the program it is for."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from fairseq.logging import progress_bar
from labelled import write_tones
from loop import compose
from nano import write_corpus
from omegaconf import OmegaConf
from readme import PAGES, ROOT, Block, blocks, commands_in, inline_code, readme_snippet
from sentences import write_sentences
from torch.distributed.run import get_args_parser

from speechprune.errors import UserError
from speechprune.masking.policies import POLICIES
from speechprune.tools.main import commands
from speechprune.training.command_line import check_keys, complete, key_of, value_of
from speechprune.training.rehearsal import rehearse

Words = Sequence[str]
INLINE = sorted(
    {code for page in PAGES for code in inline_code(page) if code.startswith("speechprune ")}
)


class Bench:
    """Parses commands as their programs do, with data for those that train."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.corpus = write_corpus(folder / "corpus", train=12, valid=4)
        self.labelled = write_tones(folder / "labelled")
        self.sentences = write_sentences(folder / "sentences")
        # The files of the examples exist only where they are used.
        monkeypatch.setattr(click.Path, "convert", lambda self, value, param, ctx: Path(value))
        # Curves are drawn by packages that need not be here.
        for name in ("SummaryWriter", "wandb"):
            monkeypatch.setattr(progress_bar, name, object())
        # Benchmarks are started in the root of a checkout.
        monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])
        # The policy of the how-to is one that a command of it trains.
        parts = {name: POLICIES.get(name) for name in POLICIES.names()}
        monkeypatch.setattr(POLICIES, "_parts", parts)
        module = ModuleType("row_magnitude")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(readme_snippet("Add a policy"), module.__dict__)
        self._parsed: list[click.Context] = []
        invoke = click.Command.invoke

        def note(command: click.Command, context: click.Context) -> Any:
            """Groups go on to their commands; a command ends here."""
            if isinstance(command, click.Group):
                return invoke(command, context)
            self._parsed.append(context)
            return None

        monkeypatch.setattr(click.Command, "invoke", note)

    def check(self, words: Words) -> None:
        """Fail unless the program takes these words."""
        program, *rest = words
        getattr(self, f"_{program.replace('-', '_')}")(rest)

    def _speechprune(self, words: Words) -> None:
        context = self.parsed(words)
        path = context.command_path.split()[1:]
        if path == ["train"]:
            self._train(context.params["arguments"])
        elif "overrides" in context.params and "config" in context.params:
            self._rounds(context.params)

    def parsed(self, words: Words) -> click.Context:
        """What click makes of a command line; the command is not run."""
        self._parsed.clear()
        commands.main(list(words), prog_name="speechprune", standalone_mode=False)
        (context,) = self._parsed
        return context

    def _train(self, arguments: Words) -> None:
        """Compose the run and check its settings, on data that exists."""
        if "-m" in arguments:
            assert complete(arguments).sweeps
            for plugin in _plugins_of(arguments):
                pytest.importorskip(f"hydra_plugins.{plugin}")
            # The first of the values, or the lower end of those that are searched.
            arguments = [
                re.sub(r"^\+sweeps=optuna$", "hydra/sweeper=optuna", word)
                if word.startswith("+")
                else re.sub(r"=(?:interval\()?(\[[^\]]*\]|[\d.]+),.*", r"=\1", word)
                for word in arguments
                if word not in ("-m", "+sweeps=density")
            ]
        if "--cfg" in arguments:
            complete(arguments)
            return
        given = {key_of(word): value_of(word) for word in arguments if "=" in word}
        if any("glue/" in word for word in arguments if "=" not in word):
            # What is trained for two classes is rehearsed on toy sentences.
            assert {"task.data", "model.roberta_path"} <= set(given), arguments
            rehearse([*arguments, f"task.data={self.sentences}"])
            return
        assert {"task.data", "model.w2v_path"} <= set(given), arguments
        if any("labels" in word for word in arguments if "=" not in word):
            rehearse([*arguments, f"task.data={self.labelled}"])
            return
        self._make_splits(given["dataset.train_subset"], given["dataset.valid_subset"])
        rehearse([*arguments, f"task.data={self.corpus}"])

    def _rounds(self, params: dict[str, Any]) -> None:
        """The overrides of a recipe or of `layers auto`, in a run like theirs."""
        splits = [word for word in params["overrides"] if key_of(word).endswith("_subset")]
        if "train" in params:
            splits = [f"dataset.{name}_subset={params[name]}" for name in ("train", "valid")]
        kind = "roberta" if params["config"].startswith("glue/") else "w2v"
        self._train(
            [
                *("--config-name", params["config"], f"model.{kind}_path=x.pt", "task.data=x"),
                *params["overrides"],
                *splits,
            ]
        )

    def _make_splits(self, train: str, valid: str) -> None:
        for source, name in (("train", train), ("valid", valid)):
            for suffix in ("tsv", "ltr", "wrd"):
                target = self.corpus / f"{name}.{suffix}"
                if not target.exists():
                    shutil.copy(self.corpus / f"{source}.{suffix}", target)

    def _fairseq_hydra_train(self, words: Words) -> None:
        joined = " ".join(words).replace("--config-dir ", "--config-dir=")
        arguments = joined.replace("--config-name ", "--config-name=").split()
        options = dict(word[2:].split("=", 1) for word in arguments if word.startswith("--"))
        given = {key_of(word): value_of(word) for word in arguments if not word.startswith("--")}
        assert Path(given["common.user_dir"]) == ROOT / "user_dir" / "speechprune"
        config = Path(options["config-dir"], f"{options['config-name']}.yaml")
        check_keys(given, OmegaConf.to_container(OmegaConf.load(config), resolve=False))
        cfg = compose(arguments)
        for key in set(given) - {"hydra.run.dir"}:
            expected = OmegaConf.from_dotlist([f"{key}={given[key]}"])
            assert OmegaConf.select(cfg, key) == OmegaConf.select(expected, key), key

    def _make(self, words: Words) -> None:
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        for target in words:
            assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target

    def _pip(self, words: Words) -> None:
        command, _, constraints, *names = words
        assert (command, constraints) == ("install", "constraints.txt"), words
        pinned = {line.partition("==")[0].lower() for line in _lines("constraints.txt")}
        names = [name for name in names if name not in ("--no-build-isolation", "-e", ".")]
        extras = {name: name[2:-1] for name in names if re.fullmatch(r"\.\[\w+\]", name)}
        offered = (ROOT / "setup.py").read_text(encoding="utf-8")
        assert all(f'"{extra}": ' in offered for extra in extras.values()), words
        names = [name for name in names if name not in extras]
        assert {name.lower() for name in names} <= pinned

    def _srun(self, words: Words) -> None:
        self.check(words)

    def _torchrun(self, words: Words) -> None:
        parsed = get_args_parser().parse_args(list(words))
        assert parsed.no_python and not parsed.module, words
        self.check([parsed.training_script, *parsed.training_script_args])
        assert any(key_of(word) == "hydra.run.dir" for word in words), words

    def _python(self, words: Words) -> None:
        flag, module, *rest = words
        assert flag == "-m" and module.startswith("benchmarks."), words
        importlib.import_module(module).main.make_context(module, list(rest))

    def _pytest(self, words: Words) -> None:
        path, *rest = words
        assert (ROOT / path).is_file(), words
        assert not rest or rest[0] == "-k" and len(rest) == 2, words

    def _pre_commit(self, words: Words) -> None:
        assert list(words) == ["install"]


def _plugins_of(arguments: Words) -> list[str]:
    """The plugins of hydra that a sweep needs."""
    joined = " ".join(arguments)
    named = {"submitit": "hydra_submitit_launcher", "optuna": "hydra_optuna_sweeper"}
    return [plugin for word, plugin in named.items() if word in joined]


def _lines(name: str) -> list[str]:
    return (ROOT / name).read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Bench(tmp_path_factory.mktemp("bench"), monkeypatch)


@pytest.mark.parametrize("block", blocks("bash"), ids=str)
def test_commands_are_taken_by_their_programs(block: Block, bench: Bench, tmp_path: Path) -> None:
    found = commands_in(block.text, tmp_path)
    assert found
    for words in found:
        bench.check(words)


@pytest.mark.parametrize("code", INLINE)
def test_commands_in_the_text_exist(code: str, bench: Bench) -> None:
    """A command named without arguments, or one with its arguments."""
    words = shlex.split(code)[1:]
    if rest_of(words) not in ([], ["--version"]):
        bench.parsed(words)


def rest_of(words: Words) -> Words:
    """What follows the name of a command; fails if there is no such command."""
    command: click.Command = commands
    for index, word in enumerate(words):
        if not isinstance(command, click.Group) or word.startswith("-"):
            return words[index:]
        found = command.get_command(click.Context(command), word)
        assert found is not None, words
        command = found
    return []


@pytest.mark.parametrize(
    "shell",
    [
        "speechprune trian",
        "speechprune evaluate model.pt --data x --subset y --fast",
        "speechprune evaluate model.pt",
        "speechprune train --config-name base_1h task.data=x model.w2v_path=y "
        "dataset.train_subset=train dataset.valid_subset=valid model.prune_rat=0.5",
        "speechprune train --config-name base_1h task.data=x model.w2v_path=y "
        "dataset.train_subset=train dataset.valid_subset=valid model.prune_rate=1.5",
        "speechprune recipe parp --data x --model y --out z --sparsity 0.5 "
        "dataset.train_subset=train dataset.valid_subset=valid model.prune_everie=50",
        "make everything",
        "pip install -c constraints.txt no-such-package",
        "python -m benchmarks.pruning --out x",
    ],
)
def test_a_wrong_command_is_found(shell: str, bench: Bench, tmp_path: Path) -> None:
    (words,) = commands_in(shell, tmp_path)
    with pytest.raises((click.ClickException, UserError, AssertionError)):
        bench.check(words)


def test_a_program_without_a_stand_in_is_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="not found"):
        commands_in("rm -r everything", tmp_path)


def test_loops_variables_and_quotes_are_those_of_bash(tmp_path: Path) -> None:
    shell = (
        "common='--out runs'\nfor m in rp mpi; do\n  speechprune recipe $m $common 'a b'  # c\ndone"
    )
    expected = [["speechprune", "recipe", m, "--out", "runs", "a b"] for m in ("rp", "mpi")]
    assert commands_in(shell, tmp_path) == expected
