"""`speechprune train` as its users start it: it trains, returns a value, or ends in one line."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from threading import Timer

import pytest
import torch
from forking import start
from loop import NANO, Lab, Run, run_script

from speechprune.locks import locked
from speechprune.tools.main import main

#: The command as a user starts it.
SPEECHPRUNE = (sys.executable, "-m", "speechprune.tools.main")
WORLD = "distributed_training.distributed_world_size"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("train"))


def arguments(lab: Lab, name: str, *more: str) -> list[str]:
    """A run on a nano model that leaves to the command what a user leaves to it."""
    return [
        "train",
        f"hydra.run.dir={lab.folder / name}",
        f"task.data={lab.data}",
        "dataset.train_subset=train",
        "dataset.valid_subset=valid",
        f"model.w2v_path={lab.wav2vec2}",
        "model.fix_attn=true",
        "model.trainable_proj=true",
        "dataset.max_tokens=40000",
        "dataset.num_workers=0",
        "optimization.max_update=2",
        *NANO,
        *more,
        "--config-name=base_1h",
    ]


def run_forked(folder: Path, words: list[str], prepare=None) -> Run:
    """The same in a fork of a process that has imported fairseq: importing takes longest."""
    folder.mkdir(exist_ok=True)
    log = folder / "log"
    log.unlink(missing_ok=True)
    process = start(log, _main, folder, words, prepare)
    process.join()
    return Run(folder, process.exitcode, log.read_text())


def _main(folder: Path, words: list[str], prepare) -> None:
    os.chdir(folder)
    sys.argv = ["speechprune", *words]
    if prepare is not None:
        prepare()
    main()


def error_line(run: Run) -> str:
    """The one line that a failed run ends with."""
    assert run.exit_code == 1, run.output[-3000:]
    assert "Traceback" not in run.output, run.output[-3000:]
    lines = [line for line in run.output.splitlines() if line.startswith("speechprune: error: ")]
    assert len(lines) == 1 and run.output.splitlines()[-1] == lines[0], run.output[-3000:]
    return lines[0]


def test_two_processes_train_together_on_a_cpu(lab: Lab) -> None:
    """With relative paths, as typed in the folder of the data; an update takes three batches of two
    utterances in each process."""
    batches = ("dataset.max_tokens=400000", "dataset.batch_size=2", "optimization.update_freq=[3]")
    words = [
        word.replace(f"{lab.folder}/", "") for word in arguments(lab, "two", f"{WORLD}=2", *batches)
    ]
    assert "task.data=data" in words
    run = run_script(lab.folder, words, SPEECHPRUNE)
    assert run.exit_code == 0, run.output[-3000:]
    run = Run(lab.folder / "two", 0, run.output)
    state = run.checkpoint("last")
    assert state["optimizer_history"][-1]["num_updates"] == 2
    assert state["cfg"]["distributed_training"]["distributed_world_size"] == 2
    assert "as rank 0" in run.output and "as rank 1" in run.output
    assert [record["nsentences"] for record in run.records("train_inner")] == ["12", "12"]
    best = state["extra_state"]["best"]
    assert f"best wer on valid: {best:g}" in run.output


def _report_values(lab: Lab) -> None:
    """Have what the command's library returns written to a file: the command prints no list."""
    import speechprune.training.launch as training

    train = training.train

    def train_and_report(words):
        values = train(words)
        (lab.folder / "values").write_text(json.dumps(values))

    training.train = train_and_report


def test_a_sweep_returns_each_runs_own_best_value(lab: Lab) -> None:
    """The second run must not go on with the best value of the first, which is lower; it is the run
    that it would be alone."""
    sweep = lab.folder / "sweep"
    more = (
        "optimization.lr=[0.01],[0.001]",
        f"hydra.sweep.dir={sweep}",
        "checkpoint.best_checkpoint_metric=loss",
        "optimization.max_update=6",
        "-m",
    )
    words = arguments(lab, "unused", *more)
    run = run_forked(lab.folder / "sweep-log", words, partial(_report_values, lab))
    assert run.exit_code == 0, run.output[-3000:]
    values = json.loads((lab.folder / "values").read_text())
    saved = [Run(sweep / str(i), 0, "").checkpoint("best")["extra_state"] for i in range(2)]
    assert values == [state["best"] for state in saved] == [state["val_loss"] for state in saved]
    assert values[0] < values[1]
    alone = arguments(lab, "alone", "optimization.lr=[0.001]", *more[2:-1])
    run = run_forked(lab.folder / "alone-log", alone).succeeded()
    states = [Run(sweep / "1", 0, "").model(), Run(lab.folder / "alone", 0, "").model()]
    assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())


def test_a_config_for_two_gpus_trains_in_one_process(lab: Lab) -> None:
    run = run_forked(lab.folder / "one", arguments(lab, "one")).succeeded()
    assert "full precision instead of the config's fp16" in run.output
    assert f"{WORLD}=1 optimization.update_freq=[8]; the batch stays the same" in run.output
    assert run.checkpoint("last")["optimizer_history"][-1]["num_updates"] == 2


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("optimization.max_update=many", "'many'"),
        ("dataset.max_tokens=999", "samples, more than dataset.max_tokens=999"),
        ("dataset.train_subset=dev", "dev.tsv is missing; splits in its folder: train, valid"),
        ("checkpoint.finetune_from_model=gone.pt", "gone.pt does not exist"),
        ("task.data=gone", "no folder {folder}/gone"),
        ("checkpoint.best_checkpoint_metric=werr", "'werr'; did you mean 'wer'?"),
        ("optimization.max_update=0", "max_update=0 is out of range; use at least 1"),
        ("checkpoint.restore_file=/gone.pt", "checkpoint.restore_file: /gone.pt does not exist"),
        ("lr_scheduler.phase_ratio=[0.1,0.4,0.4]", "three parts of training that add up to 1"),
        ("lr_scheduler.phase_ratio=null", "decay_steps=0 leaves nothing to decay in"),
        ("dataset.max_tokens=null", "batches have no limit"),
        ("common.amp=true", "use common.fp16=true or common.bf16=true"),
        ("model.prune_rate=1.5", "model.prune_rate is the share kept"),
        ("model.init_score=weigth_rank", "'weigth_rank'; did you mean 'weight_rank'"),
        ("model.fc_attn_prune_rate=[0.5]", "model.fc_attn_prune_rate needs 2 values"),
        (
            "model.mask_channel_length=9",
            "of the 32 channels of {lab}/wav2vec2.pt; set model.mask_channel_length=8 ",
        ),
        ("model.mask_channel_prob=0.03", "wav2vec2.pt; set model.mask_channel_prob=0"),
        ("task.data=${nope.x}", "'nope.x' not found; full_key: task.data"),
        ("task.data=???", "the config leaves these to you: task.data=..."),
    ],
)
def test_bad_input_ends_in_one_line(lab: Lab, override: str, told: str) -> None:
    folder = lab.folder / "bad"
    run = run_forked(folder, arguments(lab, "bad", override))
    assert told.format(folder=folder, lab=lab.folder) in error_line(run)
    assert "'_name'" not in run.output, "the whole config was printed before"
    assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize("place", ["", "{lab}/wav2vec2.pt", "{lab}/wav2vec2.pt/run"])
def test_a_run_needs_a_folder(lab: Lab, place: str) -> None:
    place = place.format(lab=lab.folder)
    assert lab.wav2vec2.is_file()
    line = error_line(
        run_forked(lab.folder / "none", arguments(lab, "none", f"hydra.run.dir={place}"))
    )
    assert "the folder of the run" in line and "name another hydra.run.dir" in line


def test_a_run_of_one_update_whose_settings_name_each_other(lab: Lab) -> None:
    more = ("optimization.max_update=1", "common.seed=${optimization.max_update}")
    run = run_forked(lab.folder / "short", arguments(lab, "short", *more)).succeeded()
    state = run.checkpoint("last")
    assert state["optimizer_history"][-1]["num_updates"] == 1
    assert state["cfg"]["common"]["seed"] == 1


def test_divergence_is_told_in_one_line(lab: Lab) -> None:
    words = arguments(lab, "diverging", "optimization.lr=[1e30]", "model.co_train=true")
    message = error_line(run_forked(lab.folder / "diverging", words))
    assert "training diverged (" in message and "lower optimization.lr" in message


def test_a_pretrained_model_is_nothing_to_finetune_from(lab: Lab) -> None:
    words = arguments(lab, "bad", f"checkpoint.finetune_from_model={lab.wav2vec2}")
    message = error_line(run_forked(lab.folder / "bad", words))
    assert "is not a finetuned model; give a pretrained one as model.w2v_path" in message


def test_a_checkpoint_of_another_model_is_named(lab: Lab) -> None:
    run_forked(lab.folder / "other", arguments(lab, "other", "model.fix_attn=false")).succeeded()
    other = lab.folder / "other" / "checkpoints" / "checkpoint_last.pt"
    state = torch.load(other, weights_only=True)
    state["model"]["w2v_encoder.proj.bias"] = torch.zeros(99)
    torch.save(state, other)
    words = arguments(lab, "foreign", f"checkpoint.finetune_from_model={other}")
    line = error_line(run_forked(lab.folder / "foreign", words))
    assert str(other) in line and "size mismatch for w2v_encoder.proj.bias" in line


def _limit_file_size() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_a_full_disk_while_saving_is_one_line(lab: Lab) -> None:
    """A limit on the size of files stands in for the disk: writing fails in the same place."""
    words = arguments(lab, "full", "common.log_format=none")
    line = error_line(run_forked(lab.folder / "full", words, _limit_file_size))
    folder = lab.folder / "full" / "checkpoints"
    assert "free some space" in line and str(folder) in line
    assert list(folder.glob("*.pt")) == []


def test_ranks_of_another_launcher_take_turns_to_look_at_the_last_checkpoint(lab: Lab) -> None:
    folder = lab.folder / "taking-turns"
    with ExitStack() as other_rank:
        other_rank.enter_context(locked(folder / "checkpoints"))

        def end_when_this_one_waits() -> None:
            log = folder / "log"
            while not (log.exists() and "checkpoint_best.pt is the one" in log.read_text()):
                time.sleep(0.1)
            time.sleep(1)
            other_rank.close()

        releasing = Timer(1, end_when_this_one_waits)
        releasing.daemon = True
        releasing.start()
        alone = (f"{WORLD}=1", "distributed_training.distributed_no_spawn=true")
        run_forked(folder, arguments(lab, folder.name, *alone)).succeeded()
