"""What `speechprune evaluate` says of a model for labels: as lines, as JSON, and as figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechprune.tables import table as in_columns

if TYPE_CHECKING:
    from speechprune.decoding.accuracy import Accuracy
    from speechprune.decoding.labelling import LabelEvaluation


def report(evaluation: LabelEvaluation) -> dict[str, Any]:
    """The measurements under the names that `--json` prints; rates are shares, not percent."""
    slots = [
        {
            "slot": slot.name,
            **_described(slot.accuracy),
            "recall": {name: found and found.rate for name, found in slot.recalls.items()},
            "classes": list(slot.classes),
            "confusion": slot.confusion.tolist(),
        }
        for slot in evaluation.slots
    ]
    return {
        "utterances": evaluation.all_slots.utterances,
        **_described(evaluation.all_slots),
        "slots": slots,
        "parameters": evaluation.parameters,
        "density": evaluation.density,
        "audio_seconds": evaluation.audio_seconds,
        "seconds_of_audio_per_second": evaluation.speed,
        "device": evaluation.device,
    }


def _described(accuracy: Accuracy) -> dict[str, Any]:
    return {
        "accuracy": accuracy.rate,
        "interval": list(accuracy.interval),
        "correct": accuracy.correct,
    }


def table(evaluation: LabelEvaluation) -> str:
    """The measurements as lines to read."""
    several = len(evaluation.slots) > 1
    lines = [_line("all slots", evaluation.all_slots)] if several else []
    lines += [_line(slot.name, slot.accuracy) for slot in evaluation.slots]
    return "\n".join(
        [
            *in_columns(lines, left=3).splitlines(),
            f"utterances  {evaluation.all_slots.utterances}, {evaluation.audio_seconds:.1f} s of "
            "audio",
            f"parameters  {evaluation.parameters:,}",
            f"density     {evaluation.density:.4f} of the maskable weights kept",
            f"speed       {evaluation.speed:.1f} s of audio per second on {evaluation.device}",
            *_recalls(evaluation),
        ]
    )


def _line(name: str, accuracy: Accuracy) -> list[str]:
    low, high = (100 * end for end in accuracy.interval)
    return [
        "accuracy  ",
        name,
        f"{100 * accuracy.rate:.2f} %  ({accuracy.correct} of {accuracy.utterances}; 95 % "
        f"confidence interval {low:.2f} to {high:.2f} %)",
    ]


def _recalls(evaluation: LabelEvaluation) -> list[str]:
    rows = [["slot", "class", "recall", "right", "utterances"]]
    for slot in evaluation.slots:
        for name, found in slot.recalls.items():
            counts = [f"{100 * found.rate:.2f} %", str(found.correct)] if found else ["", ""]
            rows.append([slot.name, name, *counts, str(found.utterances if found else 0)])
    return ["", *in_columns(rows, left=2).splitlines()]


def draw(evaluation: LabelEvaluation, path: Path, what: str) -> list[Path]:
    """Draw what share of each class is told as which: at ``path``, or, of several slots, in a
    figure for each, with the slot's name before the ending; gives the files.

    Args:
        what: was evaluated, in words.

    Raises UserError as `speechprune.figures.save_figure` does.
    """
    from speechprune.figures import heat_map

    drawn = []
    for slot in evaluation.slots:
        own = slot.name.replace("/", "-")
        several = len(evaluation.slots) > 1
        file = path.with_name(f"{path.stem}-{own}{path.suffix}") if several else path
        heat_map(slot.shares, slot.classes, file, f"{slot.name}: what each row is told as, {what}")
        drawn.append(file)
    return drawn
