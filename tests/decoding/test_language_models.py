"""Language models and lexicons that fit a model, and those that are refused in one line."""

from __future__ import annotations

import gzip
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import kenlm
import pytest
from arpa import write_arpa
from emissions import SYMBOLS, UNITS, random_emissions

from speechprune.decoding import language_model as files
from speechprune.decoding.beam import BeamSearch
from speechprune.decoding.language_model import arpa_words, vocabulary_of
from speechprune.decoding.lexicon import read_lexicon
from speechprune.decoding.symbols import OutputSymbols
from speechprune.errors import UserError

MODEL = Path("model.pt")
#: What `build_binary` of KenLM makes of "AB BA" in bigrams, as hash tables.
BINARY = Path(__file__).with_name("words.bin")


@pytest.fixture
def lm(tmp_path: Path) -> Path:
    return write_arpa(tmp_path / "words.arpa", ["AB BA AB", "BA"])


def refusal(lm: Path | None, lexicon: Path | None = None, symbols: OutputSymbols = SYMBOLS) -> str:
    with pytest.raises(UserError) as caught:
        BeamSearch(MODEL, symbols, lm, lexicon).prepare()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_words_of_an_arpa_file_are_those_that_kenlm_knows(lm: Path) -> None:
    assert arpa_words(lm) == ["AB", "BA"]
    assert "AB" in vocabulary_of(lm) and "A" not in vocabulary_of(lm)


def test_a_binary_file_is_searched_like_the_text_that_it_was_made_of(tmp_path: Path) -> None:
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("AB A B |\nBA B A |\n")
    text = write_arpa(tmp_path / "words.arpa", ["AB BA"])
    for seed in range(4):
        emissions = random_emissions(7, SYMBOLS, seed)
        (one,) = BeamSearch(MODEL, SYMBOLS, BINARY, lexicon)(emissions)
        (other,) = BeamSearch(MODEL, SYMBOLS, text, lexicon)(emissions)
        assert one.text == other.text
        assert one.score == pytest.approx(other.score, abs=1e-4)
    message = refusal(BINARY)
    assert "words.bin is not a language model of the letters" in message and "--lexicon" in message


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.9])
def test_a_file_that_was_cut_is_refused(
    lm: Path, tmp_path: Path, share: float, capfd: pytest.CaptureFixture[str]
) -> None:
    for whole in (lm, BINARY):
        content = whole.read_bytes()
        cut = tmp_path / f"cut{whole.suffix}"
        cut.write_bytes(content[: int(len(content) * share)])
        lexicon = tmp_path / "lexicon.txt"
        lexicon.write_text("AB A B |\n")
        for names in (None, lexicon):
            assert str(cut) in refusal(cut, names)
    assert capfd.readouterr().err == ""


def test_what_is_no_language_model_is_refused(tmp_path: Path) -> None:
    for name, content in (("empty", b""), ("noise", bytes(range(256))), ("text", b"AB BA\n")):
        (tmp_path / name).write_bytes(content)
        assert str(tmp_path / name) in refusal(tmp_path / name)
    assert "No such file" in refusal(tmp_path / "missing.arpa")
    assert "Is a directory" in refusal(tmp_path)


def test_a_binary_file_that_ends_its_process_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    monkeypatch.setattr(files, "_PROBE", crash)
    copy = tmp_path / "crashing.bin"
    copy.write_bytes(BINARY.read_bytes())
    assert "crashing.bin is a damaged language model" in refusal(copy)


def test_letters_that_a_language_model_lacks_are_named(tmp_path: Path) -> None:
    letters = write_arpa(tmp_path / "letters.arpa", ["A | A |"])
    assert refusal(letters).endswith(
        f"{letters} is a language model of symbols that lacks some of model.pt: B"
    )
    without_end = write_arpa(tmp_path / "plain.arpa", ["A B A"])
    assert "is a language model of letters without '|'" in refusal(without_end)
    units = write_arpa(tmp_path / "units.arpa", ["a a"])
    assert refusal(units, symbols=UNITS).endswith("lacks some of model.pt: b")


def test_words_among_which_all_letters_are_make_no_model_of_letters(tmp_path: Path) -> None:
    """As the web's: searched by letters, it would write nothing right."""
    web = write_arpa(tmp_path / "web.arpa", ["AB BA | A B", "BA AB"])
    search = BeamSearch(MODEL, SYMBOLS, web)
    assert search.words == {"A", "B", "AB", "BA"}
    (found,) = search(random_emissions(7, SYMBOLS, 1))
    assert search.words.issuperset(found.words)


def test_a_lexicon_makes_no_words_for_a_model_of_letters(tmp_path: Path) -> None:
    """One of its words is a letter, which the model knows."""
    letters = write_arpa(tmp_path / "letters.arpa", ["A B | A |"])
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("A A |\nAB A B |\n")
    assert "is a language model of letters, and" in refusal(letters, lexicon)


def test_white_space_that_is_no_blank_is_part_of_a_word(tmp_path: Path) -> None:
    """For KenLM too."""
    lm = write_arpa(tmp_path / "words.arpa", ["AB BA"])
    lm.write_text(lm.read_text(encoding="utf-8").replace("AB", "A\u00a0B"), encoding="utf-8")
    assert arpa_words(lm) == ["A\u00a0B", "BA"]
    assert "A\u00a0B" in kenlm.Model(str(lm))
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("A\u00a0B A B |\r\nBA B A |\r\n", encoding="utf-8-sig")
    assert [entry.word for entry in read_lexicon(lexicon)] == ["A\u00a0B", "BA"]
    assert BeamSearch(MODEL, SYMBOLS, lm, lexicon).words == {"A\u00a0B", "BA"}


def test_a_packed_file_is_to_be_unpacked(lm: Path, tmp_path: Path) -> None:
    packed = tmp_path / "words.arpa.gz"
    packed.write_bytes(gzip.compress(lm.read_bytes()))
    assert refusal(packed) == f"{packed} is packed: unpack it by gunzip"


def test_a_file_that_was_rewritten_is_read_again(tmp_path: Path) -> None:
    lexicon = tmp_path / "lexicon.txt"
    search = BeamSearch(MODEL, SYMBOLS, lexicon=lexicon)
    for modified, words in enumerate(({"AB"}, {"BA", "AB"})):
        lexicon.write_text("".join(f"{word} {' '.join(word)} |\n" for word in words))
        os.utime(lexicon, (modified, modified))
        assert search.words == words


def test_words_in_other_letters_are_refused_or_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lower = write_arpa(tmp_path / "lower.arpa", ["ab ba"])
    message = refusal(lower)
    assert "no word of" in message and "lacks a b; its own symbols are A B" in message
    mixed = write_arpa(tmp_path / "mixed.arpa", ["AB BAC AB", "CD"])
    with caplog.at_level(logging.WARNING):
        BeamSearch(MODEL, SYMBOLS, mixed).prepare()
    (record,) = caplog.records
    assert f"2 of 3 words of {mixed} are left out: model.pt lacks C D" in record.getMessage()


def test_a_lexicon_and_a_language_model_of_other_words_are_told(
    lm: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "other").write_text("BB B B |\n")
    assert "knows no word of" in refusal(lm, tmp_path / "other")
    (tmp_path / "some").write_text("BB B B |\nAB A B |\n")
    with caplog.at_level(logging.WARNING):
        BeamSearch(MODEL, SYMBOLS, lm, tmp_path / "some").prepare()
    assert "1 of 2 words of" in caplog.records[-1].getMessage()
    assert "leave out --lexicon" in refusal(lm, tmp_path / "some", UNITS)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is a lexicon without a word"),
        (b"AB\n", ":1 is not a word with its letters"),
        (b"AB A B |\nBA |\n", ":2 is not a word with its letters"),
        (b"AB A | B\n", ":1 is not a word with its letters"),
        (b"\xff\xfe", "is not text in UTF-8"),
    ],
)
def test_what_is_no_lexicon_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "lexicon").write_bytes(content)
    with pytest.raises(UserError, match=reason):
        read_lexicon(tmp_path / "lexicon")


def test_more_words_of_one_spelling_than_a_search_tells_apart_are_refused(tmp_path: Path) -> None:
    (tmp_path / "lexicon").write_text("".join(f"W{n} A B |\n" for n in range(7)))
    assert "7 words that are spelt 'A B'" in refusal(None, tmp_path / "lexicon")


@pytest.fixture
def without_kenlm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "kenlm", None)
    yield


@pytest.mark.usefixtures("without_kenlm")
def test_a_library_that_is_not_installed_is_named(lm: Path) -> None:
    assert refusal(lm).endswith("pip install 'speechprune[lm]'")
