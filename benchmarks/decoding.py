"""Error rates of models: greedy, and with a language model whose weights were tuned.

python -m benchmarks.decoding --data data --lm words.arpa one.pt two.pt
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from benchmarks.harness import Report, Rows, machine

HEAD = ("model", "decoding", "lm weight", "word score", "WER", "CER", "audio s per s")


@click.command(help=__doc__)
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder of manifests.")
@click.option("--lm", required=True, type=click.Path(path_type=Path), help="Language model.")
@click.option("--lexicon", type=click.Path(path_type=Path), help="Words that may be written.")
@click.option("--valid", default="valid", show_default=True, help="Split to tune on.")
@click.option("--test", default="test", show_default=True, help="Split to report.")
@click.option("--beams", default="10,100,500", show_default=True, help="Beams to compare.")
@click.option("--save", type=click.Path(path_type=Path), help="File for the table.")
def main(
    checkpoints: tuple[Path, ...],
    data: Path,
    lm: Path,
    lexicon: Path | None,
    valid: str,
    test: str,
    beams: str,
    save: Path | None,
) -> None:
    from speechprune.decoding.beam import BeamSearch
    from speechprune.decoding.inference import Evaluation, evaluate, read_references
    from speechprune.decoding.searching import evaluate_search
    from speechprune.decoding.symbols import symbols_of
    from speechprune.decoding.tuning import tune
    from speechprune.models.loading import load_recogniser
    from speechprune.reports.masks import short_names

    report = Report()
    report.tell(f"{machine()}; {test}, with weights of {valid}\n")
    names = short_names(checkpoints)
    rows = Rows(report.tell, HEAD, (max(map(len, names)), len("beam of 1000")), left=2)

    def show(name: str, how: str, weights: tuple[str, str], found: Evaluation) -> None:
        rates = (f"{100 * found.words.rate:.2f} %", f"{100 * found.characters.rate:.2f} %")
        rows.add(name, how, *weights, *rates, f"{found.speed:.1f}")

    for name, checkpoint in zip(names, checkpoints):
        loaded = load_recogniser(checkpoint)
        split = read_references(loaded, data, test)
        show(name, "greedy", ("", ""), evaluate(loaded, split))
        first = BeamSearch(checkpoint, symbols_of(loaded.dictionary), lm, lexicon)
        best = tune(loaded, read_references(loaded, data, valid), first).best
        weights = f"{best.lm_weight:g}", f"{best.word_score:g}"
        for beam in map(int, beams.split(",")):
            search = replace(first, beam=beam, lm_weight=best.lm_weight, word_score=best.word_score)
            found = evaluate_search(loaded, split, search).evaluation
            show(name, f"beam of {beam}", weights, found)
    if save is not None:
        report.save(save)


if __name__ == "__main__":
    main()
