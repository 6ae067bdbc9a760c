"""What `speechprune evaluate` says of a model for sentences: as lines, and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speechprune.decoding.sentences import SentenceEvaluation
    from speechprune.decoding.text_metrics import MeasuredMetric


def report(evaluation: SentenceEvaluation) -> dict[str, Any]:
    """The measurements under the names that `--json` prints; shares are not percent."""
    return {
        "task": evaluation.task.name,
        "examples": evaluation.examples,
        "metrics": {
            metric.name: {
                "value": metric.value,
                "interval": metric.interval and list(metric.interval),
                "counts": metric.counts,
                "undefined": metric.undefined,
            }
            for metric in evaluation.metrics
        },
        "parameters": evaluation.parameters,
        "density": evaluation.density,
        "examples_per_second": evaluation.speed,
        "device": evaluation.device,
    }


def table(evaluation: SentenceEvaluation) -> str:
    """The measurements as lines to read."""
    return "\n".join(
        [
            *map(_line, evaluation.metrics),
            f"examples    {evaluation.examples} of {evaluation.task.name}",
            f"parameters  {evaluation.parameters:,}",
            f"density     {evaluation.density:.4f} of the maskable weights kept",
            f"speed       {evaluation.speed:.1f} examples per second on {evaluation.device}",
        ]
    )


def _line(metric: MeasuredMetric) -> str:
    told = ", ".join(f"{count} {what}" for what, count in metric.counts.items())
    if metric.interval is not None:
        low, high = (100 * end for end in metric.interval)
        told += f"; 95 % confidence interval {low:.2f} to {high:.2f} %"
    if metric.undefined:
        told += f"; not defined: {metric.undefined}"
    return f"{metric.name:<11} {100 * metric.value:.2f} %  ({told})"
