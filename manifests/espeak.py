"""Speech and phonemes from espeak-ng, through ctypes: the same arguments, the same results.

The library and its voice data come with the `espeakng-loader` wheel; nothing is installed.
"""

from __future__ import annotations

import _ctypes
import ctypes
import os
import re
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Iterator, Mapping, Sequence

import espeakng_loader
import numpy as np
import soxr

from speechprune.errors import UserError
from speechprune.manifests.audio import SAMPLE_RATE

NATIVE_RATE = 22050

# Constants of espeak-ng's public header, speak_lib.h.
_SYNCHRONOUS = 2
_DO_NOT_EXIT = 0x8000
_CHARACTERS_UTF8 = 1
_RATE, _PITCH = 1, 3
_IPA_PARTED_BY_SPACES = 2 | ord(" ") << 8
_USUAL_PRIORITY = 5
_LONGEST_DATA_PATH = 140

# Between "(en)" and "(de)", German text is read by the rules of English.
_LANGUAGE_SWITCH = re.compile(r"\([^()]*\)")
# "en" alone is American, as in `vocabulary.LANGUAGES` and LibriSpeech; espeak-ng itself would
# take the British voice. Common Voice's "zh-HK" is Cantonese, not Mandarin.
_OURS = {"en": "gmw/en-US", "zh-hk": "sit/yue"}

_SAMPLES = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Voice:
    """Who speaks, and how.

    Attributes:
        language: espeak-ng language file, such as "gmw/en-US" (found without a directory scan,
            whose order would depend on the file system) or a language code such as "de".
        variant: timbre, a file of espeak-ng's `voices/!v`, such as "f3".
        rate: words per minute, 80 to 450.
        pitch: 0 to 99; 50 is the variant's own.
    """

    language: str
    variant: str
    rate: int = 175
    pitch: int = 50

    def __post_init__(self) -> None:
        if not 80 <= self.rate <= 450:
            raise UserError(f"speaking rate {self.rate} is outside 80 to 450 words per minute")
        if not 0 <= self.pitch <= 99:
            raise UserError(f"pitch {self.pitch} is outside 0 to 99")


def synthesize(text: str, voice: Voice) -> np.ndarray:
    """Speak `text`: int16 samples (T,) at `NATIVE_RATE`.

    Raises UserError for a voice that espeak-ng does not have.
    """
    chunks: list[bytes] = []

    def receive(samples: ctypes._Pointer[ctypes.c_short], count: int, _events: int) -> int:
        if samples and count > 0:
            chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    callback = _SAMPLES(receive)
    encoded = text.encode("utf-8") + b"\0"
    with _one_at_a_time, _pristine_library() as library:
        library.espeak_SetSynthCallback(callback)
        name = f"{voice.language}+{voice.variant}"
        # espeak-ng itself passes over a variant that it does not have.
        known = voice.variant in os.listdir(Path(espeakng_loader.get_data_path(), "voices", "!v"))
        if not known or library.espeak_SetVoiceByName(name.encode("utf-8")) != 0:
            raise UserError(f"espeak-ng has no voice {name!r}; a voice is LANGUAGE+VARIANT")
        library.espeak_SetParameter(_RATE, voice.rate, 0)
        library.espeak_SetParameter(_PITCH, voice.pitch, 0)
        library.espeak_Synth(
            ctypes.c_char_p(encoded),
            ctypes.c_size_t(len(encoded)),
            0,
            1,
            0,
            _CHARACTERS_UTF8,
            None,
            None,
        )
    return np.frombuffer(b"".join(chunks), dtype=np.int16)


def speak(text: str, voice: Voice) -> np.ndarray:
    """Speak `text`: float32 samples (T,) in [-1, 1] at `SAMPLE_RATE`. Raises as `synthesize`."""
    samples = synthesize(text, voice).astype(np.float32) / 32768.0
    return soxr.resample(samples, NATIVE_RATE, SAMPLE_RATE).clip(-1.0, 1.0)


def phonemes(texts: Sequence[str], language: str) -> list[list[str]]:
    """How each text is pronounced: IPA as espeak-ng writes it, one string per phoneme.

    Stress marks stay with their phoneme ("ˈuː"); diphthongs and affricates are one phoneme, and
    tones are digits behind the vowel ("i2"). Emoji, and letters of other scripts, are read by
    their names. What a text gives does not depend on its neighbours.

    Raises as `language_file`.
    """
    name = language_file(language).encode("utf-8")
    with _one_at_a_time, _pristine_library() as library:
        if library.espeak_SetVoiceByName(name) != 0:
            raise UserError(f"espeak-ng cannot load its language file {name.decode()!r}")
        library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        return [_pronounce(library, text) for text in texts]


def _pronounce(library: ctypes.CDLL, text: str) -> list[str]:
    encoded = text.replace("\0", " ").encode("utf-8", "replace")
    rest = ctypes.cast(ctypes.c_char_p(encoded), ctypes.c_void_p)
    clauses = []
    # Each call reads one clause and moves `rest` behind it, to NULL at the end.
    while rest.value is not None:
        clause = library.espeak_TextToPhonemes(
            ctypes.byref(rest), _CHARACTERS_UTF8, _IPA_PARTED_BY_SPACES
        )
        clauses.append((clause or b"").decode("utf-8", "replace"))
    return _LANGUAGE_SWITCH.sub(" ", " ".join(clauses)).split()


def languages() -> list[str]:
    """The codes of all languages that espeak-ng speaks, in lower case, sorted."""
    return sorted(_language_files())


def language_file(language: str) -> str:
    """The espeak-ng language file, as in `Voice.language`, for a code such as "tr" or "pt-BR".

    A region that espeak-ng does not know is left out: "sv-SE" is "sv".

    Raises UserError if espeak-ng does not speak the language.
    """
    files = _language_files()
    code = language.lower().replace("_", "-")
    while code and code not in files:
        code = code.rpartition("-")[0]
    if code:
        return files[code]
    near = sorted(known for known in files if known[:2] == language[:2].lower())[:5]
    hint = f"its nearest codes are {', '.join(near)}" if near else "use a code such as en or pt-br"
    raise UserError(f"espeak-ng does not speak {language!r}; {hint}")


@cache
def _language_files() -> Mapping[str, str]:
    """Language file by code; of several, the one that espeak-ng ranks first."""
    data = Path(espeakng_loader.get_data_path())
    found = []
    for path in (data / "lang").rglob("*"):
        if path.is_file():
            lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
            codes = [line[1:] for line in lines if line[:1] == ["language"]]
            named = [line[1] for line in lines if line[:1] == ["dictionary"]]
            dictionary = named[0] if named else codes[0][0].lower().partition("-")[0]
            # The wheel has voices without their dictionaries; they read every word wrongly.
            if not (data / f"{dictionary}_dict").is_file():
                continue
            name = path.relative_to(data / "lang").as_posix()
            for code, *priority in codes:
                rank = int(priority[0]) if priority else _USUAL_PRIORITY
                # The shorter name: Mandarin is written in characters before pinyin.
                found.append((rank, len(name), name, code.lower()))
    best = {code: name for _, _, name, code in sorted(found, reverse=True)}
    return {**best, **_OURS}


@contextmanager
def _pristine_library() -> Iterator[ctypes.CDLL]:
    """Load espeak-ng, and unload it afterwards.

    Pitch flutter and phases live in static variables that neither `espeak_Terminate` nor
    `espeak_ng_SetRandSeed` resets, so that what was spoken before would change what is spoken
    next. A library loaded afresh (half a millisecond) has no past.
    """
    path = espeakng_loader.get_library_path()
    _refuse_if_loaded(path)
    library = ctypes.CDLL(path)
    try:
        data = str(Path(espeakng_loader.get_data_path()).parent)
        # espeak-ng cuts longer paths silently, in a buffer of 160 bytes.
        if len(os.fsencode(data)) > _LONGEST_DATA_PATH:
            raise UserError(f"espeak-ng cannot use a path this long, install elsewhere: {data}")
        if (
            library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(data), _DO_NOT_EXIT)
            != NATIVE_RATE
        ):
            raise UserError(f"espeak-ng did not start with the voice data in {data}")
        # Breath noise would otherwise be seeded with the time.
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        yield library
    finally:
        library.espeak_Terminate()
        _unload(library)


def _refuse_if_loaded(path: str) -> None:
    """Raise RuntimeError if another user keeps espeak-ng, and with it its past, in this process."""
    if not hasattr(os, "RTLD_NOLOAD"):
        return
    try:
        ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:
        return
    raise RuntimeError(f"another user of {path} in this process would make speech irreproducible")


def _unload(library: ctypes.CDLL) -> None:
    if sys.platform == "win32":
        _ctypes.FreeLibrary(library._handle)
    else:
        _ctypes.dlclose(library._handle)
