"""Labels: what is written in any script becomes characters or phones, and nothing goes unsaid."""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
import unicodedata
from collections import Counter

import pytest

from speechprune.errors import UserError
from speechprune.manifests.espeak import language_file, languages, phonemes
from speechprune.manifests.labels import characters, phones
from speechprune.manifests.vocabulary import LANGUAGES

# Without fairseq, which labels do not need, a process starts in a fraction of the time.
ELSEWHERE = """
import json, sys
sys.modules["fairseq"] = None
from speechprune.manifests.labels import characters, phones
made = {}
for language, text in json.load(sys.stdin).items():
    for kind in (characters, phones):
        texts, dropped = kind(language).label([text])
        made[f"{kind.__name__} {language}"] = [texts, sorted(dropped.items())]
print(json.dumps(made))
"""

SCRIPTS = {
    "en": "“It’s Café No. 5,” she said 👍",
    "de": "Zwei Größen; download!",
    "sw": "Habari ya asubuhi?",
    "es": "¿Cómo está?",
    "tr": "Işık, İstanbul’da.",
    "zh": "你好，世界",
    "ar": "مَرْحَبًا، سلام",
    "hi": "नमस्ते दुनिया।",
    "ru": "Добрый день!",
}


def label(language: str, text: str) -> tuple[str, Counter[str]]:
    texts, dropped = characters(language).label([text])
    return texts[0], dropped


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("tr", "Işık ılık, İzmir'de iyi mi?", "IŞIK ILIK İZMİR'DE İYİ Mİ"),
        ("tr", "i\u0307yi", "İYİ"),  # İ, lower-cased by software that knows no Turkish
        ("az", "Bakı gözəldir", "BAKI GÖZƏLDİR"),
        ("en", "Istanbul is it", "ISTANBUL IS IT"),
        ("de", "Größe – Straße; wie geht’s?", "GRÖẞE STRAẞE WIE GEHT'S"),
        ("fr", "« l’été » aujourd’hui : peut-être !", "L'ÉTÉ AUJOURD'HUI PEUT ÊTRE"),
        ("fr", "e\u0301te\u0301", "ÉTÉ"),
        ("es", "¿Cómo está, señor?", "CÓMO ESTÁ SEÑOR"),
        ("ky", "Жаңы өлкө, үй.", "ЖАҢЫ ӨЛКӨ ҮЙ"),
        ("tt", "Әйе — җир һәм ңүө", "ӘЙЕ ҖИР ҺӘМ ҢҮӨ"),
        ("el", "Ο λόγος, ᾳ;", "Ο ΛΌΓΟΣ ᾼ"),
        ("ka", "გამარჯობა", "გამარჯობა"),
        ("hy", "Բարև", "ԲԱՐԵՎ"),
        ("haw", "ʻōlelo Hawaiʻi", "ʻŌLELO HAWAIʻI"),
        ("uk", "п’ять, м'яч", "П'ЯТЬ М'ЯЧ"),
        ("ar", "مَرْحَبًا، كتـــاب؟", "مَرْحَبًا كتاب"),
        ("ar", "ﻻ", "لا"),
        ("fa", "می\u200cخواهم", "میخواهم"),
        ("hi", "नमस्ते, हिंदी क्या है।", "नमस्ते हिंदी क्या है"),
        ("bn", "ক্\u200dষ", "ক্ষ"),
        ("pa-IN", "ਪੰਜਾਬੀ ਹੈ।", "ਪੰਜਾਬੀ ਹੈ"),
        ("th", "น้ำ ๆ สวัสดีครับ", "น้ำ ๆ สวัสดีครับ"),
        ("am", "ሰላም፡ለዓለም።", "ሰላም ለዓለም"),
        ("ko", "안녕, 세계", "안녕 세계"),
        ("ko", "\u1112\u1161\u11ab", "한"),
        ("en", "ＡＢＣ　１２３！", "ABC 123"),
        ("en", "ﬁne ﬂag", "FINE FLAG"),
        ("af", "ŉ man en ’n vrou", "N MAN EN N VROU"),
        ("nl", "ĳs", "ĲS"),
    ],
)
def test_words_of_many_scripts(language: str, text: str, expected: str) -> None:
    made, _ = label(language, text)
    assert made == unicodedata.normalize("NFC", expected)
    assert not characters(language).units


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("zh-TW", "我愛Ｋ歌，「iPhone」 5支！", "我 愛 K 歌 I P H O N E 5 支"),
        ("zh", "你 好\t世界。", "你 好 世 界"),
        ("zh_CN", "他说：“don’t”——好", "他 说 D O N T 好"),
        ("yue", "佢哋喺度…", "佢 哋 喺 度"),
        ("nan-tw", "食飯a̍", "食 飯 A̍"),
        ("cmn", "⽇本", "日 本"),
        ("ja", "コーヒー、がんばって・人々", "コ ー ヒ ー が ん ば っ て 人 々"),
        ("ja", "ｶﾞｷﾞ か\u3099", "ガ ギ が"),
    ],
)
def test_units_of_languages_without_blanks(language: str, text: str, expected: str) -> None:
    assert label(language, text)[0] == expected
    assert characters(language).units


@pytest.mark.parametrize(
    ("text", "expected", "dropped"),
    [
        ("", "", {}),
        (" \t\n\u3000\u2028", "", {}),
        ("?!", "", {"?": 1, "!": 1}),
        ("a\tb\r\n c\u00a0d\u2009e", "A B C D E", {}),
        ("re-do and/or twenty–five", "RE DO AND OR TWENTY FIVE", {}),
        ("wait…what snake_case", "WAIT WHAT SNAKE CASE", {}),
        ("a|b | c", "A B C", {"|": 2}),
        ("Haus,Baum wait...what U.S.", "HAUS BAUM WAIT WHAT US", {",": 1, ".": 5}),
        (
            "10:30 \u0939\u0948\u0964\u0935\u0939",
            "1030 \u0939\u0948 \u0935\u0939",
            {":": 1, "\u0964": 1},
        ),
        ("3,000 or ٣٤", "3000 OR ٣٤", {",": 1}),
        ("\u200bze\u00adro\ufeff \u202bbidi\u202c", "ZERO BIDI", dict.fromkeys("\u200b\u00ad", 1)),
        ("fine 👍🏽 1\ufe0f\u20e3", "FINE 1", dict.fromkeys("👍🏽\ufe0f\u20e3", 1)),
        ("a👩\u200d🔬b", "A B", {"👩": 1, "\u200d": 1, "🔬": 1}),
        ("\u0301a ◌\u0301 a😀\u0301", "A A", {"\u0301": 3, "◌": 1, "😀": 1}),
        ("can't can’t can`t can´t canʼt", " ".join(["CAN'T"] * 5), {}),
        ("‘quoted’ 'words' rock 'n' roll", "QUOTED WORDS ROCK N ROLL", {"'": 6}),
        ("she said ''(don't).''", "SHE SAID DON'T", {"'": 4, "(": 1, ")": 1, ".": 1}),
        ("\x00\x07null\x85next", "NULL NEXT", {"\x00": 1, "\x07": 1}),
        ("lone \ud800 surrogate, \ue000", "LONE SURROGATE", {"\ud800": 1, "\ue000": 1, ",": 1}),
    ],
)
def test_what_is_dropped_is_counted(text: str, expected: str, dropped: dict[str, int]) -> None:
    made, counted = label("en", text)
    assert made == expected
    assert dropped.items() <= counted.items()
    # Besides what is listed, only the marks of direction and byte order.
    assert set(counted) - set(dropped) <= set("\ufeff\u202b\u202c")


def test_a_list_is_labelled_in_order_and_counted_together() -> None:
    texts, dropped = characters("en").label(["One.", "...", "two!", ""])
    assert (texts, dropped) == (["ONE", "", "TWO", ""], {".": 4, "!": 1})
    assert characters("en").label([]) == ([], Counter())


def test_normalized_transcripts_pass_unchanged() -> None:
    texts = ["'TIS THE BOYS' O'CLOCK", "A", "IT'S"]
    chance = random.Random(3)
    for _ in range(300):
        words = ["".join(chance.choices("ABCXYZ'", k=chance.randint(1, 9))) for _ in range(8)]
        kept = [word for word in words if word.strip("'")]
        texts += [" ".join(kept)] if kept else []
    assert characters("en").label(texts) == (texts, Counter())


# Letters of many scripts and whatever stands between them, more likely than by chance.
LIKELY = (
    "abcßiıİÅéñŉﬁĳǆﬀẗ 'ʻʼ’‘´`''  --/_|.,;:!?«»“”¿…\t\n\u200b\u200c\u200d\u00ad\ufe0f\u20e3"
    "\u0301\u0307\u0308\u0323\u0345λςᾳΐҗңүөеёიაბևամقكـَّﻻﷺनकि़्क़ाสวั้ำ我愛Ｋ５！　カｶﾞﾟが한ᄒ\u1161\u11ab"
    "👍🏽❤½²٣Ⅳ\ud800\ue000\x00\x1f\x85"
)


def random_text(chance: random.Random) -> str:
    return "".join(
        chance.choice(LIKELY) if chance.random() < 0.9 else chr(chance.randrange(0x110000))
        for _ in range(chance.randint(0, 40))
    )


@pytest.mark.parametrize("language", ["en", "tr", "el", "hi", "zh", "ja"])
def test_any_text_becomes_clean_labels_once_and_for_all(language: str) -> None:
    chance = random.Random(5)
    labels = characters(language)
    texts, _ = labels.label([random_text(chance) for _ in range(3000)])
    assert labels.label(texts)[0] == texts
    for text in texts:
        assert text == " ".join(text.split(" ")).strip()
        assert "  " not in text and "|" not in text
        assert unicodedata.is_normalized("NFC", text)
        kinds = {unicodedata.category(letter)[0] for letter in text if letter not in " '"}
        assert kinds <= set("LMN"), text
        if labels.units:
            assert all(sum(unicodedata.category(c)[0] != "M" for c in u) == 1 for u in text.split())


@pytest.mark.parametrize("language", ["en", "tr", "ru", "zh"])
def test_every_character_is_kept_or_counted(language: str) -> None:
    chance = random.Random(7)
    # Neither do these merge with each other, nor does one become several.
    alphabet = (
        "abzißıøλжңөбაכשקبتंिकสวั我愛かカ한Ｋ５9٣½'’.,!?¿«」，|()👍🏽\u200b\u200d\ufe0f\x00 -—/\n\t　"
    )
    for _ in range(500):
        text = "".join(chance.choices(alphabet, k=50))
        made, dropped = label(language, text)
        told = [letter for letter in text if letter not in " -—/\n\t　"]
        assert len(made.replace(" ", "")) + sum(dropped.values()) == len(told), text


@pytest.mark.parametrize("language", ["", "english", "e", "en us", "../en", "en-", "12"])
def test_what_is_no_language_code_is_refused(language: str) -> None:
    with pytest.raises(UserError, match="language .* is not an ISO code") as caught:
        characters(language)
    assert repr(language) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "Church, jumping!", "tʃ ɜː tʃ dʒ ʌ m p ɪ ŋ"),
        ("en-GB", "go", "ɡ əʊ"),
        ("en", "go", "ɡ oʊ"),
        ("de", "Zwei Pferde", "ts v aɪ pf eː ɾ d ə"),
        ("sw", "habari ya asubuhi", "h a b a r i j a a s u b u h i"),
        ("es", "¿Cómo está? Mucho.", "k o m o e s t a m u tʃ o"),
        ("tr", "güzel çay", "ɟ y z æ l tʃ a j"),
        ("fr", "un bon vin", "œ̃ b ɔ̃ v ɛ̃"),
        ("zh-TW", "你好", "n i2 χ ɑu2"),
        ("zh-HK", "你好", "n ei5 h ou2"),
        ("sv-SE", "hej", "h ɛ j"),
        ("ky", "жаш ата", "dʒ ɑ ʃ ɑ t̪ ɑ"),
        ("de", "download", "d aʊ n l əʊ d"),  # read by English rules
        ("ms", "kĀ", "k eː e m a k r ɔ n"),  # espeak-ng writes the length as a phoneme of its own
        ("en", "", ""),
        ("en", " ?! 😀", ""),
    ],
)
def test_phones_of_known_words(language: str, text: str, expected: str) -> None:
    labels = phones(language)
    assert labels.label([text]) == ([expected], Counter())
    assert labels.units


def test_phones_hold_no_stress_switches_or_word_ends() -> None:
    chance = random.Random(11)
    texts = [random_text(chance) for _ in range(200)] + list(SCRIPTS.values())
    for language in ("en", "de", "ru", "zh", "ja", "bg", "om", "tn", "ms"):
        made, _ = phones(language).label(texts)
        assert len(made) == len(texts)
        for text in made:
            assert text == " ".join(text.split())
            assert not set("ˈˌ|()") & set(text)
            assert text.replace(" ", "").isprintable()
            assert not any(phone.startswith(("ː", "\u0303")) for phone in text.split())


def test_phonemes_do_not_depend_on_their_neighbours() -> None:
    texts = [*SCRIPTS.values(), "", "one, two; three. Four?\n\nFive", "nul\0nul", "\ud800"]
    for language in ("en", "de", "zh"):
        together = phonemes(texts, language)
        assert together == [phonemes([text], language)[0] for text in texts]
        assert together == phonemes(texts[::-1], language)[::-1]
    assert phonemes(["Hello"], "en") == [["h", "ə", "l", "ˈoʊ"]]


def test_labels_are_the_same_in_another_process() -> None:
    output = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        input=json.dumps(SCRIPTS),
        env={**os.environ, "PYTHONHASHSEED": "7", "MALLOC_PERTURB_": "165"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    elsewhere = json.loads(output)
    for language, text in SCRIPTS.items():
        for kind in (characters, phones):
            # Labels go to the workers of a preparation.
            texts, dropped = pickle.loads(pickle.dumps(kind(language))).label([text])
            expected = [texts, [list(item) for item in sorted(dropped.items())]]
            assert elsewhere[f"{kind.__name__} {language}"] == expected


def test_languages_are_those_that_espeak_speaks() -> None:
    codes = languages()
    assert codes == sorted(set(codes)) and len(codes) > 100
    assert {"en", "de", "sw", "es", "tr", "ky", "tt", "yue", "zh", "pt-br"} <= set(codes)
    # Voices that the wheel has no dictionaries for.
    assert not {"fo", "kaa", "xex"} & set(codes)
    assert {code: language_file(code) for code in LANGUAGES} == LANGUAGES
    assert language_file("zh") == "sit/cmn"


@pytest.mark.parametrize("language", ["fo", "klingon", "nan-tw", "", "-", "english"])
def test_languages_that_espeak_does_not_speak_are_refused(language: str) -> None:
    with pytest.raises(UserError, match="espeak-ng does not speak") as caught:
        phones(language)
    assert repr(language) in str(caught.value) and "\n" not in str(caught.value)
    if language == "english":
        assert "en-gb" in str(caught.value)
