"""Every command that takes a checkpoint refuses one with code in its settings, and runs nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from checkpoints import MASKS
from click.testing import CliRunner
from fairseq import checkpoint_utils
from hostile import make_hostile
from nano import write_corpus, write_finetuned, write_wav2vec2

from speechprune.errors import UserError
from speechprune.masking.mask_set import MaskSet
from speechprune.models.mask_reading import read_checkpoint_masks
from speechprune.rewriting.banking import create
from speechprune.tools.main import commands

_TRAIN = (
    "--config-name=demo/nano hydra.run.dir={out} task.data={data} common.cpu=true "
    "dataset.train_subset=train dataset.valid_subset=valid optimization.max_update=10 "
)
#: How each command is given a checkpoint, in all ways that lead to another reader.
LINES = {
    "average": ["{run} {out}"],
    "bank add": ["{bank} es {finetuned}"],
    "bank create": ["{pretrained} {out}"],
    "benchmark": ["{finetuned}"],
    "compare": ["{run}"],
    "convert": ["{pretrained} {out}", "{finetuned} {out}"],
    "encoder": ["{finetuned} {out}"],
    "evaluate": ["{finetuned} --data {data} --subset valid"],
    "export huggingface": ["{pretrained} {out}", "{finetuned} {out}"],
    "export onnx": ["{finetuned} {out}", "{finetuned} {out} --layout sherpa-onnx"],
    "layers auto": [
        "{pretrained} --drop 1 --data {data} --train train --valid valid --out {out}",
        "{finetuned} --drop 1 --data {data} --train train --valid valid --out {out}",
    ],
    "layers drop": ["{pretrained} [0] {out}", "{finetuned} [0] {out}"],
    "layers greedy": ["{finetuned} --drop 1 --data {data} --subset valid"],
    "layers similarity": [
        "{pretrained} --data {data} --subset valid --out {out}",
        "{finetuned} --data {data} --subset valid --out {out}",
    ],
    "layers verify": ["{finetuned} [0] --data {data} --subset valid"],
    "masks apply": ["{finetuned} {masks} {out}", "{harmless} {finetuned} {out}"],
    "masks compare": ["{finetuned} {masks}"],
    "masks export": ["{finetuned} {out}"],
    "masks fold": ["{finetuned} {out}"],
    "masks iou": ["{pretrained} {pretrained2} --sparsity 0.5", "{finetuned} {harmless} --own"],
    "masks make": [
        "{pretrained} {out} --by magnitude --sparsity 0.5",
        "{finetuned} {out} --by magnitude --sparsity 0.5",
        "{finetuned} {out} --by random --sparsity 0.5",
    ],
    "masks phonetics": ["{masks} {finetuned} --languages es,fr"],
    "masks stats": ["{finetuned}"],
    "report": [
        "{run} --out {out}",
        "{finetuned} --out {out}",
        "{pretrained} {masks} --out {out}",
    ],
    "slim apply": ["{pretrained} {out}", "{finetuned} {out}"],
    "slim auto": [
        "{pretrained} --ffn 0.5 --data {data} --train train --valid valid --out {out}",
        "{finetuned} --ffn 0.5 --data {data} --train train --valid valid --out {out}",
    ],
    "slim find": ["{pretrained}", "{finetuned}"],
    "slim prune": [
        "{pretrained} {out} --ffn 0.5",
        "{finetuned} {out} --heads 0.5 --data {data} --subset valid --repair",
    ],
    "train": [
        _TRAIN + "model.w2v_path={pretrained}",
        _TRAIN + "model.w2v_path={sound} checkpoint.finetune_from_model={finetuned}",
        _TRAIN + "model.w2v_path={sound} checkpoint.restore_file={finetuned}",
        _TRAIN + "model.w2v_path={sound} checkpoint.save_dir={run}/checkpoints",
    ],
    "transcribe": [
        "{finetuned} {data}/audio/valid-0.wav",
        "{finetuned} {data}/audio/valid-0.wav --beam 5 --timestamps json",
    ],
    "tune-decoder": ["{finetuned} --data {data} --subset valid --lm {data}/words.arpa"],
}
#: What reads no checkpoint of its user's, or banks, of which tests/bank has hostile ones, or
#: folders of Hugging Face's, of which tests/exporting has; and recipes, whose runs are those of
#: `train`.
OTHERS = (
    *(
        "bank extract",
        "bank list",
        "bank remove",
        "completion",
        "demo",
        "import ",
        "layers search",
        "manifest ",
        "policies",
        "prepare ",
        "pretrain-mini",
        "pretrain-nano",
    ),
    "recipe ",
)


def leaves(command: click.Command, name: str = "") -> Iterator[tuple[str, click.Command]]:
    """All commands but groups, by their names."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    context = click.Context(command)
    for each in command.list_commands(context):
        inner = command.get_command(context, each)
        assert inner is not None
        yield from leaves(inner, f"{name} {each}".strip())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What takes the place of names in LINES; ``marker`` is made by whoever runs the code."""
    folder = tmp_path_factory.mktemp("hostile")
    data = write_corpus(folder / "data", train=1, valid=1)
    sound = write_wav2vec2(folder / "sound.pt")
    harmless = write_finetuned(folder / "harmless.pt", sound, data, model=MASKS)
    MaskSet(read_checkpoint_masks(harmless), {}).save(folder / "masks.safetensors")
    marker, last = folder / "executed", folder / "run" / "checkpoints" / "checkpoint_last.pt"
    last.parent.mkdir(parents=True)
    copies = {"pretrained": sound, "pretrained2": sound, "finetuned": harmless}
    hostile = {
        name: make_hostile(Path(shutil.copy(source, folder / f"{name}.pt")), marker)
        for name, source in copies.items()
    }
    shutil.copy(hostile["finetuned"], last)
    own = {"data": data, "sound": sound, "harmless": harmless, "run": folder / "run"}
    own["bank"] = create(sound, folder / "tasks.bank").path
    return {**own, **hostile, "masks": folder / "masks.safetensors", "marker": marker}


def test_every_command_that_takes_a_checkpoint_is_tried() -> None:
    names = {name for name, _ in leaves(commands)}
    assert set(LINES) <= names
    forgotten = [n for n in sorted(names - set(LINES)) if not f"{n} ".startswith(OTHERS)]
    assert not forgotten, "give them a hostile checkpoint in LINES"


@pytest.mark.parametrize(
    ("name", "line"), [(name, line) for name, lines in LINES.items() for line in lines]
)
def test_commands_refuse_code_in_settings(
    files: dict[str, Path], tmp_path: Path, name: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    words = [word.format(**files, out=out) for word in (*name.split(), *line.split())]
    result = CliRunner().invoke(commands, words)
    assert not files["marker"].exists()
    assert isinstance(result.exception, SystemExit), result.exception
    error = result.output.strip().splitlines()[-1]
    assert result.exit_code == 1, result.output
    assert error.startswith("speechprune: error: ") and "conv_feature_layers" in error
    assert not out.is_file()


@pytest.mark.parametrize("kind", ["pretrained", "finetuned"])
def test_fairseqs_own_reader_refuses_it(files: dict[str, Path], kind: str) -> None:
    """Which its trainer opens checkpoints with, and its models what `model.w2v_path` names."""
    with pytest.raises(UserError, match="conv_feature_layers"):
        checkpoint_utils.load_checkpoint_to_cpu(str(files[kind]))
    assert not files["marker"].exists()
