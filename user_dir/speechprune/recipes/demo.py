"""The demo: one small model and corpus, adapted in three ways, measured side by side."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from speechprune.checkpoint import read
from speechprune.checkpoint.settings import seed_of, updates_of
from speechprune.decoding.inference import evaluate, read_references
from speechprune.files import write_atomically
from speechprune.manifests.synthetic import SyntheticSpeech, make_synthetic
from speechprune.models.loading import load_recogniser
from speechprune.recipes.adapting import Method, all_weights, connections, head_alone
from speechprune.training.overrides import key_of, quoted, refuse_own
from speechprune.training.rounds import finish_all
from speechprune.training.run import TrainingRun

_CONFIG = "demo/nano"


#: Each at the learning rate, of those tried, with the lowest CER on the demo's validation split.
METHODS = (
    head_alone("optimization.lr=[0.02]"),
    all_weights("optimization.lr=[0.002]"),
    connections(0.7, "optimization.lr=[0.02]", norms=True),
)


#: What methods set and no title tells.
_MAY_CHANGE = {"model.prune_rate", "optimization.lr"}
#: What to use in place of an override.
_OPTIONS = {
    "checkpoint.save_dir": "use --out",
    "hydra.run.dir": "use --out",
    "model.w2v_path": "use --model",
    "optimization.max_update": "use --updates",
    "task.data": "use --data",
}


#: Half an hour of short English sentences from 40 words.
CORPUS = SyntheticSpeech(
    sizes={"train": 800, "valid": 40, "test": 100}, vocabulary=40, sentence=(2, 4)
)


def synthetic_corpus(folder: Path) -> Path:
    """The folder of the demo's own corpus, which is made unless it is there."""
    if not folder.exists():
        make_synthetic(folder, CORPUS, workers=os.cpu_count() or 1)
    return folder


@dataclass(frozen=True)
class Result:
    """What one method gave on the test split.

    Attributes:
        wer, cer: percent.
        kept: share of the maskable weights that are kept.
        bytes: to store for this task, beside the pretrained model that all tasks share.
        updates, seed: of the training, which overrides may end early; the checkpoint is the best in
            validation.
    """

    name: str
    title: str
    wer: float
    cer: float
    kept: float
    bytes: int
    updates: int
    seed: int


def adapt_and_measure(
    data: Path | None, model: Path, out: Path, updates: int, overrides: Sequence[str], jobs: int
) -> list[Result]:
    """Adapt ``model`` to ``data`` by every method and evaluate each on the split ``test``.

    Runs that have finished in ``out`` are not repeated.

    Args:
        data: manifest folder with the splits train, valid and test; None for the demo's own, which
            is then made in ``out``.
        model: pretrained checkpoint.
        out: folder of the runs; the table is written to ``out/results.json``.
        updates: of each run.
        overrides: more overrides, for every run; not of what tells the methods apart.
        jobs: runs at a time, of one thread each.

    Raises:
        UserError: an override is of what the demo sets itself; or a run failed, and its log is
            named.
    """
    _refuse_own_keys(overrides)
    out.mkdir(parents=True, exist_ok=True)
    data = data or synthetic_corpus(out / "data")
    shared = [
        f"task.data={quoted(str(data.resolve()))}",
        f"model.w2v_path={quoted(str(model.resolve()))}",
        *overrides,
    ]
    runs = [
        TrainingRun(m.title, out / m.name, _CONFIG, (*m.overrides, *shared), updates)
        for m in METHODS
    ]
    finish_all([[run] for run in runs], jobs=jobs)
    pretrained = read(model)["model"]
    results = [_measure(method, data, run, pretrained) for method, run in zip(METHODS, runs)]
    table = json.dumps([asdict(result) for result in results], indent=2)
    write_atomically(out / "results.json", table.encode())
    return results


def _refuse_own_keys(overrides: Sequence[str]) -> None:
    """Overrides come after what tells the methods apart, and are for all of them."""
    own = {key_of(override) for method in METHODS for override in method.overrides}
    own = (own | _OPTIONS.keys() | {"checkpoint.restore_file"}) - _MAY_CHANGE
    refuse_own(overrides, own, "the demo", _OPTIONS)


def _measure(
    method: Method, data: Path, run: TrainingRun, pretrained: Mapping[str, Tensor]
) -> Result:
    checkpoint = run.folder / "checkpoints" / "checkpoint_best.pt"
    loaded = load_recogniser(checkpoint, data)
    report = evaluate(loaded, read_references(loaded, data, "test"))
    state = read(checkpoint)
    return Result(
        name=method.name,
        title=method.title,
        wer=report.words.rate * 100,
        cer=report.characters.rate * 100,
        kept=report.density,
        bytes=method.bytes_in(state["model"], pretrained),
        updates=updates_of(read(run.checkpoint, mmap=True)) or 0,
        seed=seed_of(state),
    )
