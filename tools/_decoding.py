"""Options of commands that decode: the language model, the beam, and what is written of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from speechprune.decoding import BEAM, LM_WEIGHT, WORD_SCORE
from speechprune.errors import UserError
from speechprune.tools._options import AT_A_TIME, Number, whole_number

if TYPE_CHECKING:
    from speechprune.decoding.beam import BeamSearch
    from speechprune.decoding.symbols import OutputSymbols


@dataclass(frozen=True)
class Decoding:
    """The options of a beam search as they were given; None for those that were not."""

    lm: Path | None
    lexicon: Path | None
    beam: int | None
    lm_weight: float | None
    word_score: float | None
    workers: int | None
    nbest: int | None = None
    with_spans: bool = False

    @property
    def searches(self) -> bool:
        """Whether a beam search is asked for, and not only the best symbol of each frame."""
        return any(v is not None for v in (self.lm, self.lexicon, self.beam, self.nbest))

    def check(self) -> None:
        """Refuse options that others leave without a meaning; reads no file."""
        if self.workers is not None and not self.searches:
            raise UserError(
                "--workers is for a beam search; ask for one by --lm, --lexicon or --beam"
            )
        if self.lm_weight is not None and self.lm is None:
            raise UserError("--lm-weight is for a language model; name one by --lm")
        if self.word_score is not None and self.lm is None and self.lexicon is None:
            raise UserError(
                "--word-score is for the words of a lexicon; name one by --lexicon, or a language "
                "model by --lm"
            )

    def search(self, model: Path, symbols: OutputSymbols) -> BeamSearch:
        """The beam search, with its files read.

        Raises:
            UserError: as `BeamSearch.prepare`.
        """
        from speechprune.decoding.beam import BeamSearch

        search = BeamSearch(
            model,
            symbols,
            self.lm,
            self.lexicon,
            beam=max(self.beam or BEAM, self.nbest or 1),
            nbest=self.nbest or 1,
            lm_weight=LM_WEIGHT if self.lm_weight is None else self.lm_weight,
            word_score=self.word_score or WORD_SCORE,
            with_spans=self.with_spans,
        )
        search.prepare()
        return search


_FILE = click.Path(path_type=Path)

lm_option = click.option(
    "--lm",
    type=_FILE,
    metavar="FILE",
    help="Language model to search with, of words or of letters: .arpa, or KenLM's .bin.",
)
lexicon_option = click.option(
    "--lexicon",
    type=_FILE,
    metavar="FILE",
    help="Words that may be written, each on a line with its letters, as fairseq has them; without "
    "it, all words of an .arpa file.",
)
beam_option = click.option(
    "--beam",
    type=whole_number(1, 100_000),
    help=f"Number of hypotheses that a search keeps; without it, {BEAM}.",
)
workers_option = click.option(
    "--workers",
    type=AT_A_TIME,
    help="Number of processes that search; without it, one for each core.",
)
_weight_options = (
    click.option(
        "--lm-weight",
        type=Number(min=0.0),
        help="Weight of the language model's base-10 logarithms, as in fairseq; without it, "
        f"{LM_WEIGHT:g}.",
    ),
    click.option(
        "--word-score",
        type=Number(),
        help="Score that is added for each word of a lexicon; below 0, it makes words fewer. "
        f"Without it, {WORD_SCORE:g}.",
    ),
)


nbest_option = click.option(
    "--nbest",
    type=whole_number(1, 10_000),
    help="Number of transcripts to find of each recording, best first; the beam is at least as "
    "wide.",
)


def decoding_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that gives a command's function the options of a beam search and its weights."""
    for option in (workers_option, *_weight_options[::-1], beam_option, lexicon_option, lm_option):
        function = option(function)
    return function
