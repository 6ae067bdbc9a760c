"""Error rates of one model: greedy, and with a language model whose weights were tuned."""

from __future__ import annotations

from pathlib import Path

import click

HEAD = ("decoding", "lm weight", "word score", "WER", "CER", "audio s per s")


@click.command()
@click.option("--checkpoint", required=True, type=click.Path(path_type=Path), help="CTC model.")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder of manifests.")
@click.option("--lm", required=True, type=click.Path(path_type=Path), help="Language model.")
@click.option("--lexicon", type=click.Path(path_type=Path), help="Words that may be written.")
@click.option("--valid", default="valid", show_default=True, help="Split to tune on.")
@click.option("--test", default="test", show_default=True, help="Split to report.")
@click.option("--beams", default="10,100,500", show_default=True, help="Beams to compare.")
def main(
    checkpoint: Path,
    data: Path,
    lm: Path,
    lexicon: Path | None,
    valid: str,
    test: str,
    beams: str,
) -> None:
    """Print the error rates of a test split, with weights that were tuned on a validation split."""
    from speechprune.decoding.beam import BeamSearch
    from speechprune.decoding.inference import Evaluation, evaluate, read_references
    from speechprune.decoding.searching import evaluate_search
    from speechprune.decoding.symbols import symbols_of
    from speechprune.decoding.tuning import tune
    from speechprune.models.loading import load_recogniser

    def show(name: str, weights: tuple[str, str], found: Evaluation) -> None:
        rates = (f"{100 * found.words.rate:.2f} %", f"{100 * found.characters.rate:.2f} %")
        click.echo("\t".join((name, *weights, *rates, f"{found.speed:.1f}")))

    loaded = load_recogniser(checkpoint)
    split = read_references(loaded, data, test)
    click.echo("\t".join(HEAD))
    show("greedy", ("", ""), evaluate(loaded, split))
    symbols = symbols_of(loaded.dictionary)
    first = BeamSearch(checkpoint, symbols, lm, lexicon)
    best = tune(loaded, read_references(loaded, data, valid), first).best
    for beam in map(int, beams.split(",")):
        search = BeamSearch(
            checkpoint,
            symbols,
            lm,
            lexicon,
            beam=beam,
            lm_weight=best.lm_weight,
            word_score=best.word_score,
        )
        weights = f"{best.lm_weight:g}", f"{best.word_score:g}"
        show(f"beam of {beam}", weights, evaluate_search(loaded, split, search).evaluation)


if __name__ == "__main__":
    main()
