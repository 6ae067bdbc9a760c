"""Commands that train and run no model import neither fairseq nor PyTorch, which take seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from banks import task, write_bank
from click.testing import CliRunner
from manifest_folders import write_folder
from nano import write_corpus, write_finetuned, write_wav2vec2

from speechprune.masking.mask_set import MaskSet
from speechprune.tools.main import commands

SLOW = ("fairseq", "hydra", "torch")

#: The console script, which says at its end what slow libraries it took.
SCRIPT = """
import sys
from speechprune_command import main
sys.argv[0] = "speechprune"
try:
    main()
finally:
    print("imported:", *sorted({names} & set(sys.modules)), file=sys.stderr)
"""

#: Loads every command and subcommand, as a shell does that asks for all completions.
WALK = """
import click, sys
from speechprune.tools.main import commands

def walk(command, context, path):
    print(*path)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            walk(child, click.Context(child, parent=context), (*path, name))

walk(commands, click.Context(commands), ("speechprune",))
print("imported:", *sorted({names} & set(sys.modules)), file=sys.stderr)
"""


def imported(folder: Path, program: str, *words: str) -> tuple[str, list[str]]:
    """What a program prints, and which of SLOW it imported."""
    command = [sys.executable, "-c", program.replace("{names}", repr(set(SLOW))), *words]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    last = ran.stderr.splitlines()[-1]
    assert last.startswith("imported:")
    return ran.stdout, last.split()[1:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A matrix, mask files, a bank, manifest folders, Kaldi data, a log and a run that was compared
    before."""
    folder = tmp_path_factory.mktemp("start up")
    np.save(folder / "matrix.npy", np.eye(5))
    for seed, name in enumerate(("one", "two")):
        kept = torch.rand(8, 6, generator=torch.Generator().manual_seed(seed)) < 0.5
        MaskSet({"encoder.layers.0.fc1.weight": kept}).save(folder / f"{name}.safetensors")
    write_bank(folder / "bank.safetensors", task("es"), task("fr", seed=1))
    write_folder(folder / "data")
    write_folder(folder / "other")
    audio = sorted((folder / "data" / "audio" / "train").glob("*.flac"))
    (folder / "kaldi").mkdir()
    (folder / "kaldi" / "wav.scp").write_text("".join(f"{i} {p}\n" for i, p in enumerate(audio)))
    (folder / "kaldi" / "text").write_text("".join(f"{i} ON\n" for i, _ in enumerate(audio)))
    (folder / "log").mkdir()
    (folder / "log" / "train.log").write_text('[t][train_inner][INFO] - {"num_updates": "1"}\n')
    finished_run(folder / "run", write_corpus(folder / "corpus", train=2, valid=2))
    return folder


def finished_run(folder: Path, data: Path) -> None:
    """A run that has made its updates, with what `compare` keeps of it."""
    (folder / "checkpoints").mkdir(parents=True)
    last = folder / "checkpoints" / "checkpoint_last.pt"
    write_finetuned(last, write_wav2vec2(folder / "pretrained.pt"), data)
    state = torch.load(last, weights_only=True)
    planned = {"dataset": {"train_subset": "train"}, "optimization": {"max_update": 0}}
    torch.save({**state, "cfg": {**state["cfg"], **planned}}, last)
    result = CliRunner().invoke(commands, ["compare", str(folder), "--subset", "valid"])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("line", "printed"),
    [
        ("--help", "Usage: speechprune"),
        ("--version", "version"),
        ("completion bash", "_speechprune_completion"),
        ("layers search matrix.npy --drop 1", "score"),
        ("layers search matrix.npy --drop 2 --method beam --out plans.json", "score"),
        ("masks stats one.safetensors", "density"),
        ("masks compare one.safetensors two.safetensors --json", "iou"),
        ("masks iou --own one.safetensors one.safetensors", "IOU"),
        ("masks phonetics one.safetensors two.safetensors --languages es,fr", "correlation"),
        ("manifest check data", "errors"),
        ("manifest stats data", "utterances"),
        ("manifest subset data small --minutes 0.001", "train"),
        ("manifest split data cut --into a=0.5,b=0.5 --by utterance", "a"),
        ("manifest merge pooled data other --language en --language es", "train"),
        ("prepare kaldi kaldi --out prepared --language en", "utterances"),
        ("compare run --subset valid", "dense control"),
        ("report one.safetensors two.safetensors matrix.npy log --out page.html", "page.html"),
        ("bank list bank.safetensors", "saving"),
        ("bank remove bank.safetensors es", "1 task left"),
    ],
)
def test_nothing_slow_is_imported(folder: Path, line: str, printed: str) -> None:
    output, slow = imported(folder, SCRIPT, *line.split())
    assert printed in output
    assert slow == []


def test_the_policies_need_no_fairseq(folder: Path) -> None:
    output, slow = imported(folder, SCRIPT, "policies")
    assert "s3router" in output and slow == ["torch"]


def test_all_commands_are_loaded_without_anything_slow(folder: Path) -> None:
    output, slow = imported(folder, WALK)
    assert {"speechprune recipe parp", "speechprune layers auto"} <= set(output.splitlines())
    assert slow == []


def test_a_changed_checkpoint_is_read_again(folder: Path) -> None:
    last = folder / "run" / "checkpoints" / "checkpoint_last.pt"
    state = torch.load(last, weights_only=True)
    state["cfg"]["common"]["seed"] = 5
    torch.save(state, last)
    output, slow = imported(folder, SCRIPT, *"compare run --subset valid --json".split())
    assert '"seed": 5' in output and "fairseq" in slow
    again, slow = imported(folder, SCRIPT, *"compare run --subset valid --json".split())
    assert again == output and slow == []
