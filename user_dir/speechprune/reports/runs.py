"""Training runs: what their files say, and their evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechprune.checksums import read_entries, write_entries
from speechprune.errors import UserError
from speechprune.files import digest
from speechprune.manifests.glue.tasks import SENTENCES
from speechprune.manifests.split_files import split_digest
from speechprune.reports.program import program_digest
from speechprune.reports.run_files import are_facts, are_values, read_summary
from speechprune.reports.unfinished import UnfinishedRun, refuse_missing, refuse_unfinished
from speechprune.state_names import is_finetuned
from speechprune.training.run import DONE, SETTINGS, splits_read

if TYPE_CHECKING:
    from speechprune.decoding.inference import Evaluation
    from speechprune.decoding.labelling import LabelEvaluation
    from speechprune.decoding.sentences import SentenceEvaluation
    from speechprune.models.loading import LoadedModel

#: What the names of files with kept evaluations begin with.
_EVALUATION = "evaluation-"


@dataclass(frozen=True)
class FinishedRun:
    """What there is to know of a training run before it is evaluated.

    Attributes:
        folder: with ``checkpoints`` in it.
        which: "last" or "best", the checkpoint that counts.
        is_dense_control: whether all weights were finetuned and none removed in training.
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
    is_dense_control: bool
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
    def is_of_text(self) -> bool:
        """Whether the task is one on sentences."""
        return self.task.get("_name") == SENTENCES

    @property
    def checkpoint(self) -> Path:
        """The file that is evaluated."""
        return checkpoint_path(self.folder, self.which)


@dataclass(frozen=True)
class RunEvaluation:
    """What evaluating a checkpoint gave.

    Attributes:
        wer, cer: errors per word and per character of the subset; both of units, if the model
            writes those; both the share of utterances with a wrong class, if it tells classes; both
            1 less the first metric of a task on sentences.
        rate_names: the rates, among these and `error`, that tell something, and what tables call
            them.
        density: share kept of the maskable weights.
        parameters: tensor entries that inference reads, masked ones included.
        removed: those among them that are masked, or that slimming will cut out.
    """

    wer: float
    cer: float
    rate_names: Mapping[str, str]
    density: float
    parameters: int
    removed: int

    @property
    def error(self) -> float:
        """What there is of a model that writes no text."""
        return self.wer

    @property
    def errors(self) -> dict[str, float]:
        """The rates that tell something, by what tables call them."""
        return {title: getattr(self, rate) for rate, title in self.rate_names.items()}


@dataclass(frozen=True)
class Result:
    """A run and its evaluation, with the digest of the manifest that it was evaluated on."""

    run: FinishedRun
    evaluation: RunEvaluation
    subset_digest: str

    @property
    def is_dense(self) -> bool:
        """Whether this is a control: all weights finetuned, none removed."""
        return self.run.is_dense_control and self.evaluation.density == 1.0

    @property
    def percent_removed(self) -> float:
        """Measured sparsity of the maskable weights, to 0.1 %."""
        return round(100 * (1 - self.evaluation.density), 1)


def checkpoint_path(folder: Path, which: str) -> Path:
    """Where fairseq puts the "last" or "best" checkpoint of a run."""
    return folder / "checkpoints" / f"checkpoint_{which}.pt"


def read_run(folder: Path, which: str = "last", data: Path | None = None) -> FinishedRun:
    """What ``summary.json`` and the checkpoint tell of a run.

    What the checkpoint says is kept in the run's folder, as ``facts.json``, and counts as long as
    the run's checkpoints and the sources of the program are the same ones: reading it needs no
    fairseq.

    Args:
        data: takes the place of the manifest folder for evaluation.

    Raises:
        UnfinishedRun: there is no finetuned checkpoint, or it was to be trained further.
        UserError: there is nothing, or a file in it is damaged.
    """
    refuse_missing(folder, checkpoint_path(folder, which))
    found = _facts(folder, which)
    task = found["task"]
    trained_on, subsets = Path(task["data"]), found["train_subset"]
    then = splits_read(folder)
    try:
        training_digest = " ".join(
            then.get(part) or split_digest(trained_on, part, task["labels"])
            for part in subsets.split(",")
        )
    except OSError:  # trained elsewhere: the name is all there is to tell data apart
        training_digest = f"{trained_on} {subsets}"
    return FinishedRun(
        folder=folder,
        which=which,
        is_dense_control=found["is_dense_control"],
        task={**task, "data": str(data or trained_on)},
        training_data=f"{subsets} of {trained_on}",
        training_digest=training_digest,
        **{**found["training"], **read_summary(folder / "summary.json")},
    )


def _facts(folder: Path, which: str) -> dict[str, Any]:
    """What the checkpoints of a run say, from them or from an earlier reading of the same ones."""
    path, last = folder / "facts.json", checkpoint_path(folder, "last")
    key = _key(checkpoint_path(folder, which))
    key["last"] = digest(last) if last.is_file() else ""
    key["ended"] = str([(folder / name).exists() for name in (SETTINGS, DONE)])
    kept = read_entries(path)
    known = kept.get(which)
    if isinstance(known, dict) and {name: known.get(name) for name in key} == key:
        found: dict[str, Any] = known.get("facts", {})
        if are_facts(found):
            return found
    facts = _facts_of_checkpoints(folder, which)
    try:
        write_entries(path, {**kept, which: {**key, "facts": facts}})
    except (TypeError, UserError):  # read from the checkpoint again, next time
        pass
    return facts


def _facts_of_checkpoints(folder: Path, which: str) -> dict[str, Any]:
    from speechprune.checkpoint.file import PROVENANCE, read
    from speechprune.checkpoint.slots import saved_slots

    path, last = checkpoint_path(folder, which), checkpoint_path(folder, "last")
    state = read(path, mmap=True)
    if not is_finetuned(state["model"]):
        raise UnfinishedRun(f"{path.relative_to(folder)} is not a finetuned CTC model")
    if saved_slots(state, path) is not None:
        raise UnfinishedRun(
            f"{path.relative_to(folder)} is a model for labels, which has no error rates; "
            "`speechprune evaluate` prints its accuracy"
        )
    if (state.get(PROVENANCE) or {}).get("folded_from"):
        raise UserError(f"{path} is folded; give the run that its masks come from")
    try:
        # The best checkpoint is from somewhere within the run.
        ended = read(last, mmap=True) if which != "last" and last.is_file() else state
        refuse_unfinished(folder, ended)
        facts = _derived(state, ended)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not tell how it was trained ({error!r})") from error
    if not are_facts(facts):
        raise UserError(f"{path} does not tell how it was trained, but {facts}"[:300])
    return facts


def _derived(state: Mapping[str, Any], ended: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint and the last one tell by themselves."""
    from speechprune.checkpoint.settings import updates_of
    from speechprune.models.declaration import declared
    from speechprune.models.registration import register_all

    register_all()
    cfg, model = state["cfg"], state["cfg"]["model"]
    kind = declared(model["_name"])
    updates = updates_of(ended)
    return {
        "task": {**cfg["task"], "labels": cfg["task"].get("labels") or "ltr"},
        "train_subset": str(cfg["dataset"]["train_subset"]),
        "is_dense_control": kind.is_dense_control,
        # Under the names of a summary, which counts more.
        "training": {
            "label": kind.label_of(model),
            "sparsity": kind.sparsity_of(model),
            "seed": cfg["common"]["seed"],
            "updates": updates,
            "final_updates": updates,
            "freeze_finetune_updates": model.get("freeze_finetune_updates") or 0,
        },
    }


def subset_digest(run: FinishedRun, subset: str) -> str:
    """The digest of what a run is evaluated on; raises UserError if it is missing."""
    return known_split(Path(run.task["data"]), subset, run.task["labels"])


def known_split(folder: Path, subset: str, labels: str) -> str:
    """As `split_digest`; raises UserError, with what to do, if it is missing."""
    try:
        return split_digest(folder, subset, labels)
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be read: {error.strerror}; give another --subset, or the "
            "folder that has it with --data"
        ) from error


def evaluate_run(run: FinishedRun, subset: str, manifest: str) -> tuple[RunEvaluation, str | None]:
    """The evaluation of a run, with what is to be warned of; see `evaluate_checkpoint`.

    Args:
        manifest: the digest of what the run is evaluated on.

    Raises:
        UserError: recordings are missing or damaged, or the checkpoint does not load.
    """
    return evaluate_checkpoint(run.folder, run.which, Path(run.task["data"]), subset, manifest)


def evaluate_checkpoint(
    folder: Path, which: str, data: Path, subset: str, manifest: str
) -> tuple[RunEvaluation, str | None]:
    """The evaluation of a run's "last" or "best" checkpoint, with what is to be warned of.

    It is kept in the run's folder, as ``evaluation-SUBSET.json``, and counts as long as checkpoint,
    manifest and the sources of the program are the same ones; that recordings have not changed is
    taken on trust.

    Args:
        folder: the run's.
        data: folder of manifests.
        manifest: the digest of what the checkpoint is evaluated on.

    Raises:
        UserError: recordings are missing or damaged, or the checkpoint does not load.
    """
    path = folder / f"{_EVALUATION}{subset.replace('/', '-')}.json"
    checkpoint = checkpoint_path(folder, which)
    key = _key(checkpoint)
    kept = read_entries(path)
    found = _usable(kept.get(which), key)
    if found is not None and found[1] == manifest:
        return found[0], None
    measured = measure(checkpoint, data, subset)
    try:
        write_entries(path, {**kept, which: {**key, "data": manifest, **asdict(measured)}})
    except UserError as error:  # the result is worth more than its copy
        return measured, f"{error}; it will be evaluated again"
    return measured, None


def kept_evaluations(folder: Path, which: str) -> dict[str, tuple[RunEvaluation, str] | None]:
    """What `evaluate_checkpoint` has kept of a run's "last" or "best" checkpoint, by subset.

    With each evaluation comes the digest of what it was made on; None stands for one of another
    checkpoint, or by another program, and for what cannot be read.
    """
    paths = sorted(folder.glob(f"{_EVALUATION}*.json"))
    kept = {path.stem[len(_EVALUATION) :]: read_entries(path).get(which) for path in paths}
    if all(each is None for each in kept.values()):
        return {}
    key = _key(checkpoint_path(folder, which))
    return {name: _usable(each, key) for name, each in kept.items() if each is not None}


def _key(checkpoint: Path) -> dict[str, str]:
    """What something that is kept counts for, beside all else that it depends on. A version would
    not tell the program as it is from what it was before a mend."""
    return {"checkpoint": digest(checkpoint), "program": program_digest()}


def _usable(
    kept: Mapping[str, Any] | None, key: Mapping[str, str]
) -> tuple[RunEvaluation, str] | None:
    """A kept evaluation with the digest of its data; None for one of something else, and for what
    is damaged."""
    if kept is None:
        return None
    values = {name: value for name, value in kept.items() if name not in (*key, "data")}
    is_current = all(kept.get(name) == value for name, value in key.items())
    data = kept.get("data")
    if not (is_current and isinstance(data, str) and are_values(values)):
        return None
    return RunEvaluation(**values), data


def measure(checkpoint: Path, folder: Path, subset: str) -> RunEvaluation:
    """The evaluation of any finetuned checkpoint, which is not kept; see `measure_model`."""
    from speechprune.models.loading import load_finetuned

    return measure_model(load_finetuned(checkpoint, folder), folder, subset)


def measure_model(loaded: LoadedModel, folder: Path, subset: str) -> RunEvaluation:
    """The evaluation of a finetuned model of any kind.

    Args:
        folder: of manifests, or of texts.

    Raises:
        UserError: recordings are missing or damaged, or the model is for others.
    """
    from speechprune.decoding.inference import evaluate, read_references, sample_rate
    from speechprune.decoding.labelling import evaluate_labels, read_labels
    from speechprune.decoding.sentences import evaluate_sentences
    from speechprune.manifests.check import check_split
    from speechprune.models.loading import LoadedLabeller, LoadedSentences, as_recogniser

    found: Evaluation | LabelEvaluation | SentenceEvaluation
    if isinstance(loaded, LoadedSentences):
        found = evaluate_sentences(loaded, folder, subset)
        rates = (found.error, found.error)
    else:
        check_split(folder, subset, labels=None, sample_rate=sample_rate(loaded))
        if isinstance(loaded, LoadedLabeller):
            found = evaluate_labels(loaded, read_labels(loaded, folder, subset))
            rates = (1 - found.all_slots.rate, 1 - found.all_slots.rate)
        else:
            recogniser = as_recogniser(loaded)
            found = evaluate(recogniser, read_references(recogniser, folder, subset))
            rates = (found.words.rate, found.characters.rate)
    return RunEvaluation(*rates, found.rate_names, found.density, found.parameters, loaded.removed)
