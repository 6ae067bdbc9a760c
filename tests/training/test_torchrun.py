"""`speechprune train` joins the processes of torchrun, on a CPU too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from loop import Lab, Run, run_script
from test_train import SPEECHPRUNE, WORLD, arguments, error_line

from speechprune.training.processes import address_of

TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
#: The learning rates of a run do not depend on where this part of it ends.
SCHEDULE = ("lr_scheduler.phase_ratio=null", "lr_scheduler.decay_steps=10")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("torchrun"))


def free_port() -> str:
    """One that nobody listens at."""
    return address_of(None).rpartition(":")[2]


def words(lab: Lab, name: str, updates: int, *more: str) -> list[str]:
    return arguments(lab, name, f"optimization.max_update={updates}", *SCHEDULE, *more)


def test_torchrun_goes_on_with_a_run_of_our_own_processes(lab: Lab) -> None:
    """To the same weights as two torchruns, as on two machines, that trained it from the start."""
    own = words(lab, "resumed", 2, f"{WORLD}=2")
    run_script(lab.folder, own, SPEECHPRUNE).succeeded()
    rest = [*TORCHRUN, "--nproc-per-node=2", f"--master-port={free_port()}", *SPEECHPRUNE[1:]]
    resumed = run_script(lab.folder, words(lab, "resumed", 3), rest).succeeded()
    assert "as rank 0" in resumed.output and "as rank 1" in resumed.output

    meeting = ("--nnodes=2", "--nproc-per-node=1", f"--master-port={free_port()}")
    machines = [
        subprocess.Popen(
            [*TORCHRUN, *meeting, "--master-addr=localhost", f"--node-rank={number}"]
            + [*SPEECHPRUNE[1:], *words(lab, "machines", 3)],
            cwd=lab.folder,
        )
        for number in range(2)
    ]
    assert [machine.wait() for machine in machines] == [0, 0]

    states = [Run(lab.folder / name, 0, "").model() for name in ("resumed", "machines")]
    assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())
    state = Run(lab.folder / "machines", 0, "").checkpoint("last")
    assert state["cfg"]["distributed_training"]["distributed_world_size"] == 2
    assert state["optimizer_history"][-1]["num_updates"] == 3


def test_processes_without_a_common_folder_are_refused(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    variables = {"MASTER_ADDR": "localhost", "MASTER_PORT": "1", "WORLD_SIZE": "2", "RANK": "0"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    alone = [word for word in words(lab, "x", 1) if not word.startswith("hydra.run.dir=")]
    line = error_line(run_script(tmp_path, alone, SPEECHPRUNE))
    assert "set hydra.run.dir, to a folder that all machines share" in line
