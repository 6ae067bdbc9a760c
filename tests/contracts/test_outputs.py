"""Where a command is to write, it replaces files and folders only, and waits for nothing."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from manifest_folders import write_folder
from mask_files import Files
from matrices import some_matrix
from slim_files import with_idle_units

from speechprune.masking.mask_set import MaskSet
from speechprune.rewriting.banking import add, create
from speechprune.tools.main import commands

#: Each command that writes, without where it writes to, by what that is called.
LINES = {
    "average --out": "average run {out}",
    "bank extract --out": "bank extract tasks.bank es {out}",
    "benchmark --figure": "benchmark spanish.pt --figure {out}",
    "compare --figure": "compare run --figure {out}",
    "convert --out": "convert spanish.pt {out}",
    "demo --out": "demo --out {out} --data data --updates 1",
    "encoder --out": "encoder spanish.pt {out}",
    "evaluate --figure": "evaluate spanish.pt --data data --subset valid --figure {out}",
    "export huggingface --out": "export huggingface spanish.pt {out}",
    "export onnx --out": "export onnx spanish.pt {out}",
    "import huggingface --out": "import huggingface words {out}",
    "layers auto --out": "layers auto plain.pt --drop 1 --data data --train train --valid valid "
    "--out {out} --measure cka --config-name demo/nano model.mask_length=2",
    "layers drop --out": "layers drop plain.pt 1 {out}",
    "layers greedy --out": "layers greedy plain.pt --drop 1 --data data --subset valid --out {out}",
    "layers search --out": "layers search dc.safetensors --drop 2 --out {out}",
    "layers similarity --out": "layers similarity plain.pt --data data --subset train --out {out}",
    "layers verify --out": "layers verify plain.pt 1 --data data --subset valid --out {out}",
    "manifest merge --out": "manifest merge {out} words words --language xx --language yy",
    "manifest split --out": "manifest split words {out} --into a=0.5,b=0.5 --by utterance",
    "manifest stats --figure": "manifest stats words --figure {out}",
    "manifest subset --out": "manifest subset words {out} --minutes 1",
    "masks apply --out": "masks apply spanish.pt french.pt {out}",
    "masks compare --heat-map": "masks compare spanish.pt french.pt --heat-map {out}",
    "masks export --out": "masks export spanish.pt {out}",
    "masks fold --out": "masks fold spanish.pt {out}",
    "masks iou --figure": "masks iou spanish.pt french.pt --own --figure {out}",
    "masks make --out": "masks make plain.pt {out} --by global-magnitude --sparsity 0.5",
    "masks phonetics --figure": "masks phonetics spanish.pt french.pt --languages es,fr "
    "--figure {out}",
    "prepare synthetic --out": "prepare synthetic --out {out} --train 2 --valid 1 --test 1",
    "recipe dense --out": "recipe dense --data data --model pretrained.pt --out {out} --updates 1 "
    "--config-name demo/nano",
    "report --out": "report run --out {out}",
    "slim apply --out": "slim apply idle.pt {out}",
    "slim auto --out": "slim auto plain.pt --ffn 0.5 --data data --train train --valid valid "
    "--out {out} --config-name demo/nano model.mask_length=2",
    "slim prune --out": "slim prune plain.pt {out} --ffn 0.5",
    "train hydra.run.dir": "train --config-name demo/nano task.data={data} "
    "model.w2v_path={pretrained} optimization.max_update=1 hydra.run.dir={out}",
}
#: What writes as another of its group does, or takes minutes before it writes.
ALIKE = {
    *("pretrain-mini --out", "pretrain-mini --folder"),
    *("pretrain-nano --out", "pretrain-nano --folder"),
    *("pretrain-nano-text --out", "pretrain-nano-text --folder"),
}
OUTPUTS = ("--out", "--figure", "--heat-map", "--folder")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    files = Files(tmp_path_factory.mktemp("outputs"))
    write_folder(files.folder / "words")
    some_matrix().save(files.folder / "dc.safetensors")
    with_idle_units(Path(shutil.copy(files.plain, files.folder / "idle.pt")))
    create(files.pretrained, files.folder / "tasks.bank")
    add(files.folder / "tasks.bank", "es", files.spanish)
    checkpoints = files.folder / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    for name in ("last", "1_1"):
        os.link(files.spanish, checkpoints / f"checkpoint_{name}.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(files.folder)
        yield files


def outputs(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Where a command, or those below it, write to: `command --option`."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from outputs(child, (*path, name))
        return
    for parameter in command.params:
        name = f"--{(parameter.name or '').replace('_', '-')}"
        is_folder_to_read = name == "--folder" and isinstance(parameter, click.Argument)
        if name in OUTPUTS and not is_folder_to_read:
            yield " ".join((*path, name))


def test_every_output_of_every_command_is_tried() -> None:
    tried, found = set(map(alike, LINES)), set(map(alike, outputs(commands)))
    assert found == (tried - {"train hydra.run.dir"}) | ALIKE


def alike(name: str) -> str:
    """The same for all corpora, and for all recipes."""
    group = name.split()[0]
    return group if group in ("prepare", "recipe") else name


@pytest.mark.parametrize("name", LINES)
def test_a_pipe_is_refused_in_one_line_and_stays(name: str, files: Files) -> None:
    pipe = files.folder / "pipe.png"
    os.mkfifo(pipe)
    before = sorted(path.name for path in files.folder.rglob("*"))
    places = {"out": pipe, "data": files.data, "pretrained": files.pretrained}
    words = LINES[name].format(**places).split()
    try:
        result = CliRunner().invoke(commands, words)
        assert result.exit_code not in (0, None), result.output
        assert isinstance(result.exception, SystemExit), result.exc_info
        refusals = [line for line in result.stderr.splitlines() if "error: " in line]
        assert len(refusals) == 1 and "pipe.png" in refusals[0], result.stderr
        assert stat.S_ISFIFO(os.stat(pipe).st_mode)
        assert sorted(path.name for path in files.folder.rglob("*")) == before
    finally:
        pipe.unlink()


def test_a_link_to_a_file_is_written_through(files: Files) -> None:
    link, target = files.folder / "link", files.folder / "target"
    link.symlink_to(target)
    result = CliRunner().invoke(commands, ["masks", "export", "spanish.pt", "link"])
    assert result.exit_code == 0 and link.is_symlink()
    assert MaskSet.load(target).density == MaskSet.load(link).density
