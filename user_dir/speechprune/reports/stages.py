"""Evaluations of the stages that a workflow takes a model through: tables and plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Union

from speechprune.decoding.inference import Evaluation
from speechprune.decoding.sentences import SentenceEvaluation
from speechprune.reports.run_files import RATE_NAMES

Evaluated = Union[Evaluation, SentenceEvaluation]


def rates(found: Evaluated) -> dict[str, float]:
    """The error rates that were measured, by their names in JSON; shares, not percent."""
    if isinstance(found, SentenceEvaluation):
        return {"error": found.error}
    return {"wer": found.words.rate, "cer": found.characters.rate}


def titles(found: Evaluated) -> dict[str, str]:
    """What tables call those of the `rates` that tell something."""
    return {rate: f"{name} %" for rate, name in found.rate_names.items()}


def stages_table(stages: Mapping[str, Evaluated]) -> list[list[str]]:
    """A table of evaluations; with what masks keep, if there are any."""
    masked = any(found.density < 1.0 for found in stages.values())
    first = next(iter(stages.values()))
    speed = "examples per s" if isinstance(first, SentenceEvaluation) else "s of audio per s"
    rows = [["", *titles(first).values(), "parameters", *["kept %"] * masked, speed]]
    for stage, found in stages.items():
        errors = (f"{100 * rates(found)[rate]:.2f}" for rate in found.rate_names)
        kept = [f"{100 * found.density:.1f}"] * masked
        rows.append([stage, *errors, f"{found.parameters:,}", *kept, f"{found.speed:.1f}"])
    return rows


def plain_values(found: Evaluated) -> dict[str, Any]:
    """An evaluation as JSON can hold it; rates are shares, not percent."""
    of_text = isinstance(found, SentenceEvaluation)
    return {
        **rates(found),
        RATE_NAMES: found.rate_names,
        "parameters": found.parameters,
        "density": found.density,
        "examples_per_second" if of_text else "seconds_of_audio_per_second": found.speed,
        "device": found.device,
    }


def markdown_table(rows: list[list[str]]) -> str:
    """A table in Markdown, of which the first row is the head."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
