"""The model card of an exported checkpoint: what it is, and what it was made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechprune import __version__
from speechprune.bank.bank import Bank
from speechprune.bank.task import ErrorRate
from speechprune.checkpoint.file import PROVENANCE, PathLike, digest, read
from speechprune.checkpoint.layers import lost_layers
from speechprune.checkpoint.settings import updates_of
from speechprune.errors import UserError
from speechprune.exporting.network import Network
from speechprune.models.loading import read_known
from speechprune.rewriting.bank_outputs import outputs_of, rate_of
from speechprune.rewriting.banking import measured
from speechprune.rewriting.plain_checkpoint import PlainCheckpoint
from speechprune.rewriting.task_of_checkpoint import validation_of
from speechprune.state_names import is_finetuned

#: What the Hub calls the tasks of classes, by the end of their names.
_TASKS = {
    "ForCTC": "automatic-speech-recognition",
    "ForSequenceClassification": "audio-classification",
    "Model": "feature-extraction",
}
_AUTO_CLASSES = {
    "ForCTC": "AutoModelForCTC",
    "ForSequenceClassification": "AutoModelForAudioClassification",
    "Model": "AutoModel",
}
_SAME_IN_BATCHES = "In a padded batch, an utterance has the outputs that it has alone."
_OTHER_IN_BATCHES = (
    "In a padded batch, an utterance has other outputs than alone, for its padding is heard too: "
    "transcribe utterances one by one."
)
_NO_HEADS = "The heads of its pretraining are left out."


@dataclass(frozen=True)
class Card:
    """What a model card tells.

    Attributes:
        path: what was exported, a checkpoint or a bank.
        name: of the folder.
        kind: the class of transformers that loads it.
        plain: the checkpoint with its masks baked in.
        measured: its error rate; None if it is not known.
        difference: between the outputs of both libraries.
    """

    path: Path
    name: str
    kind: str
    plain: PlainCheckpoint
    network: Network
    measured: ErrorRate | None
    difference: float

    def text(self, task: str | None) -> str:
        """The card as Markdown, with what the Hub reads at its head.

        Args:
            task: of a bank that was exported.
        """
        suffix = next(end for end in _TASKS if self.kind.endswith(end))
        loads = [_AUTO_CLASSES[suffix]]
        loads.append("AutoProcessor" if suffix == "ForCTC" else "AutoFeatureExtractor")
        rows = "".join(f"| {name} | {value} |\n" for name, value in self._facts(task))
        notes = [_SAME_IN_BATCHES if self.network.pads_alike else _OTHER_IN_BATCHES]
        notes += [] if self.plain.prefix else [_NO_HEADS]
        return (
            "---\n"
            "library_name: transformers\n"
            f"pipeline_tag: {_TASKS[suffix]}\n"
            "tags:\n- speechprune\n- fairseq\n"
            "---\n\n"
            f"# {self.name}\n\n"
            f"A `{self.kind}`, exported from fairseq by speechprune. {' '.join(notes)}\n\n"
            f"| | |\n|---|---|\n{rows}\n"
            "```python\n"
            f"from transformers import {', '.join(sorted(loads))}\n\n"
            f'model = {loads[0]}.from_pretrained("{self.name}")\n'
            f'processor = {loads[1]}.from_pretrained("{self.name}")\n'
            "```\n"
        )

    def _facts(self, task: str | None) -> list[tuple[str, str]]:
        state = read(self.plain.path, mmap=True)
        source = f"`{self.path.name}`" if task is None else f"`{self.path.name}`, task {task}"
        density = _density(self.plain, state.get(PROVENANCE) or {})
        lost = lost_layers(state)
        layers = str(self.network.layers)
        if lost is not None and lost.dropped:
            dropped = ", ".join(map(str, lost.dropped))
            layers += f" of {lost.layers}: without {dropped}, counted from 0"
        rate = "not known"
        if self.measured is not None:
            rate = f"{self.measured.percent:.2f} % {self.measured.name}"
            rate += f" on {self.measured.split}" if self.measured.split else ""
        return [
            ("Exported from", source),
            ("SHA-256 of it", f"`{digest(self.path)}`"),
            ("Exported by", f"speechprune {__version__}"),
            ("Family", self.network.family),
            ("Layers", layers),
            ("Density", f"{density:.4f} of the maskable weights kept"),
            ("Sparsity", f"{1 - density:.4f} of them removed, which are zeros here"),
            ("Error rate", rate),
            ("Largest difference of outputs", f"{self.difference:.1e}, on noise"),
        ]


def rate_of_checkpoint(
    path: PathLike, source: Path, *, task: str | None, measured_on: tuple[Path, str] | None
) -> ErrorRate | None:
    """The error rate of a finetuned checkpoint: measured, or as it is noted; None if it is not.

    Args:
        path: of the checkpoint, or of a bank.
        source: of the checkpoint, or that of the task.
        task: of the bank.
        measured_on: a folder of manifests and the name of a split, to measure it on.

    Raises:
        UserError: it is to be measured, and cannot be.
    """
    if not is_finetuned(read(source, mmap=True)["model"]):
        if measured_on is not None:
            raise UserError(
                f"{path} is a pretrained model, which has no error rate: leave out --data and "
                "--subset"
            )
        return None
    state = read_known(source)
    kind = outputs_of(state, source)["kind"]
    if measured_on is not None:
        return ErrorRate(measured(source, *measured_on), rate_of(kind), measured_on[1])
    if task is not None:
        noted = Bank(path).about(task).get("error_rate")
        return None if noted is None else ErrorRate.of(noted)
    is_of_training = updates_of(read(source, mmap=True)) is not None
    return validation_of(source, state, kind) if is_of_training else None


def _density(plain: PlainCheckpoint, provenance: Any) -> float:
    """The share of the maskable weights that is kept."""
    total = sum(mask.numel() for mask in plain.masks.values())
    if total:
        return sum(int(mask.sum()) for mask in plain.masks.values()) / total
    return float(provenance.get("density", 1.0))
