"""Configs fitted to machines: what was asked for is done or refused, the rest adapted."""

from __future__ import annotations

import pytest
from omegaconf import DictConfig, OmegaConf

from speechprune.errors import UserError
from speechprune.training import devices
from speechprune.training.devices import Machine, fit

CPU, ONE_GPU, THREE_GPUS = Machine(False, 2), Machine(True, 1), Machine(True, 3)
WORLD = "distributed_training.distributed_world_size"


def config(world: int, *, fp16: bool = True, init_method: str | None = None) -> DictConfig:
    """What `fit` reads of a config."""
    return OmegaConf.create(
        {
            "common": {"cpu": False, "fp16": fp16, "bf16": False, "tpu": False},
            "optimization": {"update_freq": [4, 6]},
            "distributed_training": {
                "distributed_world_size": world,
                "distributed_init_method": init_method,
                "distributed_no_spawn": False,
                "distributed_rank": 0,
                "distributed_port": -1,
                "device_id": 0,
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
def test_a_config_for_more_devices_keeps_its_batch(
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
    set_torchrun(monkeypatch, world=1, rank=0)
    assert fit(config(2), (), ONE_GPU) is None


def set_torchrun(monkeypatch: pytest.MonkeyPatch, world: int, rank: int, place: int = 0) -> None:
    """The environment of a process of torchrun."""
    told = {"MASTER_ADDR": "node-0", "MASTER_PORT": "1", "WORLD_SIZE": world, "RANK": rank}
    for name, value in {**told, "LOCAL_RANK": place}.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize(
    ("own", "world", "given", "frequencies"),
    [
        (2, 4, (), [2, 3]),
        (2, 2, (WORLD,), [4, 6]),
        (4, 2, (), [8, 12]),
        (2, 3, (), [4, 6]),  # 3 do not divide 2 x 4
        (2, 4, ("optimization.update_freq",), [4, 6]),
    ],
)
def test_processes_of_torchrun_join_each_other(
    monkeypatch: pytest.MonkeyPatch, own: int, world: int, given: tuple, frequencies: list
) -> None:
    set_torchrun(monkeypatch, world, rank=1, place=1)
    for machine in (CPU, THREE_GPUS):
        cfg = config(own, fp16=False, init_method="tcp://localhost:1")
        assert fit(cfg, given, machine) is None
        settings = cfg.distributed_training
        assert (settings.distributed_world_size, settings.distributed_rank) == (world, 1)
        assert (settings.distributed_init_method, settings.device_id) == ("env://", 1)
        assert settings.distributed_no_spawn
        assert list(cfg.optimization.update_freq) == frequencies


@pytest.mark.parametrize(
    ("own", "given", "place", "told"),
    [
        (3, (WORLD,), 0, "world_size=3, but torchrun starts 2 processes; leave it out"),
        (2, (devices.INIT_METHOD,), 0, "leave out distributed_training.distributed_init_method"),
        (2, (), 3, "more processes than this machine has GPUs; use --nproc-per-node=3"),
    ],
)
def test_settings_that_contradict_torchrun(
    monkeypatch: pytest.MonkeyPatch, own: int, given: tuple, place: int, told: str
) -> None:
    set_torchrun(monkeypatch, 2, rank=1, place=place)
    with pytest.raises(UserError, match=told):
        fit(config(own), given, THREE_GPUS)


@pytest.mark.parametrize(
    ("machine", "nodes", "port", "told"),
    [
        (CPU, "1", 1, "only with GPUs; start torchrun in one task"),
        (THREE_GPUS, "2", -1, "set distributed_training.distributed_port=29500"),
        (THREE_GPUS, "2", 29500, None),
        (THREE_GPUS, "1", -1, None),
    ],
)
def test_tasks_of_slurm_that_would_not_meet(
    monkeypatch: pytest.MonkeyPatch, machine: Machine, nodes: str, port: int, told: str | None
) -> None:
    monkeypatch.setattr(devices, "which", lambda name: name)
    slurm = {"SLURM_NTASKS": "2", "SLURM_NNODES": nodes, "SLURM_JOB_NODELIST": "node-[0-1]"}
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    cfg = config(2, fp16=False)
    cfg.distributed_training.distributed_port = port
    if told is None:
        assert fit(cfg, (), machine) is None
        return
    with pytest.raises(UserError, match=told):
        fit(cfg, (), machine)


@pytest.mark.parametrize(
    ("tasks", "nodes", "has_slurm", "joined"),
    [
        ("2", "node-[0-1]", True, True),
        ("1", "node-0", True, False),
        ("", "node-0", True, False),
        ("2", None, True, False),
        ("2", "node-[0-1]", False, False),
    ],
)
def test_a_job_of_slurm_is_one_that_fairseq_can_join(
    monkeypatch: pytest.MonkeyPatch, tasks: str, nodes: str | None, has_slurm: bool, joined: bool
) -> None:
    """A shell's `SLURM_NTASKS` alone is none: the processes are started here."""
    monkeypatch.setattr(devices, "which", lambda name: name if has_slurm else None)
    monkeypatch.setenv("SLURM_NTASKS", tasks)
    if nodes is not None:
        monkeypatch.setenv("SLURM_JOB_NODELIST", nodes)
    assert fit(config(2, fp16=False), (WORLD,), THREE_GPUS) == (None if joined else 2)


def test_half_precision_on_a_cpu_is_dropped_or_refused() -> None:
    cfg = config(1)
    fit(cfg, (), CPU)
    assert not cfg.common.fp16
    with pytest.raises(UserError, match="common.fp16=true needs a GPU; .*common.bf16=true"):
        fit(config(1), ("common.fp16",), CPU)
    cfg = config(1)
    fit(cfg, (), ONE_GPU)
    assert cfg.common.fp16
