"""Finished training runs: what their files tell, and their evaluation, kept beside them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from speechprune import __version__
from speechprune.checkpoint import digest, is_finetuned, load_finetuned, read
from speechprune.checkpoint.finetuned import PROVENANCE
from speechprune.errors import UserError
from speechprune.files import write_atomically
from speechprune.inference import evaluate
from speechprune.manifests.audio import SAMPLE_RATE
from speechprune.manifests.check import check_split
from speechprune.manifests.manifest import read_split
from speechprune.unfinished_runs import UnfinishedRun, refuse_missing, refuse_unfinished

#: What is taken from a `summary.json`.
_SUMMARY: Mapping[str, Callable[[Any], Any]] = {
    "label": str,
    "sparsity": float,
    "updates": int,
    "final_updates": int,
    "seed": int,
    "freeze_finetune_updates": int,
}


@dataclass(frozen=True)
class Run:
    """What there is to know of a training run before it is evaluated.

    Attributes:
        folder: with ``checkpoints`` in it.
        which: "last" or "best", the checkpoint that counts.
        model: its name in fairseq's registry.
        label: of the method.
        sparsity: share that was to be removed; None if nothing says so.
        updates: of all rounds together.
        final_updates: of the training that the checkpoint is from.
        freeze_finetune_updates: for how many of these the encoder was frozen.
        task: fairseq's settings of data and labels.
        training_data: folder and subsets.
        training_digest: tells training data apart.
    """

    folder: Path
    which: str
    model: str
    label: str
    sparsity: float | None
    seed: int
    updates: int
    final_updates: int
    freeze_finetune_updates: int
    task: Mapping[str, Any]
    training_data: str
    training_digest: str

    @property
    def checkpoint(self) -> Path:
        """The file that is evaluated."""
        return checkpoint_path(self.folder, self.which)


@dataclass(frozen=True)
class Measurement:
    """What evaluating a checkpoint gave.

    Attributes:
        wer, cer: errors per word and per character of the subset.
        density: share kept of the maskable weights.
        parameters: tensor entries that inference reads, masked ones included.
        removed: masked ones among them.
    """

    wer: float
    cer: float
    density: float
    parameters: int
    removed: int


@dataclass(frozen=True)
class Result:
    """A run and its evaluation, with the digest of the manifest that it was evaluated on."""

    run: Run
    measured: Measurement
    subset_digest: str

    @property
    def is_dense(self) -> bool:
        """Whether this is a control: all weights finetuned, none removed."""
        return self.run.model == "wav2vec_ctc" and self.measured.density == 1.0

    @property
    def percent_removed(self) -> float:
        """Measured sparsity of the maskable weights, to 0.1 %."""
        return round(100 * (1 - self.measured.density), 1)


def checkpoint_path(folder: Path, which: str) -> Path:
    """Where fairseq puts the "last" or "best" checkpoint of a run."""
    return folder / "checkpoints" / f"checkpoint_{which}.pt"


def read_run(folder: Path, which: str = "last", data: Path | None = None) -> Run:
    """What ``summary.json`` and the checkpoint tell of a run.

    Args:
        data: takes the place of the manifest folder for evaluation.

    Raises:
        UnfinishedRun: there is no finetuned checkpoint, or it was to be trained further.
        UserError: there is nothing, or a file in it is damaged.
    """
    path = checkpoint_path(folder, which)
    refuse_missing(folder, path)
    state = read(path, mmap=True)
    if not is_finetuned(state):
        raise UnfinishedRun(f"{path.relative_to(folder)} is no finetuned CTC model")
    if (state.get(PROVENANCE) or {}).get("folded_from"):
        raise UserError(f"{path} is folded; give the run that its masks come from")
    try:
        return _read_run(folder, which, data, state)
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} does not tell how it was trained ({error!r})") from error


def _read_run(folder: Path, which: str, data: Path | None, state: Mapping[str, Any]) -> Run:
    cfg = state["cfg"]
    last = checkpoint_path(folder, "last")
    # The best checkpoint is from somewhere within the run.
    ended = read(last, mmap=True) if which != "last" and last.is_file() else state
    refuse_unfinished(folder, ended)
    facts = {**_derived(state, ended), **_summary(folder / "summary.json")}
    task = {**cfg["task"], "labels": cfg["task"].get("labels") or "ltr"}
    trained_on, subsets = Path(task["data"]), str(cfg["dataset"]["train_subset"])
    try:
        parts = [manifest_digest(trained_on, part, task["labels"]) for part in subsets.split(",")]
        training_digest = " ".join(parts)
    except OSError:  # trained elsewhere: the name is all there is to tell data apart
        training_digest = f"{trained_on} {subsets}"
    return Run(
        folder=folder,
        which=which,
        model=cfg["model"]["_name"],
        task={**task, "data": str(data or trained_on)},
        training_data=f"{subsets} of {trained_on}",
        training_digest=training_digest,
        **facts,
    )


def manifest_digest(folder: Path, subset: str, labels: str) -> str:
    """Tells subsets apart: list of recordings and labels; raises OSError if they are unreadable."""
    parts = [digest(folder / f"{subset}.{ending}") for ending in ("tsv", labels)]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _derived(state: Mapping[str, Any], ended: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint and the last one tell by themselves, under the names of a summary."""
    model = state["cfg"]["model"]
    updates = ended["optimizer_history"][-1]["num_updates"]
    return {
        "label": _label(model),
        "sparsity": model["sparsity"] if model["_name"] == "wav2vec_ctc_parp" else None,
        "seed": state["cfg"]["common"]["seed"],
        "updates": updates,
        "final_updates": updates,
        "freeze_finetune_updates": model.get("freeze_finetune_updates") or 0,
    }


def _label(model: Mapping[str, Any]) -> str:
    if model["_name"] != "wav2vec_ctc_parp":
        labels = {
            "wav2vec_ctc": "dense control",
            "wav2vec_ctc_masked": "fixed mask",
            "wav2vec_ctc_st": "S3-Router",
        }
        return labels.get(model["_name"], str(model["_name"]))
    if model["policy"] != "parp":
        return str(model["policy"])
    start = model["start_sparsity"]
    return "PARP" if start is None or start >= model["sparsity"] else "PARP-P"


def _summary(path: Path) -> dict[str, Any]:
    """What the runner of recipes wrote; nothing if there is no such file."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {name: kind(found[name]) for name, kind in _SUMMARY.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"{path} is no summary of a run ({reason}); restore or remove it"
        ) from error


def subset_digest(run: Run, subset: str) -> str:
    """The digest of what a run is evaluated on; raises UserError if it is missing."""
    folder, labels = Path(run.task["data"]), run.task["labels"]
    try:
        return manifest_digest(folder, subset, labels)
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be read: {error.strerror}; give another --subset, or the "
            "folder that has it with --data"
        ) from error


def measure(run: Run, subset: str, manifest: str) -> tuple[Measurement, str | None]:
    """The evaluation of a run, with what is to be warned of.

    It is kept in the run's folder, as ``evaluation-SUBSET.json``, and counts as long as checkpoint,
    manifest and program are the same ones; that recordings have not changed is taken on trust.

    Args:
        manifest: the digest of what the run is evaluated on.

    Raises:
        UserError: recordings are missing or damaged, or the checkpoint does not load.
    """
    path = run.folder / f"evaluation-{subset.replace('/', '-')}.json"
    key = {"checkpoint": digest(run.checkpoint), "data": manifest, "version": __version__}
    kept = _kept_evaluations(path)
    try:
        found = dict(kept[run.which])
        if {name: found.pop(name) for name in key} == key:
            return Measurement(**found), None
    except (KeyError, TypeError, ValueError):
        pass  # not evaluated yet, or a file of another version
    measured = _evaluate(run, subset)
    entries = {**kept, run.which: {**key, **asdict(measured)}}
    try:
        write_atomically(path, (json.dumps(entries, indent=2) + "\n").encode())
    except UserError as error:  # the result is worth more than its copy
        return measured, f"{error}; it will be evaluated again"
    return measured, None


def _kept_evaluations(path: Path) -> dict[str, Any]:
    """By "last" and "best"; nothing if the file is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _evaluate(run: Run, subset: str) -> Measurement:
    folder = Path(run.task["data"])
    rate = run.task.get("sample_rate") or SAMPLE_RATE
    check_split(folder, subset, labels=None, sample_rate=rate)
    loaded = load_finetuned(run.checkpoint, folder)
    found = evaluate(loaded, read_split(folder, subset, run.task["labels"]))
    controller = getattr(loaded.model, "mask_controller", None)
    tally = controller.mask_set().tally if controller else None
    return Measurement(
        wer=found.words.rate,
        cer=found.characters.rate,
        density=found.density,
        parameters=found.parameters,
        removed=tally.total - tally.kept if tally else 0,
    )
