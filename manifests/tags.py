"""Tags that transcribers write beside words: `[noise]`, `<unk>`, `!SIL`, `%hesitation`.

They are those of Kaldi's recipes and their corpora (Switchboard, Fisher, CALLHOME, WSJ, TED-LIUM,
AMI, Babel, SpeechDat), of GigaSpeech, Common Voice's spontaneous speech, CHAT and subtitles.
Fillers that were spoken, such as `[uh]` and `%um`, are words.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

# Tags in every kind of bracket, and in plain ones in subtitles.
_SOUNDS = frozenset(
    """
    noise noises backgroundnoise vocnoise bgnoise buzz
    laugh laughs laughing laughter chuckle chuckles chuckling giggle giggles giggling
    applause clapping claps cheering music singing
    breath breaths breathing inhale inhales exhale exhales inhalation exhalation gasp gasps
    cough coughs coughing sneeze sneezes sneezing sniff sniffs sniffle sigh sighs sighing yawn yawns
    lipsmack lipsmacks smack smacks lsmack tsk throatclearing
    beep beeps beeping bleep rustling dialtone doorslam knocking
    silence inaudible unintelligible indiscernible incomprehensible unclear crosstalk
    ruido ruidos ruído bruit bruits geräusch geräusche rumore rumori hałas шум
    risa risas risos risada risadas rire rires gelächter risata risate śmiech смех
    música musique musik muzyka музыка aplauso aplausos applaudissements applaus applausi applauso
    oklaski аплодисменты toux husten tosse kaszel кашель
    inintelligible ininteligible ininteligível unverständlich incomprensibile неразборчиво
    笑 笑い 笑声 笑聲 音楽 音乐 音樂 拍手 掌声 掌聲 噪音 雑音 咳 咳嗽
    웃음 음악 박수 소음 기침
    """.split()
)
# Tags too, but words or abbreviations as well: not where brackets are plain.
_SYMBOLS = frozenset(
    """
    unk unknown oov unrecognized eps epsilon blank pad null na sil spn nsn nps lau sp
    hesitation hesitations hes fil filler spk sta int dtmf prompt click clicks ring rings ringing
    static overlap overlapping babble pause gap foreign redacted anonymized disfluency disfmarker
    vocalsound nonvocalsound nonspeech nospeech other disturbance bang thump tap tapping typing
    mispronounced mispronunciation falsestart truncated femaletomale maletofemale
    comma period questionmark exclamationpoint
    """.split()
)
# What only says more about another of them: [background noise], [loud_breath], [tongue_click].
_QUALIFIERS = frozenset(
    """
    background speaker spoken v human vocal vocalized nonvocal non speech no loud heavy soft deep
    long short tongue lip lips throat clear clears clearing clearsthroat door slam phone paper
    rustle chair squeak mouse keyboard male female to and continuous intermittent start end begin
    """.split()
)
_SENTENCE = re.compile(r"<+/?s>+")  # not member[s]
_SELF_CONTAINED = frozenset({"no speech", "non speech", "clears throat", "clear throat"})
# HTK's and Kaldi's; `!` begins sentences elsewhere.
_EXCLAIMED = frozenset("sil silence null enter exit unk noise spn nsn".split())
# NIST's .stm files, whose whole transcripts they are.
_WHOLE = frozenset({"ignore_time_segment_in_scoring", "inter_segment_gap"})

_PLAIN = "(（*"
_BRACKETED = re.compile(
    r"[\[［【]{1,2}[^][［］【】]{1,60}[\]］】]{1,2}|[<＜]{1,2}[^<>＜＞]{1,60}[>＞]{1,2}"
    r"|[{｛]{1,2}[^{}｛｝]{1,60}[}｝]{1,2}|[(（]{1,2}[^()（）]{1,60}[)）]{1,2}"
    r"|\*{1,2}[^* ]{1,60}\*{1,2}|\+\+[^+ ]{1,60}\+\+"
)
_SIGNED = re.compile(r"(?<!\S)([!%])([^\W\d]+)(?!\w)|(?<!\S)&=[\w:-]+")
_SIGNS = frozenset("[<{(［＜｛（【*+!%&_")
_ATTRIBUTES = re.compile(r"\s[\w:-]+\s*=\s*(\"[^\"]*\"|'[^']*'|\S+)")
_NO_LETTERS = re.compile(r"[\W\d_]+")
_LAUGHED = re.compile(r"\[laughter-([^][]+)\]", re.IGNORECASE)


def without_tags(transcript: str, dropped: Counter[str]) -> str:
    """The transcript with a space for each tag; the tags are counted as they are written.

    Words that were said laughing, `[laughter-yes]` in Switchboard, stay.
    """
    if _SIGNS.isdisjoint(transcript):
        return transcript
    if transcript.strip().lower() in _WHOLE:
        dropped[transcript.strip()] += 1
        return ""

    def laughed(match: re.Match[str]) -> str:
        if _is_tag(match[0]):
            return match[0]
        dropped["[laughter-]"] += 1
        return f" {match[1]} "

    def replaced(match: re.Match[str]) -> str:
        if not (_is_signed_tag(match) if match.re is _SIGNED else _is_tag(match[0])):
            return match[0]
        dropped[match[0]] += 1
        return " "

    text = _LAUGHED.sub(laughed, transcript)
    return _SIGNED.sub(replaced, _BRACKETED.sub(replaced, text))


def _is_tag(bracketed: str) -> bool:
    if _SENTENCE.fullmatch(bracketed):
        return True
    words = _words(_ATTRIBUTES.sub("", bracketed))
    known = _SOUNDS if bracketed[0] in _PLAIN else _SOUNDS | _SYMBOLS
    if " ".join(words) in _SELF_CONTAINED or "".join(words) in known:
        return True
    return any(word in known for word in words) and all(w in known | _QUALIFIERS for w in words)


def _is_signed_tag(match: re.Match[str]) -> bool:
    sign, name = match[1], "".join(_words(match[2] or ""))
    return sign is None or name in (_EXCLAIMED if sign == "!" else _SOUNDS | _SYMBOLS)


def _words(text: str) -> list[str]:
    return _NO_LETTERS.sub(" ", unicodedata.normalize("NFC", text).casefold()).split()
