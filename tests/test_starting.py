"""fairseq's own commands start what they promise, or say in one line that they would not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from loop import Lab
from omegaconf import DictConfig, OmegaConf

from speechprune.starting import why_nothing_starts

LAUNCHERS = {
    "torchrun": {"MASTER_ADDR": "localhost", "MASTER_PORT": "1", "WORLD_SIZE": "2", "RANK": "0"},
    "Slurm's environment without Slurm": {"SLURM_NTASKS": "2", "SLURM_NNODES": "1"},
}


def config(world: int, address: str | None, no_spawn: bool = False) -> DictConfig:
    """What is read of a config."""
    return OmegaConf.create(
        {
            "common": {"tpu": False},
            "distributed_training": {
                "distributed_world_size": world,
                "distributed_init_method": address,
                "distributed_no_spawn": no_spawn,
                "distributed_port": -1,
                "distributed_num_procs": 1,
                "distributed_rank": 0,
                "pipeline_model_parallel": False,
                "device_id": 0,
                "tpu": False,
            },
        }
    )


@pytest.mark.parametrize(
    ("gpus", "world", "address", "no_spawn", "told"),
    [
        (0, 1, None, False, None),
        (0, 1, "tcp://localhost:1", False, "and here is none"),
        (0, 2, "tcp://localhost:1", False, "and here is none"),
        (0, 2, "tcp://node-0:1", False, "and here is none"),
        (0, 2, None, False, "world size is 2 but have 0 available devices"),
        (0, 2, "tcp://localhost:1", True, None),
        (1, 2, "tcp://127.0.0.1:1", False, "world_size=2, but .* for each GPU, here 1"),
        (1, 2, "tcp://node-0:1", False, None),
        (2, 2, "tcp://localhost:1", False, None),
        (2, 2, None, False, None),
        (4, 2, "tcp://localhost:1", False, None),
    ],
)
def test_what_would_train_nothing(
    monkeypatch: pytest.MonkeyPatch,
    gpus: int,
    world: int,
    address: str | None,
    no_spawn: bool,
    told: str | None,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    reason = why_nothing_starts(config(world, address, no_spawn))
    assert (reason is None) == (told is None)
    assert told is None or re.search(told, str(reason)), reason


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launchers_that_fairseq_cannot_join(monkeypatch: pytest.MonkeyPatch, launcher: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for name, value in LAUNCHERS[launcher].items():
        monkeypatch.setenv(name, value)
    reason = why_nothing_starts(config(2, None))
    assert reason is not None and reason.startswith("fairseq cannot start the processes")


def test_a_published_command_line_without_a_gpu_names_the_command_that_trains(
    tmp_path: Path,
) -> None:
    """It gives an address for the processes, as S3-Router's do."""
    if torch.cuda.device_count():
        pytest.skip("this machine has a GPU")
    lab = Lab(tmp_path)
    address = "distributed_training.distributed_init_method=tcp://localhost:15460"
    run = lab.train("published", address)
    assert run.exit_code == 1
    (line,) = [line for line in run.output.splitlines() if "error" in line.lower()]
    assert "here is none: nothing would be trained; use `speechprune train` with the" in line
    assert "Traceback" not in run.output
