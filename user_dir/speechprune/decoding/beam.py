"""CTC beam search, with a language model of words or of letters, or with none.

The search itself is flashlight-text's: Collobert, Puhrsch and Synnaeve, "Wav2Letter: an end-to-end
ConvNet-based speech recognition system", 2016, as fairseq's examples use it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from speechprune.decoding import BEAM, LM_WEIGHT, WORD_SCORE
from speechprune.decoding.alignment import aligned
from speechprune.decoding.hypothesis import Hypothesis
from speechprune.decoding.language_model import (
    arpa_words,
    check_installed,
    is_binary,
    open_kenlm,
    vocabulary_of,
)
from speechprune.decoding.lexicon import Entry, fitting, read_lexicon, spelt_by_letters
from speechprune.decoding.symbols import OutputSymbols
from speechprune.errors import UserError
from speechprune.manifests.spelling import WORD_END

logger = logging.getLogger(__name__)

#: Hypotheses whose score is so much below the best one's are dropped, in natural logarithms.
_THRESHOLD = 50.0
#: Stands for minus infinity, with which flashlight's sums would be no numbers.
_NEVER = -1e4


@dataclass(frozen=True)
class BeamSearch:
    """Finds the transcripts of the highest scores; a `Search`.

    The score of a transcript is that of its best path through the emissions, and ``lm_weight`` for
    each factor of ten in its probability by the language model, and ``word_score`` for each word of
    a lexicon.

    The files are read once in each process, when a first utterance is searched or by `prepare`.

    Attributes:
        model: the file of the model, for messages.
        symbols: of its outputs.
        language_model: in ARPA's or KenLM's binary form; None for none.
        lexicon: the only words that are written; None for those of the language model, or for any
            if that is of letters or missing.
        beam: hypotheses that are kept at each frame.
        nbest: transcripts to find, at most; those of one text count once.
        lm_weight: of the base-10 logarithm of a probability, as in fairseq.
        word_score: added for each word.
        with_spans: tell the frames of each token.
    """

    model: Path
    symbols: OutputSymbols
    language_model: Path | None = None
    lexicon: Path | None = None
    beam: int = BEAM
    nbest: int = 1
    lm_weight: float = LM_WEIGHT
    word_score: float = WORD_SCORE
    with_spans: bool = False

    def prepare(self) -> None:
        """Read the files, for this process and for those that it forks, and warn of what is odd
        about them.

        Raises:
            UserError: a library is not installed; a file cannot be read, is damaged, or does not
                fit the model.
        """
        opened = self._open()
        _warn_once(opened.remarks)
        if opened.trie is None and self.word_score:
            raise UserError(
                f"--word-score {self.word_score:g} is for the words of a lexicon, but "
                f"{self.language_model or self.model} is searched by its symbols; leave it out"
            )

    @property
    def words(self) -> frozenset[str] | None:
        """All that it may write; None if that is any symbols."""
        opened = self._open()
        return None if opened.trie is None else frozenset(opened.words)

    def _open(self) -> _Opened:
        files = self.language_model, self.lexicon
        return _opened(self.model, self.symbols, *files, tuple(map(_state, files)))

    def __call__(self, emissions: np.ndarray) -> list[Hypothesis]:
        """As `Search`."""
        if not len(emissions):
            return [Hypothesis((), (), 0.0, 0.0, 0.0)]
        opened = self._open()
        columns = _columns(emissions, self.symbols, ends_words=opened.trie is not None)
        results = self._decoder(opened).decode(columns.ctypes.data, *columns.shape)
        found: dict[str, Hypothesis] = {}
        for result in results:
            hypothesis = self._hypothesis(result, opened, len(emissions))
            found.setdefault(hypothesis.text, hypothesis)
            if len(found) == self.nbest:
                break
        if not self.with_spans:
            return list(found.values())
        heard = silent_as_blank(emissions, self.symbols)
        return [
            replace(each, spans=tuple(aligned(heard, each.tokens, self.symbols.blank)))
            for each in found.values()
        ]

    def _decoder(self, opened: _Opened) -> Any:
        flashlight = import_module("flashlight.lib.text.decoder")
        shared = {
            "beam_size": self.beam,
            "beam_size_token": 1 + len(self.symbols.written),
            "beam_threshold": _THRESHOLD,
            "lm_weight": self.lm_weight,
            "sil_score": 0.0,
            "log_add": False,
            "criterion_type": flashlight.CriterionType.CTC,
        }
        if opened.trie is None:
            options = flashlight.LexiconFreeDecoderOptions(**shared)
            # Without a symbol of silence, a separator that comes first is scored like any other.
            return flashlight.LexiconFreeDecoder(options, opened.scorer, -1, 0, [])
        options = flashlight.LexiconDecoderOptions(
            **shared, word_score=self.word_score, unk_score=float("-inf")
        )
        separator = _column(self.symbols, self.symbols.separator)
        return flashlight.LexiconDecoder(
            options, opened.trie, opened.scorer, separator, 0, -1, [], False
        )

    def _hypothesis(self, result: Any, opened: _Opened, frames: int) -> Hypothesis:
        # One place for the beginning comes first, and one or two for the end come last.
        numbers = np.array([self.symbols.blank, *self.symbols.written])
        tokens = self.symbols.tokens(numbers[np.array(result.tokens[1 : frames + 1])])
        if opened.trie is None:
            words = tuple(self.symbols.text(tokens).split())
        else:
            words = tuple(opened.words[number] for number in result.words if number >= 0)
            heard = self.symbols.words(tokens)
            # A word that was begun and is not in the lexicon was not written.
            tokens = tokens[: heard[len(words)].start] if len(heard) > len(words) else tokens
        # What was found in the added frame does not count as a part of the probability.
        added = opened.trie is not None and numbers[result.tokens[frames + 1]]
        extra = 0.0 if not added or added == self.symbols.separator else _NEVER
        emission_score = result.emittingModelScore - extra
        return Hypothesis(words, tokens, result.score - extra, emission_score, result.lmScore)


class _Opened(NamedTuple):
    """What a search reads of files.

    Attributes:
        scorer: flashlight's language model.
        trie: of the spellings; None if any symbols may follow each other.
        words: of the trie, by their numbers.
        remarks: on words that cannot be written, or that the language model does not know.
    """

    scorer: Any
    trie: Any
    words: tuple[str, ...]
    remarks: tuple[str, ...]


@lru_cache(maxsize=4)
def _opened(
    model: Path,
    symbols: OutputSymbols,
    language_model: Path | None,
    lexicon: Path | None,
    states: tuple[int, ...],
) -> _Opened:
    """The files of a search, read once in each of their states."""
    check_installed()
    if lexicon is not None and symbols.separator is None:
        raise UserError(
            f"{model} writes units and not letters, which {lexicon} could make words of; leave out "
            "--lexicon"
        )
    if lexicon is None and _is_of_symbols(language_model, symbols, model):
        return _Opened(_scorer(language_model, _column_names(symbols)), None, (), ())
    if lexicon is not None:
        entries, source = read_lexicon(lexicon), lexicon
    else:
        assert language_model is not None
        entries, source = spelt_by_letters(arpa_words(language_model)), language_model
    entries, left_out = fitting(entries, symbols, source, model)
    words = tuple(dict.fromkeys(entry.word for entry in entries))
    unknown = ""
    if language_model is not None and lexicon is not None:
        unknown = _unknown_words(words, language_model, lexicon, symbols)
    scorer = _scorer(language_model, words)
    remarks = tuple(remark for remark in (left_out, unknown) if remark)
    return _Opened(scorer, _trie(entries, words, scorer, symbols), words, remarks)


def _state(path: Path | None) -> int:
    """When a file was last written; 0 if there is none."""
    try:
        return 0 if path is None else os.stat(path).st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=4)
def _warn_once(remarks: tuple[str, ...]) -> None:
    for remark in remarks:
        logger.warning(remark)


def _is_of_symbols(language_model: Path | None, symbols: OutputSymbols, model: Path) -> bool:
    """Whether a search without a lexicon goes by the model's symbols, and not by words.

    Raises:
        UserError: the language model is one of symbols, and lacks some of the model's; or it is one
            of words, which a file without its words cannot tell.
    """
    if language_model is None:
        return True
    known = vocabulary_of(language_model)
    names = [symbols.names[number] for number in symbols.written]
    missing = [name for name in names if name not in known]
    if symbols.separator is None or _is_of_letters(language_model, symbols):
        if missing:
            raise UserError(
                f"{language_model} is a language model of symbols that lacks some of {model}: "
                f"{' '.join(missing)}"
            )
        return True
    if is_binary(language_model):
        raise UserError(
            f"{language_model} is not a language model of the letters of {model}, since it lacks "
            f"{WORD_END!r}, and the words of a binary file cannot be listed: name them by --lexicon"
        )
    if all(len(word) == 1 for word in arpa_words(language_model)) and len(missing) < len(names):
        raise UserError(
            f"{language_model} is a language model of letters without {WORD_END!r}, which {model} "
            "writes after each word; make it of texts that are spelt like SPLIT.ltr of a manifest"
        )
    return False


def _is_of_letters(language_model: Path, symbols: OutputSymbols) -> bool:
    """Whether the "words" of a language model are letters and `|`. That it knows them is not
    enough: texts of the web have all letters, and bars, among their words."""
    known = vocabulary_of(language_model)
    if WORD_END not in known:
        return False
    if not is_binary(language_model):
        return all(len(w) == 1 or w in symbols.names for w in arpa_words(language_model))
    return not any(word in known for word in _short_words(symbols))


def _short_words(symbols: OutputSymbols) -> Iterator[str]:
    """All that two or three letters can spell: a language model of words knows some of it."""
    letters = [symbols.names[n] for n in symbols.written if n != symbols.separator]
    for length in (2, 3):
        for spelling in product(letters, repeat=length):
            yield "".join(spelling)


def _unknown_words(
    words: Sequence[str], language_model: Path, lexicon: Path, symbols: OutputSymbols
) -> str:
    """A remark on words of a lexicon that a language model does not know, or ""; UserError if it
    knows none, or is one of letters."""
    if _is_of_letters(language_model, symbols):
        raise UserError(
            f"{language_model} is a language model of letters, and {lexicon} makes words of them: "
            "leave out --lexicon, or name a language model of words"
        )
    known = vocabulary_of(language_model)
    unknown = [word for word in words if word not in known]
    if len(unknown) == len(words):
        raise UserError(
            f"{language_model} knows no word of {lexicon}, such as {words[0]!r}; both must be "
            "written alike, in upper or in lower case"
        )
    if not unknown:
        return ""
    return (
        f"{len(unknown)} of {len(words)} words of {lexicon}, such as {unknown[0]!r}, are unknown "
        f"to {language_model}: each gets the probability of unknown words"
    )


def _scorer(language_model: Path | None, names: Sequence[str]) -> Any:
    if language_model is None:
        return import_module("flashlight.lib.text.decoder").ZeroLM()
    dictionary = import_module("flashlight.lib.text.dictionary").Dictionary()
    for name in names:
        dictionary.add_entry(name)
    return open_kenlm(language_model, dictionary)


def _trie(
    entries: Sequence[Entry], words: Sequence[str], scorer: Any, symbols: OutputSymbols
) -> Any:
    """Of the spellings, each ended by the separator; scores look ahead to the best word."""
    flashlight = import_module("flashlight.lib.text.decoder")
    assert symbols.separator is not None
    separator = _column(symbols, symbols.separator)
    column = {name: index for index, name in enumerate(_column_names(symbols))}
    number = {word: index for index, word in enumerate(words)}
    trie, start = flashlight.Trie(len(column), separator), scorer.start(False)
    for word, spelling in entries:
        _, score = scorer.score(start, number[word])
        trie.insert([*(column[letter] for letter in spelling), separator], number[word], score)
    trie.smear(flashlight.SmearingMode.MAX)
    return trie


def silent_as_blank(emissions: np.ndarray, symbols: OutputSymbols) -> np.ndarray:
    """Emissions, float32 (T, V), with the probability of all silent symbols as the blank's."""
    folded = emissions.copy()
    folded[:, symbols.blank] = np.logaddexp.reduce(emissions[:, sorted(symbols.silent)], axis=1)
    return folded


def _columns(emissions: np.ndarray, symbols: OutputSymbols, *, ends_words: bool) -> np.ndarray:
    """Emissions of what can be searched: all silent symbols as one blank, and the written ones.

    Args:
        emissions: float32 (T, V).
        ends_words: add a frame in which a last word may end, since no speech has to follow it.
    """
    columns = silent_as_blank(emissions, symbols)[:, [symbols.blank, *symbols.written]]
    if ends_words:
        end = np.full((1, columns.shape[1]), _NEVER)
        end[0, _column(symbols, symbols.separator)] = 0.0
        columns = np.concatenate([columns, end])
    return np.ascontiguousarray(columns.clip(min=_NEVER), dtype=np.float32)


def _column_names(symbols: OutputSymbols) -> list[str]:
    return ["<s>", *(symbols.names[number] for number in symbols.written)]


def _column(symbols: OutputSymbols, number: int | None) -> int:
    assert number is not None
    return 1 + symbols.written.index(number)
