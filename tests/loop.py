"""Real runs of `fairseq-hydra-train` on nano models, each in a process of its own.

Most runs are forked from one process that has fairseq's training loop imported, because the import
takes longer than the training; what runs in the fork is the console script's own entry point.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Callable

import torch
from forking import start
from nano import write_corpus, write_data2vec, write_hubert, write_wav2vec2
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

import speechprune.plugin  # noqa: F401  (registers our models)

ROOT = Path(__file__).resolve().parent.parent
USER_DIR = ROOT / "user_dir" / "speechprune"
SCRIPT = Path(sys.executable).with_name("fairseq-hydra-train")

#: What a CPU needs, whatever the config.
ON_CPU = (
    "common.cpu=true",
    "common.fp16=false",
    "distributed_training.distributed_world_size=1",
    "dataset.num_workers=0",
)
#: What fits configs to models with 32 channels and utterances of a second.
NANO = ("model.mask_length=2", "model.mask_channel_length=4", "common.log_interval=1")

Prepare = Callable[[], None]


@dataclass(frozen=True)
class Run:
    """A run that has ended: its folder, exit code (minus the signal that killed it) and output."""

    folder: Path
    exit_code: int
    output: str

    def path(self, name: str = "last") -> Path:
        """The file of the checkpoint called ``name``."""
        return self.folder / "checkpoints" / f"checkpoint_{name}.pt"

    def checkpoint(self, name: str = "last") -> dict[str, Any]:
        """The whole checkpoint."""
        return torch.load(self.path(name), weights_only=True)

    def model(self, name: str = "last") -> dict[str, Tensor]:
        """The checkpoint's model."""
        return self.checkpoint(name)["model"]

    def records(self, tag: str) -> list[dict[str, str]]:
        """What was logged as JSON under ``tag`` (train_inner, train or valid), in order."""
        lines = re.findall(rf"\[{tag}\]\[INFO\] - (\{{.*\}})", self.output)
        return [json.loads(line) for line in lines]

    def succeeded(self) -> Run:
        """This run; fails with the run's output unless it exited with 0."""
        assert self.exit_code == 0, self.output[-6000:]
        return self


class Lab:
    """Nano models, a corpus, and runs on them, below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def data(self) -> Path:
        """Subsets ``train`` (12 utterances) and ``valid`` (4)."""
        return write_corpus(self.folder / "data", train=12, valid=4)

    @cached_property
    def wav2vec2(self) -> Path:
        """Post-norm, as wav2vec 2.0 base."""
        return write_wav2vec2(self.folder / "wav2vec2.pt")

    @cached_property
    def xlsr(self) -> Path:
        """Pre-norm with normalised input, as XLS-R."""
        return write_wav2vec2(
            self.folder / "xlsr.pt",
            layer_norm_first=True,
            extractor_mode="layer_norm",
            normalize=True,
        )

    @cached_property
    def data2vec(self) -> Path:
        """data2vec audio, with normalised input."""
        return write_data2vec(self.folder / "data2vec.pt")

    @cached_property
    def hubert(self) -> Path:
        """Post-norm, as HuBERT base, with nothing but its own file to go by."""
        return write_hubert(self.folder / "hubert.pt", with_task_state=False)

    @cached_property
    def hubert_large(self) -> Path:
        """Pre-norm with normalised input, as HuBERT large."""
        return write_hubert(
            self.folder / "hubert_large.pt",
            layer_norm_first=True,
            extractor_mode="layer_norm",
            normalize=True,
        )

    def arguments(self, name: str, overrides: Iterable[str], config: str) -> list[str]:
        """The command line of run ``name``: masks on the feed-forward weights and a trained head,
        unless ``overrides`` say otherwise."""
        folder, config_name = config.split("/")
        return [
            f"hydra.run.dir={self.folder / name}",
            f"common.user_dir={USER_DIR}",
            f"task.data={self.data}",
            "dataset.train_subset=train",
            "dataset.valid_subset=valid",
            f"model.w2v_path={self.wav2vec2}",
            "model.fix_attn=true",
            "model.trainable_proj=true",
            "dataset.max_tokens=40000",
            "optimization.update_freq=[1]",
            "optimization.lr=[0.01]",
            *ON_CPU,
            *NANO,
            *overrides,
            f"--config-dir={ROOT / 'config' / folder}",
            f"--config-name={config_name}",
        ]

    def train(
        self,
        name: str,
        *overrides: str,
        updates: int = 2,
        config: str = "finetuning/base_1h",
        prepare: Prepare | None = None,
    ) -> Run:
        """Run `fairseq-hydra-train` in the folder ``name``, or go on with the run that is there.

        Args:
            overrides: hydra's, the last of equal keys counts.
            updates: where training ends.
            prepare: called in the new process before training; picklable.
        """
        overrides = (f"optimization.max_update={updates}", *overrides)
        arguments = self.arguments(name, overrides, config)
        return run_forked(self.folder / name, arguments, prepare)

    @cached_property
    def cfg(self) -> DictConfig:
        """What hydra composes from `arguments`, with its interpolations."""
        return self.compose()

    def compose(self, *overrides: str) -> DictConfig:
        """What hydra composes from `arguments` with ``overrides``."""
        return compose(self.arguments("unused", overrides, "finetuning/base_1h"))

    def build(self, *overrides: str) -> nn.Module:
        """The model that `train` would train, built in this process."""
        return build(OmegaConf.merge(self.cfg, OmegaConf.from_dotlist(list(overrides))))


def compose(arguments: Iterable[str]) -> DictConfig:
    """The configuration of a command line."""
    from fairseq.dataclass.initialize import add_defaults

    cfg = compose_untyped(arguments)
    add_defaults(cfg)
    return cfg


def compose_untyped(arguments: Iterable[str]) -> DictConfig:
    """What hydra makes of a command line, before fairseq looks at the types of values."""
    from fairseq.dataclass.initialize import hydra_init
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    options = dict(a[2:].split("=", 1) for a in arguments if a.startswith("--"))
    overrides = [a for a in arguments if not a.startswith("--")]
    hydra_init(options["config-name"])
    with initialize_config_dir(options["config-dir"], version_base="1.1"):
        return hydra_compose(config_name=options["config-name"], overrides=overrides)


def setup(cfg: DictConfig) -> tuple[DictConfig, Any]:
    """The configuration as training resolves it, and its task."""
    from fairseq import tasks, utils

    cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))
    utils.set_torch_seed(cfg.common.seed)
    return cfg, tasks.setup_task(cfg.task)


def build(cfg: DictConfig) -> nn.Module:
    """The model of a configuration."""
    cfg, task = setup(cfg)
    return task.build_model(cfg.model)


def run_script(folder: Path, arguments: list[str], program: Sequence[str] = (str(SCRIPT),)) -> Run:
    """Run fairseq's console script itself, or another program, in ``folder``, as a user does."""
    folder.mkdir(parents=True, exist_ok=True)
    ran = subprocess.run(
        [*program, *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Run(folder, ran.returncode, ran.stdout)


def run_forked(folder: Path, arguments: list[str], prepare: Prepare | None = None) -> Run:
    """Run the console script's entry point in a fork of a process that imported it."""
    (run,) = run_together(folder, [arguments], [prepare])
    return run


def run_together(
    folder: Path,
    commands: list[list[str]],
    prepares: list[Prepare | None],
    hash_seeds: list[int] | None = None,
) -> list[Run]:
    """Run several command lines at a time in one folder, as the ranks of a distributed run.

    Args:
        prepares: what to call first in each process.
        hash_seeds: PYTHONHASHSEED of each process; they are not forked then but started anew.
    """
    folder.mkdir(parents=True, exist_ok=True)
    logs = [folder / f"log-{rank}" for rank in range(len(commands))]
    processes = []
    for rank, (log, arguments, prepare) in enumerate(zip(logs, commands, prepares)):
        log.unlink(missing_ok=True)
        with _hash_seed(hash_seeds[rank] if hash_seeds else None):
            forked = hash_seeds is None
            processes.append(start(log, _train, folder, arguments, prepare, forked=forked))
    for process in processes:
        process.join()
    return [Run(folder, p.exitcode, log.read_text()) for p, log in zip(processes, logs)]


@contextmanager
def _hash_seed(seed: int | None) -> Iterator[None]:
    before = os.environ.get("PYTHONHASHSEED")
    if seed is not None:
        os.environ["PYTHONHASHSEED"] = str(seed)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("PYTHONHASHSEED", None)
        else:
            os.environ["PYTHONHASHSEED"] = before


def _train(folder: Path, arguments: list[str], prepare: Prepare | None) -> None:
    from fairseq_cli.hydra_train import cli_main

    os.chdir(folder)
    sys.argv = [str(SCRIPT), *arguments]
    if prepare is not None:
        prepare()
    cli_main()
