"""Synthetic speech: the same bytes always, voices that differ, splits that share none."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechprune.errors import UserError
from speechprune.manifests.audio import SAMPLE_RATE
from speechprune.manifests.espeak import NATIVE_RATE, Voice, speak, synthesize
from speechprune.manifests.manifest import read_split
from speechprune.manifests.synthetic import VARIANTS, SyntheticSpeech, make_synthetic, plan
from speechprune.manifests.vocabulary import LANGUAGES, words

SMALL = SyntheticSpeech(languages=("en", "it"), sizes={"train": 6, "valid": 2, "test": 3}, seed=5)

# Without fairseq, which the speech does not need, a process starts in a fraction of the time.
DIGESTS = """
import hashlib, json, sys, time
sys.modules["fairseq"] = None
time.sleep(1.1)  # espeak-ng would seed its noise with the time in seconds
from speechprune.manifests.espeak import Voice, synthesize
from speechprune.manifests.synthetic import VARIANTS
spoken = {v: synthesize("seven red lemons", Voice("gmw/en-US", v)) for v in reversed(VARIANTS)}
print(json.dumps({v: hashlib.sha256(x.tobytes()).hexdigest() for v, x in spoken.items()}))
"""


def digest(samples: np.ndarray) -> str:
    return hashlib.sha256(samples.tobytes()).hexdigest()


def files_of(folder: Path) -> dict[str, bytes]:
    """The files in `folder` by name; the first line of a manifest, its place, left out."""
    contents = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            if path.suffix == ".tsv":
                content = content.partition(b"\n")[2]
            contents[str(path.relative_to(folder))] = content
    return contents


def test_every_voice_is_the_same_in_another_process_and_order() -> None:
    # Filling fresh memory with a pattern shows samples that come from uninitialised memory.
    environment = {**os.environ, "PYTHONHASHSEED": "7", "MALLOC_PERTURB_": "165"}
    output = subprocess.run(
        [sys.executable, "-c", DIGESTS], env=environment, capture_output=True, text=True, check=True
    ).stdout
    elsewhere = json.loads(output)
    here = {v: digest(synthesize("seven red lemons", Voice("gmw/en-US", v))) for v in VARIANTS}
    assert here == elsewhere
    assert len(set(here.values())) == len(VARIANTS)


def test_speech_does_not_depend_on_what_was_said_before() -> None:
    voice = Voice("gmw/de", "f1", 180, 40)
    first = synthesize("sieben rote wolken", voice)
    for variant in ("m1", "aunty", "f1"):
        synthesize("something else entirely", Voice("gmw/en-US", variant, 300, 90))
    assert np.array_equal(first, synthesize("sieben rote wolken", voice))


def test_rate_shortens_and_pitch_raises() -> None:
    def spoken(rate: int, pitch: int) -> np.ndarray:
        return synthesize(
            "many summer evenings by the river", Voice("gmw/en-US", "m3", rate, pitch)
        )

    assert len(spoken(220, 50)) < 0.8 * len(spoken(140, 50))
    assert fundamental(spoken(175, 80)) > 1.3 * fundamental(spoken(175, 20))


def fundamental(samples: np.ndarray) -> float:
    """Pitch in Hz: the lag of the largest autocorrelation between 60 and 400 Hz."""
    spectrum = np.abs(np.fft.rfft(samples.astype(float), 2 * len(samples))) ** 2
    correlation = np.fft.irfft(spectrum)
    lags = np.arange(NATIVE_RATE // 400, NATIVE_RATE // 60)
    return NATIVE_RATE / lags[np.argmax(correlation[lags])]


def test_resampling_keeps_length_and_spectrum() -> None:
    voice = Voice("roa/es", "f2")
    native, resampled = synthesize("la luna roja", voice) / 32768.0, speak("la luna roja", voice)
    assert resampled.dtype == np.float32
    assert len(resampled) == pytest.approx(len(native) * SAMPLE_RATE / NATIVE_RATE, abs=2)
    cutoff = int(6000 * len(native) / NATIVE_RATE)
    before = np.abs(np.fft.rfft(native))[:cutoff] * SAMPLE_RATE / NATIVE_RATE
    after = np.abs(np.fft.rfft(resampled, len(resampled)))[:cutoff]
    assert np.linalg.norm(after - before) < 0.05 * np.linalg.norm(before)


@pytest.mark.parametrize(
    "voice",
    [("gmw/en-US", "nobody"), ("xx/klingon", "f1"), ("gmw/en-US", "f1", 20), ("de", "f1", 99, 120)],
)
def test_unknown_voices_are_refused(voice: tuple) -> None:
    with pytest.raises(UserError):
        synthesize("hello", Voice(*voice))


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_every_word_is_spelt_in_plain_letters_and_audible(language: str) -> None:
    vocabulary = words(language)
    assert 60 <= len(vocabulary) <= 150
    assert all(re.fullmatch("[a-z]+", word) for word in vocabulary)
    for word in vocabulary[::8]:
        samples = synthesize(word, Voice(LANGUAGES[language], "m3"))
        assert len(samples) > 0.2 * NATIVE_RATE and np.abs(samples).max() > 3000, word


def test_a_corpus_is_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    make_synthetic(tmp_path / "one", SMALL)
    make_synthetic(tmp_path / "three", SMALL, workers=3)
    one, three = files_of(tmp_path / "one"), files_of(tmp_path / "three")
    assert len(one) == 6 + 2 + 3 + 3 * 4 + 2
    assert one == three


def test_audio_and_labels_agree(tmp_path: Path) -> None:
    make_synthetic(tmp_path / "corpus", SMALL)
    for name, sentences in plan(SMALL).items():
        split = read_split(tmp_path / "corpus", name)
        assert [u.text for u in split.utterances] == [s.text.upper() for s in sentences]
        for utterance, sentence in zip(split.utterances, sentences):
            info = soundfile.info(str(split.root / utterance.path))
            assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
            assert info.frames == utterance.frames
            samples, _ = soundfile.read(split.root / utterance.path)
            assert np.abs(samples - speak(sentence.text, sentence.voice)).max() <= 2**-15


def test_splits_share_no_voice() -> None:
    planned = plan(SyntheticSpeech(sizes={"train": 400, "valid": 100, "test": 100}))
    variants = {name: {s.voice.variant for s in split} for name, split in planned.items()}
    assert not variants["train"] & variants["test"]
    assert not variants["train"] & variants["valid"]
    assert not variants["valid"] & variants["test"]
    assert len(variants["train"]) > 20


def test_utterances_do_not_depend_on_the_sizes_of_splits() -> None:
    small, large = (
        plan(SMALL),
        plan(SyntheticSpeech(("en", "it"), {"train": 9, "valid": 2, "test": 8}, seed=5)),
    )
    assert large["train"][:6] == small["train"]
    assert large["test"][:3] == small["test"]
    assert plan(SyntheticSpeech(("en", "it"), SMALL.sizes, seed=6))["train"] != small["train"]


def test_settings_are_kept_to() -> None:
    settings = SyntheticSpeech(
        ("sw",), {"train": 200}, vocabulary=12, sentence=(2, 3), rate=(160, 170), pitch=(45, 46)
    )
    sentences = plan(settings)["train"]
    assert {word for s in sentences for word in s.text.split()} == set(words("sw")[:12])
    assert {len(s.text.split()) for s in sentences} == {2, 3}
    assert {s.voice.language for s in sentences} == {LANGUAGES["sw"]}
    assert {s.voice.rate for s in sentences} == set(range(160, 171))
    assert {s.voice.pitch for s in sentences} == {45, 46}


def test_noise_has_the_level_that_was_asked_for(tmp_path: Path) -> None:
    sizes = {"train": 3}
    make_synthetic(tmp_path / "noisy", SyntheticSpeech(sizes=sizes, noise=(-20.0, -20.0)))
    for sentence in plan(SyntheticSpeech(sizes=sizes))["train"]:
        noisy, _ = soundfile.read(tmp_path / "noisy" / "audio" / sentence.path)
        clean = speak(sentence.text, sentence.voice)
        ratio = np.sum((noisy - clean) ** 2) / np.sum(clean**2)
        assert 10 * np.log10(ratio) == pytest.approx(-20.0, abs=0.1)


@pytest.mark.parametrize(
    "settings",
    [
        {"languages": ("tlh",)},
        {"languages": ()},
        {"sizes": {"dev": 3}},
        {"sizes": {"train": 0}},
        {"sizes": {}},
        {"vocabulary": 1},
        {"seed": -1},
        {"sentence": (3, 2)},
        {"rate": (100, 900)},
    ],
)
def test_bad_settings_are_refused(settings: dict) -> None:
    with pytest.raises(UserError) as caught:
        SyntheticSpeech(**settings)
    assert "\n" not in str(caught.value)
