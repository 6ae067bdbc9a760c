"""Evaluations of the stages that a workflow takes a model through: tables and plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechprune.decoding.inference import Evaluation


def stages_table(stages: Mapping[str, Evaluation]) -> list[list[str]]:
    """A table of evaluations; with what masks keep, if there are any."""
    masked = any(found.density < 1.0 for found in stages.values())
    rows = [["", "WER %", "CER %", "parameters", *["kept %"] * masked, "s of audio per s"]]
    for stage, found in stages.items():
        rates = (f"{100 * c.rate:.2f}" for c in (found.words, found.characters))
        kept = [f"{100 * found.density:.1f}"] * masked
        rows.append([stage, *rates, f"{found.parameters:,}", *kept, f"{found.speed:.1f}"])
    return rows


def plain_values(found: Evaluation) -> dict[str, Any]:
    """An evaluation as JSON can hold it; rates are shares, not percent."""
    return {
        "wer": found.words.rate,
        "cer": found.characters.rate,
        "parameters": found.parameters,
        "density": found.density,
        "seconds_of_audio_per_second": found.speed,
        "device": found.device,
    }


def markdown_table(rows: list[list[str]]) -> str:
    """A table in Markdown, of which the first row is the head."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
