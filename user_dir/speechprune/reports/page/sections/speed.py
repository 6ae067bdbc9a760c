"""What models take to hear: time, memory and bytes, side by side."""

from __future__ import annotations

from speechprune.reports.page.charts import Chart, Series, charts, legend
from speechprune.reports.page.contents import Benchmark, Contents
from speechprune.reports.page.markup import (
    Markup,
    element,
    joined,
    name_of,
    paragraph,
    table,
)
from speechprune.reports.page.scales import short

TITLE = "Speed side by side"
_HEAD = (
    *("model", "latency (ms)", "real-time factor", "s of audio per s", "faster"),
    *("memory (MB)", "file size (MB)", "parameters", "multiply-adds"),
)


def section(contents: Contents) -> Markup:
    """A table and charts for each benchmark: each was measured on a machine of its own."""
    if not contents.benchmarks:
        return paragraph(
            "Nothing was timed side by side; give what speechprune benchmark --json prints."
        )
    return joined(map(_benchmark, contents.benchmarks))


def _benchmark(found: Benchmark) -> Markup:
    first = found.timings[0]
    rows = [
        [
            name_of(each.name),
            f"{1e3 * each.latency:.1f}",
            f"{each.real_time_factor:.4f}",
            f"{each.throughput:.1f}",
            f"{first.latency / each.latency:.2f}×",
            f"{each.peak / 1e6:.0f}",
            f"{each.size / 1e6:.1f}",
            f"{each.parameters:,.0f}",
            short(each.multiply_adds),
        ]
        for each in found.timings
    ]
    caption = f"{found.conditions}; faster than the first one"
    return joined(
        [
            element("h3", name_of(found.name)),
            table(caption, _HEAD, rows),
            legend([each.name for each in found.timings]),
            charts(
                [
                    _chart(found, "latency by file size", "file size (MB)", "size"),
                    _chart(found, "latency by memory", "memory (MB)", "peak"),
                ]
            ),
        ]
    )


def _chart(found: Benchmark, title: str, axis: str, key: str) -> Chart:
    series = [
        Series(each.name, look, [getattr(each, key) / 1e6], [1e3 * each.latency], [each.name])
        for look, each in enumerate(found.timings)
    ]
    return Chart(title, axis, "latency (ms)", series, from_zero=True)
