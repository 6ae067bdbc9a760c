"""What a page tells of, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from speechprune.layers.matrix import SimilarityMatrix
from speechprune.layers.plan import LayerPlan
from speechprune.masking.mask_set import MaskSet
from speechprune.reports.comparison import Comparison
from speechprune.training.log import TrainingLog


@dataclass(frozen=True)
class Measurement:
    """An error rate with what it costs.

    Attributes:
        name: of the model.
        subset: of what was heard.
        data: tells apart what was heard.
        where: that data, in words.
        errors: share by the name of a rate, such as "WER".
        training: its seed and updates; "" if nothing tells.
        parameters: that are kept; None if it is not known how many masks remove.
        speed: seconds of audio per second; None if nothing measured it.
        device: that the speed is of.
        size: of the file in bytes; None if nothing tells.
        multiply_adds: of the encoder for 10 s of audio; None if nothing tells.
    """

    name: str
    subset: str
    data: str
    where: str
    errors: Mapping[str, float]
    training: str = ""
    parameters: int | None = None
    speed: float | None = None
    device: str = ""
    size: int | None = None
    multiply_adds: int | None = None


@dataclass(frozen=True)
class Timing:
    """What a model takes to hear.

    Attributes:
        name: of its file.
        latency: seconds for one recording alone.
        real_time_factor: that, by the length of the recording.
        throughput: seconds of audio per second, in batches.
        peak: the most memory that its process took, in bytes.
        size: of the file in bytes.
        parameters: of the model.
        multiply_adds: for the recording.
    """

    name: str
    latency: float
    real_time_factor: float
    throughput: float
    peak: float
    size: float
    parameters: float
    multiply_adds: float


@dataclass(frozen=True)
class Benchmark:
    """Models that heard the same side by side.

    Attributes:
        name: of the file.
        conditions: in words.
        timings: of the models, in the order in which they were given.
    """

    name: str
    conditions: str
    timings: tuple[Timing, ...]


@dataclass(frozen=True)
class LayerUnits:
    """The heads and channels that a layer has kept, of those that it had at first."""

    heads: int
    heads_before: int
    channels: int
    channels_before: int


@dataclass(frozen=True)
class Model:
    """What a checkpoint or a mask file says of itself.

    Attributes:
        name: as the page calls it.
        masks: None if it has none.
        lost: the layers that it has lost; None if none are known.
        units: of each layer; None if no head or channel went.
    """

    name: str
    masks: MaskSet | None = None
    lost: LayerPlan | None = None
    units: tuple[LayerUnits, ...] | None = None


@dataclass(frozen=True)
class Run:
    """A training run.

    Attributes:
        name: as the page calls it.
        folder: of the run.
        facts: what is known of it, by what it is called.
        problem: why it cannot be compared; "" if it can.
        log: None if there is none.
    """

    name: str
    folder: Path
    facts: Mapping[str, str]
    problem: str
    log: TrainingLog | None


@dataclass(frozen=True)
class Plans:
    """Layer plans with what is known of each.

    Attributes:
        name: of the file or the report.
        plans: best first.
        facts: values by the head of their column, one mapping for each plan.
    """

    name: str
    plans: tuple[LayerPlan, ...]
    facts: tuple[Mapping[str, str], ...]


@dataclass(frozen=True)
class Transcripts:
    """An utterance, and what models made of it.

    Attributes:
        utterance: its name.
        reference: what is said.
        found: by the name of the model.
    """

    utterance: str
    reference: str
    found: Mapping[str, str]


@dataclass(frozen=True)
class Examples:
    """The first utterances of a split.

    Attributes:
        where: the split, in words.
        transcripts: of each utterance.
    """

    where: str
    transcripts: Sequence[Transcripts]


@dataclass
class Contents:
    """Everything on a page.

    Attributes:
        comparisons: of runs, one for each subset and kind of error rate.
        measurements: of runs, reports and evaluations.
        benchmarks: of files, each on one machine.
        matrices: by name.
        examples: of the models that were heard.
        missing: by section, what is not there, or was left out, and why.
    """

    runs: list[Run] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    benchmarks: list[Benchmark] = field(default_factory=list)
    models: list[Model] = field(default_factory=list)
    matrices: dict[str, SimilarityMatrix] = field(default_factory=dict)
    plans: list[Plans] = field(default_factory=list)
    examples: list[Examples] = field(default_factory=list)
    missing: dict[str, list[str]] = field(default_factory=dict)

    def note(self, section: str, line: str) -> None:
        """Say that something is missing."""
        self.missing.setdefault(section, []).append(line)
