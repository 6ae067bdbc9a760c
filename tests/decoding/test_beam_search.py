"""The beam search against all paths of small emissions, scored by KenLM itself."""

from __future__ import annotations

import pickle
from pathlib import Path

import kenlm
import numpy as np
import pytest
from arpa import write_arpa
from emissions import SYMBOLS, UNITS, best_paths, random_emissions

from speechprune.decoding.beam import BeamSearch
from speechprune.decoding.hypothesis import GreedySearch
from speechprune.decoding.symbols import OutputSymbols
from speechprune.errors import UserError

MODEL = Path("model.pt")
SENTENCES = ("A AB", "AB BA AB", "BA", "A A BA")
SEEDS = range(12)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_arpa(tmp_path_factory.mktemp("lm") / "words.arpa", SENTENCES)


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spelt = [" | ".join(" ".join(word) for word in line.split()) + " |" for line in SENTENCES]
    return write_arpa(tmp_path_factory.mktemp("lm") / "letters.arpa", spelt)


def by_all_paths(
    emissions: np.ndarray, lm: Path, known: set[str], lm_weight: float, word_score: float
) -> dict[str, float]:
    """The score of each text of known words: a last word may end without its separator."""
    model, best = kenlm.Model(str(lm)), {}
    for tokens, score in best_paths(emissions, SYMBOLS).items():
        text = SYMBOLS.text(tokens)
        if known.issuperset(text.split()):
            score += lm_weight * model.score(text) + word_score * len(text.split())
            best[text] = max(score, best.get(text, -np.inf))
    return best


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("lm_weight", "word_score"), [(0.0, 0.0), (1.5, 0.0), (0.7, -1.3)])
def test_words_of_a_language_model_are_searched_exactly(
    words: Path, seed: int, lm_weight: float, word_score: float
) -> None:
    emissions = random_emissions(6, SYMBOLS, seed)
    expected = by_all_paths(emissions, words, {"A", "AB", "BA"}, lm_weight, word_score)
    search = BeamSearch(
        MODEL, SYMBOLS, words, beam=5000, nbest=5, lm_weight=lm_weight, word_score=word_score
    )
    found = search(emissions)
    in_order = sorted(expected, key=lambda text: -expected[text])
    assert [each.text for each in found] == in_order[:5]
    for each in found:
        assert each.score == pytest.approx(expected[each.text], abs=1e-4)
        assert SYMBOLS.text(each.tokens) == each.text
        lm = kenlm.Model(str(words)).score(each.text)
        assert each.language_score == pytest.approx(lm, abs=1e-4)
        total = each.emission_score + lm_weight * lm + word_score * len(each.words)
        assert each.score == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_letters_of_a_language_model_are_searched_exactly(letters: Path, seed: int) -> None:
    emissions = random_emissions(6, SYMBOLS, seed)
    model = kenlm.Model(str(letters))
    expected: dict[str, float] = {}
    for tokens, score in best_paths(emissions, SYMBOLS).items():
        text = SYMBOLS.text(tokens)
        score += 1.2 * model.score(" ".join(SYMBOLS.names[n] for n in tokens))
        expected[text] = max(score, expected.get(text, -np.inf))
    found = BeamSearch(MODEL, SYMBOLS, letters, beam=5000, nbest=4, lm_weight=1.2)(emissions)
    assert [each.text for each in found] == sorted(expected, key=lambda t: -expected[t])[:4]
    assert [each.score for each in found] == pytest.approx(
        [expected[each.text] for each in found], abs=1e-4
    )


@pytest.mark.parametrize("symbols", [SYMBOLS, UNITS], ids=["letters", "units"])
@pytest.mark.parametrize("seed", SEEDS)
def test_without_a_language_model_the_best_path_wins(symbols: OutputSymbols, seed: int) -> None:
    emissions = random_emissions(6, symbols, seed)
    paths = best_paths(emissions, symbols)
    (found,) = BeamSearch(MODEL, symbols, beam=5000)(emissions)
    assert found.text == symbols.text(max(paths, key=lambda tokens: paths[tokens]))
    assert found.score == pytest.approx(max(paths.values()), abs=1e-4)


def test_a_beam_of_one_is_greedy_where_the_model_is_sure() -> None:
    path = [0, 5, 5, 0, 5, 4, 0, 6, 0, 4, 4]
    emissions = np.log(np.full((len(path), 7), 0.01) + 0.9 * np.eye(7)[path]).astype(np.float32)
    (greedy,) = GreedySearch(SYMBOLS)(emissions)
    (beam,) = BeamSearch(MODEL, SYMBOLS, beam=1, with_spans=True)(emissions)
    assert greedy.text == beam.text == "AA B"
    assert greedy.spans == beam.spans
    assert greedy.tokens == beam.tokens


def test_a_lexicon_tells_what_is_written_and_how_it_is_spelt(tmp_path: Path, words: Path) -> None:
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("AB A B |\nBA B A\nBA B B A\n")
    path = [6, 0, 6, 5, 4, 5, 6, 0, 4]
    emissions = np.log(np.full((len(path), 7), 0.02) + 0.8 * np.eye(7)[path]).astype(np.float32)
    (found,) = BeamSearch(MODEL, SYMBOLS, words, lexicon, with_spans=True)(emissions)
    assert found.words == ("BA", "AB")
    assert [SYMBOLS.names[number] for number in found.tokens] == list("BBA|AB|")
    assert found.spans[0] == (0, 1) and found.spans[3] == (4, 5)
    (without,) = BeamSearch(MODEL, SYMBOLS, None, lexicon)(emissions)
    assert without.words == ("BA", "AB") and without.language_score == 0


def test_scores_are_probabilities_where_no_word_could_end(tmp_path: Path) -> None:
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("AB A B\nBA B A\n")
    path = [5, 6, 4, 5, 6, 6]
    emissions = np.log(np.full((len(path), 7), 0.02) + 0.8 * np.eye(7)[path]).astype(np.float32)
    for beam in (1, 2, 5, 50):
        (found,) = BeamSearch(MODEL, SYMBOLS, None, lexicon, beam=beam)(emissions)
        assert emissions.min() * len(path) <= found.emission_score <= 0, beam
        assert found.score == found.emission_score


def test_nothing_is_found_in_nothing(words: Path) -> None:
    (found,) = BeamSearch(MODEL, SYMBOLS, words)(np.empty((0, 7), dtype=np.float32))
    assert found.text == "" and found.tokens == ()


def test_searches_are_pickled_without_what_they_read(words: Path) -> None:
    search = BeamSearch(MODEL, SYMBOLS, words, nbest=3)
    emissions = random_emissions(8, SYMBOLS, 1)
    before = search(emissions)
    data = pickle.dumps(search)
    assert len(data) < 1000 and pickle.loads(data)(emissions) == before


def test_a_score_for_words_needs_words(letters: Path) -> None:
    with pytest.raises(UserError, match="--word-score 1 is for the words of a lexicon"):
        BeamSearch(MODEL, SYMBOLS, letters, word_score=1.0).prepare()
