"""Error rates of models, and of their ONNX files in float32 and in 8 bits.

python -m benchmarks.export_errors --data data --subset test dense.pt
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from benchmarks.harness import Report, Rows

HEAD = ("model", "checkpoint", "ONNX", "ONNX in 8 bits", "same symbols")


@click.command(help=__doc__)
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder of manifests.")
@click.option("--subset", required=True, help="Split to transcribe.")
@click.option("--save", type=click.Path(path_type=Path), help="File for the table.")
def main(checkpoints: tuple[Path, ...], data: Path, subset: str, save: Path | None) -> None:
    from speechprune.exporting.onnx_export import export_onnx
    from speechprune.reports.masks import short_names

    report = Report()
    report.tell(f"word error rates of {subset}; best symbols of noise that stay in 8 bits")
    names = short_names(checkpoints)
    rows = Rows(report.tell, HEAD, (max(map(len, names)),))
    for name, path in zip(names, checkpoints):
        with tempfile.TemporaryDirectory() as folder:
            whole, small = Path(folder, "whole.onnx"), Path(folder, "small.onnx")
            export_onnx(path, whole)
            (exported,) = export_onnx(path, small, int8=True)
            rates = [f"{_rate(each, data, subset):.2f} %" for each in (path, whole, small)]
            rows.add(name, *rates, f"{100 * exported.agreement:.1f} %")
    if save is not None:
        report.save(save)


def _rate(path: Path, data: Path, subset: str) -> float:
    """The word error rate of a checkpoint or of an ONNX file, in percent."""
    from speechprune.decoding.inference import evaluate, read_references
    from speechprune.exporting.onnx_model import load_any
    from speechprune.models.loading import as_recogniser

    loaded = as_recogniser(load_any(path, None))
    return 100 * evaluate(loaded, read_references(loaded, data, subset)).words.rate


if __name__ == "__main__":
    main()
