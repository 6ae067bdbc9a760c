"""The demo: one small model and corpus, adapted in three ways, measured side by side."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from speechprune.checkpoint import load_finetuned, read
from speechprune.errors import UserError
from speechprune.files import write_atomically
from speechprune.inference import evaluate
from speechprune.manifests.manifest import read_split
from speechprune.training.command_line import quoted

_PROGRESS = re.compile(r'"num_updates": "(\d+)"')


@dataclass(frozen=True)
class Method:
    """One way to adapt the model: its title in the table and its overrides of the config."""

    name: str
    title: str
    overrides: tuple[str, ...]


#: Each at the learning rate, of those tried, with the lowest CER on the demo's validation split.
METHODS = (
    Method(
        "head",
        "head alone",
        (
            "model._name=wav2vec_ctc",
            "model.freeze_finetune_updates=1000000",
            "optimization.lr=[0.02]",
        ),
    ),
    Method(
        "weights",
        "weights finetuned",
        ("model._name=wav2vec_ctc", "optimization.lr=[0.002]"),
    ),
    Method(
        "masks",
        "connections finetuned",
        (
            "model._name=wav2vec_ctc_st",
            "model.prune_rate=0.7",
            "model.trainable_proj=true",
            "model.init_score=weight_rank",
            "optimization.lr=[0.02]",
        ),
    ),
)


@dataclass(frozen=True)
class Result:
    """What one method gave on the test split.

    Attributes:
        wer, cer: percent.
        kept: share of the maskable weights that are kept.
        bytes: to store for this task, beside the pretrained model that all tasks share.
    """

    name: str
    title: str
    wer: float
    cer: float
    kept: float
    bytes: int


def adapt_and_measure(
    data: Path, model: Path, out: Path, updates: int, overrides: Sequence[str], jobs: int
) -> list[Result]:
    """Adapt ``model`` to ``data`` by every method and evaluate each on the split ``test``.

    Runs that have finished in ``out`` are not repeated.

    Args:
        data: manifest folder with the splits train, valid and test.
        model: pretrained checkpoint.
        out: folder of the runs; the table is written to ``out/results.json``.
        updates: of each run.
        overrides: more overrides, for every run.
        jobs: runs at a time, of one thread each.

    Raises:
        UserError: a run failed; its log is named.
    """
    out.mkdir(parents=True, exist_ok=True)
    shared = [
        f"task.data={quoted(str(data.resolve()))}",
        f"model.w2v_path={quoted(str(model.resolve()))}",
        f"optimization.max_update={updates}",
        *overrides,
    ]
    with ThreadPoolExecutor(jobs) as pool:
        runs = [pool.submit(_adapt, method, out / method.name, shared) for method in METHODS]
        _show_progress([out / method.name for method in METHODS], runs, updates)
        for run in runs:
            run.result()
    results = [_measure(method, data, out / method.name) for method in METHODS]
    table = json.dumps([asdict(result) for result in results], indent=2)
    write_atomically(out / "results.json", table.encode())
    return results


def _adapt(method: Method, out: Path, overrides: Sequence[str]) -> None:
    """Train by one method in a process of its own; its log goes to ``out/train.log``."""
    done, asked = out / "done", out / "overrides.json"
    wanted = json.dumps([*method.overrides, *overrides], indent=2)
    if asked.exists() and asked.read_text(encoding="utf-8") != wanted:
        raise UserError(f"{out} is a run with other settings; name another folder, or remove it")
    if done.exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    asked.write_text(wanted, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "speechprune.tools.main",
        "train",
        "--config-name",
        "demo/nano",
    ]
    command += [f"hydra.run.dir={quoted(str(out.resolve()))}", *method.overrides, *overrides]
    with open(out / "train.log", "w", encoding="utf-8") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        code = subprocess.run(command, stdout=log, stderr=log, env=environment).returncode
    if code:
        raise UserError(f"{method.title}: training failed; see {out / 'train.log'}")
    done.touch()


def _show_progress(folders: Sequence[Path], runs: Sequence[Future[None]], updates: int) -> None:
    """One bar over the updates of all runs, read off their logs; silent in a log file."""
    with tqdm(total=updates * len(runs), unit="update", desc="finetuning", disable=None) as bar:
        while not all(run.done() for run in runs):
            time.sleep(0.5)
            bar.update(sum(_updates_done(folder) for folder in folders) - bar.n)


def _updates_done(folder: Path) -> int:
    log = folder / "train.log"
    found = _PROGRESS.findall(log.read_text(encoding="utf-8")) if log.exists() else []
    return int(found[-1]) if found else 0


def _measure(method: Method, data: Path, out: Path) -> Result:
    checkpoint = out / "checkpoints" / "checkpoint_best.pt"
    report = evaluate(load_finetuned(checkpoint, data), read_split(data, "test"))
    return Result(
        name=method.name,
        title=method.title,
        wer=report.words.rate * 100,
        cer=report.characters.rate * 100,
        kept=report.density,
        bytes=_task_bytes(method, read(checkpoint)["model"]),
    )


def _task_bytes(method: Method, state: dict) -> int:
    """Bytes this task adds: all weights, or a head, or a head and one bit per masked weight."""
    if method.name == "weights":
        own = list(state)
    else:
        own = [k for k in state if k.startswith("w2v_encoder.proj.") or k.endswith("_mask")]
        own += [k for k in state if method.name == "masks" and k.endswith("mask_emb")]
    return sum(state[key].numel() * state[key].element_size() for key in own)
