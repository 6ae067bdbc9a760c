"""What a language writes in several ways, or means otherwise than others do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

#: What stands for an apostrophe: also the prime, and the marks of Armenian and Hebrew.
APOSTROPHES = frozenset("'’‘‛ʼ´`′՚׳")

#: What is found, and what it becomes.
Rule = tuple[re.Pattern[str], str]

_LETTER = r"[^\W\d_]"
_ANY_APOSTROPHE = f"[{''.join(sorted(APOSTROPHES))}ʻ]"


def _rule(found: str, made: str) -> Rule:
    return re.compile(found), made


# Quotation marks within a Hebrew or Yiddish word are gershayim, of abbreviations such as צה"ל.
_GERSHAYIM = _rule('["“”„](?<=[\u0591-\u05f2].)(?=[\u05d0-\u05f2])', "")
# Where text has no blanks between words, it tells where lines may be broken.
_ZERO_WIDTH_SPACE = _rule("\u200b+", " ")
_UNBROKEN = frozenset({"th", "lo", "km", "my", "shn", "nod", "bo", "dz"})

# Software that lower-cases İ without knowing Turkish makes i and a dot above of it.
_TURKISH = _rule("i\u0307", "i")
# EU:n, USA:s.
_COLON = _rule(f"(?<={_LETTER})[:：](?={_LETTER})", "")
# A letter, for which any apostrophe is typed.
_OKINA = _rule(f"{_ANY_APOSTROPHE}(?=[aeiouāēīōūAEIOUĀĒĪŌŪ])", "ʻ")
_OWN: Mapping[str, tuple[Rule, ...]] = {
    "tr": (_TURKISH,),
    "az": (_TURKISH,),
    "crh": (_TURKISH,),
    "gag": (_TURKISH,),
    # The dot is written where an accent follows, but an upper-case letter has none.
    "lt": (_rule("(?<=[ijįIJĮ])\u0307", ""),),
    "uz": (_rule(f"(?<=[oOgG]){_ANY_APOSTROPHE}", "ʻ"),),
    "haw": (_OKINA,),
    "sm": (_OKINA,),
    "to": (_OKINA,),
    "ty": (_OKINA,),
    # A ligature in the middle of sentences, two letters where they begin.
    "hy": (_rule("և|[եԵ][ւՒ]", "եվ"),),
    "hyw": (_rule("և", "եւ"),),
    "fi": (_COLON,),
    "sv": (_COLON,),
    "se": (_COLON,),
    # Schüler*innen.
    "de": (_rule(f"(?<={_LETTER})[*:_](?=[iI]n(?:nen)?\\b)", ""),),
    # Between words here: a comma of Korean, a semicolon of Greek.
    "ko": (_rule("[·‧•ㆍ]", " "),),
    "el": (_rule("[·\u0387]", " "),),
}


# Speech synthesis would name them; in Catalan it knows how two l are read.
_DOT = _rule(f"[·‧•∙⋅](?<={_LETTER}.)(?={_LETTER})", "")


@cache
def rules(language: str) -> tuple[Rule, ...]:
    """What to replace in transcripts of a language, by its primary code, before anything else."""
    common = (_GERSHAYIM,) if language in _UNBROKEN else (_GERSHAYIM, _ZERO_WIDTH_SPACE)
    return common + _OWN.get(language, ())


def spoken_rules(language: str) -> tuple[Rule, ...]:
    """What to replace in transcripts that will be read aloud, in a language given by its code."""
    return () if re.match("ca(?![a-z])", language) else (_DOT,)


def has_own_rules(language: str) -> bool:
    """Whether a language writes something as no other does."""
    return language in _OWN
