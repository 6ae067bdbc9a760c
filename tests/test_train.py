"""`speechprune train`: arguments completed or refused, processes fitted to the machine, a result."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from loop import NANO, PRELOAD, Lab, Run
from omegaconf import OmegaConf

import speechprune
from speechprune.command_line import complete
from speechprune.devices import Machine, fit
from speechprune.errors import UserError
from speechprune.processes import address_of
from speechprune.tools.main import main

ROOT = Path(__file__).resolve().parent.parent
CPU, ONE_GPU, THREE_GPUS = Machine(False, 2), Machine(True, 1), Machine(True, 3)
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


def start(folder: Path, words: list[str]) -> subprocess.Popen:
    """The command as a user starts it, in ``folder``."""
    return subprocess.Popen(
        [sys.executable, "-m", "speechprune.tools.main", *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run_script(folder: Path, words: list[str]) -> Run:
    process = start(folder, words)
    output, _ = process.communicate()
    return Run(folder, process.returncode, output)


def run_forked(folder: Path, words: list[str], prepare=None) -> Run:
    """The same in a fork of a process that has imported fairseq, which takes longer than training."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    folder.mkdir(exist_ok=True)
    process = context.Process(target=_main, args=(folder, words, prepare))
    process.start()
    process.join()
    return Run(folder, process.exitcode, (folder / "log").read_text())


def _main(folder: Path, words: list[str], prepare) -> None:
    output = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(folder)
    torch.set_num_threads(1)
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


# Arguments


def overrides_of(words: list[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in complete(words).arguments if "=" in word)


@pytest.mark.parametrize("name", ["base_1h", "finetuning/base_1h"])
def test_plugin_and_recipe_are_filled_in_with_absolute_paths(name: str) -> None:
    line = complete(["--config-name", name, "model.prune_rate=0.5"])
    assert f"common.user_dir={Path(speechprune.__file__).parent}" in line.arguments
    folder = Path(line.arguments[line.arguments.index("--config-dir") + 1])
    assert folder == ROOT / "config" / "finetuning" and line.config_name == "base_1h"


def test_what_the_user_gives_is_kept(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("model:\n  _name: wav2vec_ctc_st\n")
    plugin = ROOT / "user_dir" / "speechprune"
    line = complete([f"common.user_dir={plugin}", f"--config-dir={tmp_path}", "-cn", "own", "-m"])
    assert [w for w in line.arguments if w.startswith("common.")] == [f"common.user_dir={plugin}"]
    assert line.arguments[-4:] == ["--config-dir", str(tmp_path), "--config-name", "own"]
    assert line.sweeps


def test_overrides_may_stand_on_both_sides_of_options() -> None:
    words = ["optimization.seed=1", "--config-name", "base_1h", "common.seed=2"]
    words[0] = "checkpoint.patience=1"
    given = overrides_of(words)
    assert given["checkpoint.patience"] == "1" and given["common.seed"] == "2"


def test_only_paths_that_exist_here_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("data", "more data", "train"):
        Path(name).mkdir()
    found = overrides_of(
        [
            "task.data='more data'",
            "model.w2v_path=gone.pt",
            "+checkpoint.finetune_from_model=data",
            "dataset.train_subset=train",
            "--config-name=base_1h",
        ]
    )
    assert found["task.data"] == f"'{tmp_path}/more data'"
    assert found["model.w2v_path"] == "gone.pt"
    assert found["+checkpoint.finetune_from_model"] == f"{tmp_path}/data"
    assert found["dataset.train_subset"] == "train"
    swept = overrides_of(["task.data=data,train,gone", "--config-name=base_1h", "-m"])
    assert swept["task.data"] == f"{tmp_path}/data,{tmp_path}/train,gone"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["model.prune_rat=0.5"], "unknown key 'model.prune_rat'; did you mean 'model.prune_rate'"),
        (["+model.prun_rate=0.5"], "did you mean 'model.prune_rate'"),
        (["model._name=wav2vec_ctc_ts"], "unknown model 'wav2vec_ctc_ts'; did you mean 'wav2v"),
        (["model._name=wav2vec_ctc,wav2vec_ctx", "-m"], "unknown model 'wav2vec_ctx'"),
        (["optimization.lrr=[1]"], "did you mean 'optimization.lr'"),
        (["criterion._name=ctcc"], "unknown criterion 'ctcc'; did you mean 'ctc'"),
        (["optimizatoin.lr=[1]"], "unknown config group 'optimizatoin'; did you mean 'optimizati"),
        (["lr_scheduler.final_lr_scal=1"], "did you mean 'lr_scheduler.final_lr_scale'"),
        (["--cfg"], "expected one argument"),
    ],
)
def test_misspelt_words_get_the_nearest_name(words: list[str], told: str) -> None:
    with pytest.raises(UserError) as error:
        complete([*words, "--config-name", "base_1h"])
    assert told in str(error.value) and "\n" not in str(error.value)


def test_a_recipe_must_be_named_and_exist() -> None:
    with pytest.raises(UserError, match="--config-name: .*finetuning/base_1h.*xlsr/finetune"):
        complete(["model.prune_rate=0.5"])
    with pytest.raises(UserError, match="unknown recipe 'base_2h'; did you mean 'base_1"):
        complete(["--config-name", "base_2h"])


@pytest.mark.parametrize(
    "name",
    [f"{f.parent.name}/{f.stem}" for f in sorted((ROOT / "config").glob("*/*.yaml"))],
)
def test_every_key_of_our_recipes_is_known(name: str) -> None:
    """An override of each key of a recipe passes; otherwise a stricter check would refuse them."""
    recipe = OmegaConf.load(ROOT / "config" / f"{name}.yaml")
    keys = [f"{g}.{k}=1" for g, section in recipe.items() for k in section if k != "_name"]
    complete([*(key for key in keys if not key.startswith("hydra.")), "--config-name", name])


# Processes and number formats


def config(world: int, *, fp16: bool = True, init_method: str | None = None):
    """What `fit` reads of a config."""
    return OmegaConf.create(
        {
            "common": {"cpu": False, "fp16": fp16, "bf16": False, "tpu": False},
            "optimization": {"update_freq": [4, 6]},
            "distributed_training": {
                "distributed_world_size": world,
                "distributed_init_method": init_method,
                "distributed_no_spawn": False,
                "distributed_backend": "nccl",
                "pipeline_model_parallel": False,
                "ddp_backend": "pytorch_ddp",
            },
        }
    )


@pytest.mark.parametrize(
    ("world", "given", "machine", "processes", "frequencies"),
    [
        (2, (), CPU, 1, [8, 12]),
        (2, (WORLD,), CPU, 2, [4, 6]),
        (2, (), ONE_GPU, 1, [8, 12]),
        (2, ("optimization.update_freq",), ONE_GPU, 1, [4, 6]),
        (2, (), THREE_GPUS, 2, [4, 6]),
        (8, (), THREE_GPUS, 2, [16, 24]),  # 3 do not divide 8 x 4
        (6, (), THREE_GPUS, 3, [8, 12]),
        (3, (WORLD,), THREE_GPUS, 3, [4, 6]),
    ],
)
def test_a_recipe_for_more_devices_keeps_its_batch(
    world, given, machine, processes, frequencies
) -> None:
    cfg = config(world)
    assert fit(cfg, given, machine) == processes
    assert cfg.distributed_training.distributed_world_size == processes
    assert list(cfg.optimization.update_freq) == frequencies
    if not given:
        assert processes * frequencies[0] == world * 4
    assert cfg.common.cpu is not machine.gpus


@pytest.mark.parametrize(("world", "machine"), [(2, ONE_GPU), (3, CPU)])
def test_more_processes_than_places_are_refused_if_they_were_asked_for(world, machine) -> None:
    with pytest.raises(UserError) as error:
        fit(config(world, fp16=False, init_method="tcp://localhost:15460"), (WORLD,), machine)
    assert f"{WORLD}={world}, but this machine has {machine.described}" in str(error.value)
    expected = {ONE_GPU: "=1 optimization.update_freq=[8,12]", CPU: "=2 optimization.update_freq="}
    assert f"use {WORLD}{expected[machine]}" in str(error.value)


def test_one_process_gets_no_address_or_fairseq_would_start_none() -> None:
    cfg = config(1, init_method="tcp://localhost:15460")
    assert fit(cfg, (), CPU) == 1
    assert cfg.distributed_training.distributed_init_method is None


def test_other_launchers_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    far = config(16, init_method="tcp://node-0:15460")
    assert fit(far, (WORLD,), THREE_GPUS) is None
    assert far.distributed_training.distributed_world_size == 16
    joined = config(2)
    joined.distributed_training.distributed_no_spawn = True
    assert fit(joined, (WORLD,), CPU) is None
    for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK"):
        monkeypatch.setenv(name, "1")
    assert fit(config(2), (), ONE_GPU) is None


def test_half_precision_on_a_cpu_is_dropped_or_refused() -> None:
    cfg = config(1)
    fit(cfg, (), CPU)
    assert not cfg.common.fp16
    with pytest.raises(UserError, match="common.fp16=true needs a GPU; .*common.bf16=true"):
        fit(config(1), ("common.fp16",), CPU)
    cfg = config(1)
    fit(cfg, (), ONE_GPU)
    assert cfg.common.fp16


def test_a_taken_port_is_refused_and_a_free_one_found() -> None:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is not free"):
            address_of(f"tcp://localhost:{port}")
        assert address_of(None) != f"tcp://localhost:{port}"
    assert address_of(f"tcp://localhost:{port}") == f"tcp://localhost:{port}"


# Whole runs


def test_two_processes_train_together_on_a_cpu(lab: Lab) -> None:
    """With relative paths, as typed in the folder of the data."""
    words = [
        word.replace(f"{lab.folder}/", "")
        for word in arguments(lab, "two", f"{WORLD}=2", "optimization.update_freq=[2]")
    ]
    assert "task.data=data" in words
    run = run_script(lab.folder, words)
    assert run.exit_code == 0, run.output[-3000:]
    run = Run(lab.folder / "two", 0, run.output)
    state = run.checkpoint("last")
    assert state["optimizer_history"][-1]["num_updates"] == 2
    assert state["cfg"]["distributed_training"]["distributed_world_size"] == 2
    assert "initialized host" in run.output and "training on 2 devices" in run.output
    (valid,) = run.records("valid")
    assert float(valid["valid_nsentences"]) == 4  # of both ranks together
    best = state["extra_state"]["best"]
    assert f"best wer on valid: {best:g}" in run.output


def _report_values(lab: Lab) -> None:
    """Have what the command's library returns written to a file: the command prints no list."""
    from speechprune import training

    train = training.train

    def train_and_report(words):
        values = train(words)
        (lab.folder / "values").write_text(json.dumps(values))

    training.train = train_and_report


def test_a_sweep_returns_each_runs_own_best_value(lab: Lab) -> None:
    """The second run must not go on with the best value of the first, which is lower."""
    sweep = lab.folder / "sweep"
    more = (
        "optimization.lr=[0.01],[0]",
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


def test_a_recipe_for_two_gpus_trains_in_one_process(lab: Lab) -> None:
    run = run_forked(lab.folder / "one", arguments(lab, "one")).succeeded()
    assert "full precision instead of the recipe's fp16" in run.output
    assert f"{WORLD}=1 optimization.update_freq=[8]; the batch stays the same" in run.output
    assert run.checkpoint("last")["optimizer_history"][-1]["num_updates"] == 2


def test_a_mistake_found_in_two_processes_is_told_once(lab: Lab) -> None:
    words = arguments(lab, "mistake", f"{WORLD}=2", "model.prune_rate=1.5")
    assert "model.prune_rate" in error_line(run_script(lab.folder, words))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("optimization.max_update=many", "'many'"),
        ("dataset.max_tokens=999", "samples, more than dataset.max_tokens=999"),
        ("dataset.train_subset=dev", "dev.tsv is missing; splits in its folder: train, valid"),
        ("checkpoint.finetune_from_model=gone.pt", "gone.pt does not exist"),
        ("task.data=???", "the recipe leaves these to you: task.data=..."),
    ],
)
def test_bad_input_ends_in_one_line(lab: Lab, override: str, told: str) -> None:
    folder = lab.folder / "bad"
    assert told in error_line(run_forked(folder, arguments(lab, "bad", override)))
    assert not (folder / "checkpoints").exists()


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


def processes_of(session: int) -> list[int]:
    """The processes that a started command consists of."""
    listed = subprocess.run(
        ["ps", "-s", str(session), "-o", "pid=,stat="], capture_output=True, text=True
    ).stdout
    rows = [line.split() for line in listed.splitlines()]
    return [int(pid) for pid, state in rows if not state.startswith("Z")]


def start_two_ranks(lab: Lab, name: str) -> tuple[subprocess.Popen, list[str]]:
    """A long run of two processes, read until it trains, and what it has printed."""
    more = (f"{WORLD}=2", "optimization.max_update=100000", "dataset.disable_validation=true")
    process = start(lab.folder, arguments(lab, name, *more))
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "train_inner" in line:
            return process, lines
    raise AssertionError("".join(lines)[-3000:])


def end(process: subprocess.Popen, lines: list[str]) -> str:
    """All output of a process that has to end soon, and to leave none behind."""
    rest, _ = process.communicate(timeout=60)
    deadline = time.monotonic() + 20
    while processes_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(process.pid) == []
    return "".join(lines) + rest


def test_the_death_of_one_process_ends_the_others(lab: Lab) -> None:
    process, lines = start_two_ranks(lab, "killed")
    ranks = [
        pid
        for pid in processes_of(process.pid)
        if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()
    ]
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    output = end(process, lines)
    line = error_line(Run(lab.folder, process.returncode, output))
    assert "the process of rank 1 was ended by SIGKILL" in line


def test_an_interrupt_ends_all_processes(lab: Lab) -> None:
    process, lines = start_two_ranks(lab, "interrupted")
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    output = end(process, lines)
    assert process.returncode == 130
    assert output.splitlines()[-1] == "speechprune: error: interrupted"
    assert "Traceback" not in output


def test_processes_end_with_their_parent(lab: Lab) -> None:
    process, lines = start_two_ranks(lab, "orphaned")
    os.kill(process.pid, signal.SIGKILL)
    end(process, lines)
