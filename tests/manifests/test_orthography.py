"""What languages write in their own way: marks within words part nothing."""

from __future__ import annotations

import unicodedata

import pytest
import regex  # knows Unicode's Word_Break, which Python does not

from speechprune.manifests.labels import characters, phones


def label(language: str, text: str) -> str:
    return characters(language).label([text])[0][0]


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        (
            "ca",
            "col·legi col•legi col‧legi CEL·LA, l'home · dona",
            "COLLEGI " * 3 + "CELLA L'HOME DONA",
        ),
        ("fr", "étudiant·e·s", "ÉTUDIANTES"),
        ("he", 'צה"ל צה״ל צה”ל', "צהל צהל צהל"),
        ("he", "ג׳ירפה ג'ירפה", "ג'ירפה ג'ירפה"),
        ("he", 'אמר "שלום", ה"ארץ"', "אמר שלום הארץ"),
        ("yi", 'שׂ"ר', "שׂר"),
        ("en", 'he said "yes",and "no"', "HE SAID YES AND NO"),
        ("hy", "Ի՞նչ Այո՛, և Եւ Եվ", "ԻՆՉ ԱՅՈ ԵՎ ԵՎ ԵՎ"),
        ("hyw", "Եւ և", "ԵՒ ԵՒ"),
        ("hi", "डॉ॰ ई॰पू॰", "डॉ ईपू"),
        ("vi", "ma˥˩ma", "MAMA"),
        ("uk", "м’ята м′ята", "М'ЯТА М'ЯТА"),
        ("uz", "oʻzbek o'zbek o‘zbek OʼZBEK tog‘ ma'no", "OʻZBEK " * 4 + "TOGʻ MA'NO"),
        ("haw", "Hawaiʻi Hawai'i Hawai‘i", "HAWAIʻI HAWAIʻI HAWAIʻI"),
        ("fi", "EU:n klo 3:30, huom: tämä", "EUN KLO 330 HUOM TÄMÄ"),
        ("en", "note:this at 3:30", "NOTE THIS AT 330"),
        ("de", "Schüler*innen Lehrer:innen a*b", "SCHÜLERINNEN LEHRERINNEN A B"),
        ("ko", "서울·부산ㆍ인천", "서울 부산 인천"),
        ("el", "είπε·και", "ΕΊΠΕ ΚΑΙ"),
        ("lt", "i\u0307\u0300 i\u0307\u0301", "Ì Í"),
        ("en", "hello\u200bworld", "HELLO WORLD"),
        ("km", "ក\u200bខ", "កខ"),
    ],
)
def test_spelling_of_languages(language: str, text: str, expected: str) -> None:
    made = label(language, text)
    assert made == unicodedata.normalize("NFC", expected)
    assert label(language, made) == made


def test_what_unicode_has_within_words_parts_none() -> None:
    within = regex.compile(r"[\p{WB=ALetter}\p{WB=MidLetter}\p{WB=MidNumLet}\p{WB=Hebrew_Letter}]")
    # Hyphens part words here, and the colon in most languages; a circled letter is a symbol.
    others = {"Pd", "So"}
    for code in range(0x110000):
        mark = chr(code)
        if unicodedata.category(mark)[0] not in "PS" or not within.match(mark):
            continue
        if unicodedata.category(mark) in others or unicodedata.normalize("NFKC", mark) == ":":
            continue
        made, dropped = characters("en").label([f"ab{mark}cd"])
        assert made in (["ABCD"], ["AB'CD"]), hex(code)
        assert made == ["AB'CD"] or dropped == {mark: 1}


def test_dots_within_words_are_not_read_aloud() -> None:
    assert phones("fr").label(["été·s"]) == (phones("fr").label(["étés"])[0], {"·": 1})
    assert phones("ca").label(["col·legi"]) == (["k u l l ɛ ʒ i"], {})
