"""Speech from espeak-ng, through ctypes: the same arguments always give the same samples.

The library and its voice data come with the `espeakng-loader` wheel; nothing is installed.
"""

from __future__ import annotations

import _ctypes
import ctypes
import os
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import espeakng_loader
import numpy as np
import soxr

from speechprune.errors import UserError

NATIVE_RATE = 22050
SAMPLE_RATE = 16000

# Constants of espeak-ng's public header, speak_lib.h.
_SYNCHRONOUS = 2
_DO_NOT_EXIT = 0x8000
_CHARACTERS_UTF8 = 1
_RATE, _PITCH = 1, 3
_LONGEST_DATA_PATH = 140

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
