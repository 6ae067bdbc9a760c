"""Transcripts as people write them become the labels of CTC: characters, or phones.

Characters are upper-case letters with their marks, digits, and apostrophes inside words. Tags such
as `[noise]` are dropped, and counted. So are punctuation, symbols, emoji, control and format
characters; also the zero-width non-joiner, which has no sound: the parts of a Persian word that it
keeps from being linked become one word. Punctuation parts words, but for marks within words (U.S.
is US, Catalan col·legi is COLLEGI) and what stands within numbers. Only white
space, dashes and slashes go uncounted.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from typing import Literal, Sequence, Union

from speechprune.errors import UserError
from speechprune.manifests.espeak import language_file, phonemes
from speechprune.manifests.orthography import (
    APOSTROPHES,
    has_own_rules,
    rules,
    spoken_rules,
)
from speechprune.manifests.tags import without_tags

_CODE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{1,8})*")
# No blanks between words, so that a character stands alone: Chinese languages and Japanese.
_UNSPACED = frozenset({"zh", "cmn", "yue", "nan", "wuu", "ja"})
# Their i keeps its dot in upper case, and I has none: Turkish, Azerbaijani, and their like.
_DOTTED = frozenset({"tr", "az", "crh", "gag"})

# LibriSpeech and its like: what is normalized already keeps the apostrophes of 'TIS and BOYS'.
_NORMALIZED = re.compile(r"'*[A-Z][A-Z']*(?: '*[A-Z][A-Z']*)*")

# Stands where punctuation was until apostrophes and marks have been judged by their neighbours.
_GAP = "\0"
# The same where it parts words: any but marks within words, and those in numbers.
_BREAK = "\1"
_ELLIPSIS = re.compile(f"{_GAP}{_GAP}+")
_IN_NUMBER = re.compile(rf"(?<=\d){_BREAK}(?=\d)")
_QUOTES = re.compile(r"''+|(?<![^ \0\1])'|'(?![^ \0\1])")
_EVERY_APOSTROPHE = re.compile(r"'")
# Within words stand full stops of abbreviations; the dots of Catalan, Gascon and French; Armenian's
# marks of stress, exclamation and question, on a vowel; gershayim. With the modifier symbols, they
# are what Unicode's annex 29 (Word_Break: ALetter, MidLetter, MidNumLet) has within words, but for
# the colon, which only some languages have there; and bullets that are typed for dots, and the
# abbreviation signs of India.
_WITHIN_WORDS = frozenset(".․﹒·\u0387‧•∙⋅՛՜՞՟״॰૰৽")
# Besides dashes: slashes, minus, low line, ellipses, and what Ethiopic and Tibetan put between
# words, where no blank follows.
_BOUNDARIES = frozenset("/\\⁄∕−_…‥፡።፣፤፥፦፧፨་།༎")
# Wide and narrow forms of East Asia, and the shapes that Arabic letters take; other compatibility
# characters, such as Thai's vowel am, are letters in their own right.
_FOLDED = frozenset({"<wide>", "<narrow>", "<isolated>", "<initial>", "<medial>", "<final>"})
_LIGATURES = frozenset(map(chr, range(0xFB00, 0xFB18)))
_RADICALS = frozenset(map(chr, range(0x2F00, 0x2FD6)))
_TATWEEL = "ـ"
# Marks without sound: grapheme joiner, Mongolian and other variation selectors.
_SILENT = re.compile("[\u034f\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")

_STRESS = str.maketrans("", "", "ˈˌ")
# Symbols that espeak-ng has no IPA for come in its ASCII; `|` would end a word.
_FROM_ASCII = str.maketrans("|:?[NSXZ", "ǀːʔ\u032aŋʃχʒ")
# What never stands alone: length and combining marks.
_TRAILING = re.compile("[\u0300-\u036fːˑ]")


@dataclass(frozen=True)
class CharacterLabels:
    """Labels that are characters; `characters` makes them.

    Attributes:
        units: each character, with its marks, stands alone, and there are no words.
        dotted: i is upper-cased to İ.
        language: whose spelling is known.
    """

    units: bool = False
    dotted: bool = False
    language: str = field(default="", repr=False)

    def label(self, transcripts: Sequence[str]) -> tuple[list[str], Counter[str]]:
        """Words or units parted by single spaces, and how often which character or tag was dropped.

        A text is "" where nothing is left. Apostrophes of all kinds are counted as `'`.
        """
        dropped: Counter[str] = Counter()
        return [self._label(transcript, dropped) for transcript in transcripts], dropped

    def _label(self, transcript: str, dropped: Counter[str]) -> str:
        plain = not self.units and not has_own_rules(self.language)
        if plain and _NORMALIZED.fullmatch(transcript):
            return transcript
        transcript = without_tags(transcript, dropped)
        for found, made in rules(self.language):
            transcript = _replace(found, made, transcript, dropped)
        table = _table(self.dotted)
        text = transcript.translate(table)
        for character in table.dropped.intersection(transcript):
            dropped[character] += transcript.count(character)
        marked = not table.marks.isdisjoint(text)
        if marked:
            text = _replace(_stray_marks(), "", text, dropped)
        if "'" in text:
            text = _replace(_EVERY_APOSTROPHE if self.units else _QUOTES, "", text, dropped)
        text = _IN_NUMBER.sub("", _ELLIPSIS.sub(" ", text))
        text = text.replace(_GAP, "").replace(_BREAK, " ")
        text = unicodedata.normalize("NFC", text)
        if self.units:
            return " ".join(_unit().findall(text) if marked else text.replace(" ", ""))
        return " ".join(text.split())


def characters(language: str) -> CharacterLabels:
    """Character labels for a language, by its ISO code, such as "en", "tr" or "zh-TW".

    Raises UserError for anything that is not such a code.
    """
    if not _CODE.fullmatch(language):
        raise UserError(f"language {language!r} is not an ISO code; give one such as en or zh-TW")
    primary = re.split("[-_]", language.lower())[0]
    return CharacterLabels(primary in _UNSPACED, primary in _DOTTED, primary)


@dataclass(frozen=True)
class PhoneLabels:
    """Labels that are phones, by espeak-ng; `phones` makes them."""

    language: str
    units: bool = True

    def label(self, transcripts: Sequence[str]) -> tuple[list[str], Counter[str]]:
        """IPA phones parted by single spaces, without stress or words.

        Tags are dropped, and dots within words.

        Long lists are faster: each call loads the language's rules, in up to 3 ms.
        """
        dropped: Counter[str] = Counter()
        texts = [without_tags(transcript, dropped) for transcript in transcripts]
        for found, made in spoken_rules(self.language):
            texts = [_replace(found, made, text, dropped) for text in texts]
        # Of nothing but punctuation, espeak-ng would read the names.
        readable = [text if any(map(str.isalnum, text)) else "" for text in texts]
        return [_phones(read) for read in phonemes(readable, self.language)], dropped


def phones(language: str) -> PhoneLabels:
    """Phone labels for a language, by its ISO code.

    Raises UserError if espeak-ng does not speak it.
    """
    language_file(language)
    return PhoneLabels(language)


#: What transcripts can become.
LabelKind = Literal["characters", "phones"]


def make_labels(kind: LabelKind, language: str) -> Union[CharacterLabels, PhoneLabels]:
    """Labels of a kind for a language. Raises UserError as `characters` and `phones`."""
    return phones(language) if kind == "phones" else characters(language)


def _phones(read: Sequence[str]) -> str:
    made: list[str] = []
    for phoneme in read:
        phone = phoneme.translate(_STRESS).translate(_FROM_ASCII)
        phone = "".join(character for character in phone if character.isprintable())
        if not _TRAILING.match(phone):
            made += [phone] if phone else []
        elif made:
            made[-1] += phone
    return " ".join(made)


class _Table(dict):
    """For `str.translate`: what becomes of a character, judged when it is first met.

    Attributes:
        dropped: the characters met so far of which nothing is left.
        marks: the combining marks that were made so far.
    """

    def __init__(self, dotted: bool) -> None:
        super().__init__()
        self.dropped: set[str] = set()
        self.marks: set[str] = set()
        self._dotted = dotted

    def __missing__(self, code: int) -> str:
        character = chr(code)
        pieces = "".join(_upper(piece, self._dotted) for piece in _fold(character))
        # Composed at once, so that `marks` has those of a letter that NFC takes apart.
        made = unicodedata.normalize("NFC", "".join(map(_judge, pieces)))
        self.marks.update(piece for piece in made if unicodedata.category(piece)[0] == "M")
        if not made.strip(_GAP + _BREAK):
            self.dropped.add(character)
        self[code] = made
        return made


@cache
def _table(dotted: bool) -> _Table:
    return _Table(dotted)


def _fold(character: str) -> str:
    """The characters that a compatibility character stands for, where nothing is lost by that."""
    kind, *codes = unicodedata.decomposition(character).split() or [""]
    # ŉ is an apostrophe and n.
    if kind in _FOLDED or character in _LIGATURES | _RADICALS | {"ŉ"}:
        return "".join(_fold(chr(int(code, 16))) for code in codes)
    return character


def _upper(character: str, dotted: bool) -> str:
    """One upper-case letter, perhaps with marks; the letter itself if it has none."""
    if character == "i" and dotted:
        return "İ"
    if character == "ß":
        return "ẞ"
    # Georgian is written without capitals, though Unicode has some for headlines.
    if unicodedata.name(character, "").startswith("GEORGIAN MTAVRULI"):
        return character.lower()
    if unicodedata.category(character)[0] == "M" or "\u10d0" <= character <= "\u10ff":
        return character
    # Armenian և would become two letters, and Greek ᾳ has one in title case alone.
    for made in (character.upper(), character.title()):
        if sum(unicodedata.category(piece)[0] != "M" for piece in made) == 1:
            return made
    return character


def _judge(character: str) -> str:
    """The character if it is kept, a space, an apostrophe, a gap (punctuation), or nothing."""
    category = unicodedata.category(character)
    if character in APOSTROPHES:
        return "'"
    if character.isspace() or category == "Pd" or character in _BOUNDARIES:
        return " "
    if category == "Sk":  # tone letters, which may come in a row
        return ""
    if category[0] in "PS":
        return _GAP if character in _WITHIN_WORDS else _BREAK
    # Enclosing marks make symbols, such as keycaps.
    if category[0] == "C" or category == "Me" or character == _TATWEEL or _SILENT.match(character):
        return ""
    return character


def _replace(pattern: re.Pattern[str], made: str, text: str, dropped: Counter[str]) -> str:
    """The text with something else for the matches, whose characters are counted if it is blank."""

    def count(match: re.Match[str]) -> str:
        if not made.strip():
            dropped.update(match.group())
        return made

    return pattern.sub(count, text)


@cache
def _marks() -> str:
    """The inside of a regular expression's set: all combining marks."""
    categories = (unicodedata.category(chr(code)) for code in range(sys.maxunicode + 1))
    ranges, start = [], 0
    for is_mark, group in groupby(category[0] == "M" for category in categories):
        end = start + sum(1 for _ in group)
        if is_mark:
            ranges.append(f"{chr(start)}-{chr(end - 1)}")
        start = end
    return "".join(ranges)


@cache
def _stray_marks() -> re.Pattern[str]:
    """Marks with no letter before them, such as those of a symbol that was dropped."""
    return re.compile(rf"(?<![^ \0\1'])[{_marks()}]+")


@cache
def _unit() -> re.Pattern[str]:
    return re.compile(rf"[^ {_marks()}][{_marks()}]*")
