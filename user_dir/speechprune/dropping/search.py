"""From plans to ranked plans: verifying them, choosing by error rates, and reports of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Callable

from speechprune import __version__
from speechprune.checkpoint import PathLike, digest
from speechprune.decoding.inference import read_references, sample_rate
from speechprune.decoding.sentences import read_labelled
from speechprune.dropping.elimination import eliminate
from speechprune.dropping.sentences import SentenceVerifier
from speechprune.dropping.transcripts import TranscriptVerifier
from speechprune.dropping.verification import Measured, Verifier, refuse_test
from speechprune.layers.plan import LayerPlan, LayerPlans
from speechprune.layers.race import Race
from speechprune.manifests.check import check_split
from speechprune.manifests.glue.folder import task_of_folder
from speechprune.manifests.split_files import inputs_digest
from speechprune.models.loading import LoadedSentences, as_recogniser, load_finetuned
from speechprune.tables import table


@dataclass(frozen=True)
class VerificationSettings:
    """How plans are measured.

    Attributes:
        data, subset: a folder of manifests, or of texts, and a validation split in it.
        allow_test: whether the split may be named as test data.
        by: "cer", "wer", or "error" of a task on sentences; None for the model's usual one.
        race: stop plans that are clearly worse, at ``level``.
        seed: of the race.
        max_tokens: samples, or symbols of texts, in a batch; as evaluation has them if None.
        batch_size: most utterances or texts in a batch; a race has smaller ones if there are too
            few.
    """

    data: Path
    subset: str
    allow_test: bool = False
    by: str | None = None
    race: bool = False
    level: float = 0.05
    seed: int = 0
    max_tokens: int | None = None
    batch_size: int | None = None

    def verifier(self, checkpoint: PathLike, remember: bool = False) -> Verifier[Any]:
        """For a finetuned checkpoint; raises UserError for data or a model that cannot be used."""
        refuse_test(self.subset, self.allow_test)
        loaded = load_finetuned(checkpoint, self.data)
        limits: dict[str, Any] = {"remember": remember}
        if self.max_tokens is not None:
            limits["max_tokens"] = self.max_tokens
        if isinstance(loaded, LoadedSentences):
            task, texts = task_of_folder(self.data), read_labelled(loaded, self.data, self.subset)
            size = self._batch_size(len(texts))
            return SentenceVerifier(loaded, task, texts, batch_size=size, **limits)
        loaded = as_recogniser(loaded)
        check_split(self.data, self.subset, labels=None, sample_rate=sample_rate(loaded))
        split = read_references(loaded, self.data, self.subset)
        size = self._batch_size(len(split.utterances))
        return TranscriptVerifier(loaded, split, batch_size=size, **limits)

    def _batch_size(self, count: int) -> int | None:
        """The most of ``count`` utterances or texts in a batch."""
        if not self.race:
            return self.batch_size
        enough = Race.batch_size(count)
        return enough if self.batch_size is None else min(self.batch_size, enough)

    @property
    def racing(self) -> Race | None:
        return Race(self.level, self.seed) if self.race else None


@dataclass(frozen=True)
class VerificationReport:
    """What measuring plans gave.

    Attributes:
        measured: best first.
        metric: what they are ranked by.
        passes: of utterances through front end and layers: made, and plan by plan.
        seconds: time that it took, without loading the model.
        plans: the same as a file of plans.
        steps: of a search by error rate, the best plan of each step.
        remarks: lines for people.
    """

    measured: tuple[Measured, ...]
    metric: str
    passes: Mapping[str, int]
    seconds: float
    plans: LayerPlans
    steps: tuple[Measured, ...] = ()
    remarks: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """To read by program; rates are shares, not percent."""
        found: dict[str, Any] = {
            "plans": [measured.describe() for measured in self.measured],
            "by": self.metric,
            "passes": dict(self.passes),
            "seconds": round(self.seconds, 3),
        }
        if self.steps:
            found["steps"] = [step.describe() for step in self.steps]
        return found

    def in_words(self) -> str:
        """A table, and what it took."""
        shown = self.steps or self.measured
        scored = any(each.plan.score is not None for each in shown)
        unit = shown[0].unit
        # A rate with two names is shown once.
        metrics = {name: metric for metric, name in shown[0].metrics.items()}
        errors = [f"{name} %" for name in metrics]
        rows = [["drop", *["score"] * scored, *errors, unit]]
        for each in shown:
            score = ["" if each.plan.score is None else f"{each.plan.score:.4f}"] * scored
            rates = [f"{100 * each.rate(metric):.2f}" for metric in metrics.values()]
            heard = f"{each.heard}{' (stopped)' if each.stopped else ''}"
            rows.append([",".join(map(str, each.plan.dropped)), *score, *rates, heard])
        made = (
            f"{self.passes['front_end']} passes of {unit} through the front end and "
            f"{self.passes['layers']} through layers, in {self.seconds:.1f} s; plan by plan: "
            f"{self.passes['front_end_alone']} and {self.passes['layers_alone']}"
        )
        return "\n".join([table(rows), made, *self.remarks])


def verify_plans(
    checkpoint: PathLike, plans: Callable[[int], LayerPlans], settings: VerificationSettings
) -> VerificationReport:
    """Measure plans on a finetuned checkpoint.

    Args:
        plans: gives them for a model of so many layers.

    Raises:
        UserError: the subset is named as test data, or is missing, damaged or empty; the checkpoint
            is not a finetuned model; or the plans are for another model.
    """
    verifier = settings.verifier(checkpoint)
    given = plans(len(verifier.layers))
    metric = settings.by or verifier.metric
    start = perf_counter()
    measured = verifier.measure(given.plans, metric, settings.racing)
    seconds = perf_counter() - start
    ranked = tuple(sorted(measured, key=lambda each: each.rank(metric)))
    provenance = {**_provenance(checkpoint, settings, metric), "plans": dict(given.provenance)}
    return VerificationReport(
        ranked,
        metric,
        _passes(verifier),
        seconds,
        LayerPlans(
            tuple(each.plan for each in ranked),
            given.layers,
            provenance,
            [each.facts for each in ranked],
        ),
        remarks=_race_remarks(settings, sum(each.stopped for each in ranked)),
    )


def eliminate_layers(
    checkpoint: PathLike, drop: int, settings: VerificationSettings
) -> VerificationReport:
    """Greedy layer pruning of a finetuned checkpoint by its error rate.

    Raises:
        UserError: as `verify_plans`, or ``drop`` is not within the model.
    """
    verifier = settings.verifier(checkpoint, remember=True)
    metric = settings.by or verifier.metric
    start = perf_counter()
    found = eliminate(verifier, drop, metric, settings.racing)
    seconds = perf_counter() - start
    provenance = {**_provenance(checkpoint, settings, metric), "method": "glp"}
    plan = LayerPlan(found.plan.layers, found.plan.dropped)
    return VerificationReport(
        found.steps[-1:],
        metric,
        _passes(verifier),
        seconds,
        LayerPlans((plan,), plan.layers, provenance, [found.steps[-1].facts]),
        found.steps,
        (f"{found.evaluations} plans were measured", *_race_remarks(settings, found.stopped)),
    )


def _provenance(
    checkpoint: PathLike, settings: VerificationSettings, metric: str
) -> dict[str, Any]:
    return {
        "version": __version__,
        "checkpoint": digest(checkpoint),
        "manifest": inputs_digest(settings.data, settings.subset),
        "subset": settings.subset,
        "by": metric,
        "race": {"level": settings.level, "seed": settings.seed} if settings.race else None,
    }


def _passes(verifier: Verifier[Any]) -> dict[str, int]:
    return {
        "front_end": verifier.made.front_end,
        "layers": verifier.made.layers,
        "front_end_alone": verifier.alone.front_end,
        "layers_alone": verifier.alone.layers,
    }


def _race_remarks(settings: VerificationSettings, stopped: int) -> tuple[str, ...]:
    if not settings.race:
        return ()
    return (
        f"the race stopped {stopped} plans early; the truly best one is stopped with a probability "
        f"of at most {settings.level} in each race (paired sign test over batches, seed "
        f"{settings.seed})",
    )
