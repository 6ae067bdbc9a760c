"""Frame labels for pretraining: aligned with the model's frames, told by sound alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from scipy.signal import lfilter

from speechprune.errors import UserError
from speechprune.manifests.acoustic_units import cepstra_of, write_units
from speechprune.manifests.espeak import Voice, speak
from speechprune.manifests.manifest import Split, Utterance, write_manifest
from speechprune.models.loading import load_pretrained
from speechprune.recipes.nano import ASSET

#: Two formants of three vowels, in Hz.
VOWELS = {"a": (700, 1200), "i": (300, 2300), "u": (320, 800)}


def vowel(name: str, seconds: float, seed: int) -> np.ndarray:
    """A buzz through two resonances."""
    random = np.random.default_rng(seed)
    sound = np.zeros(int(seconds * 16000))
    sound[:: int(random.integers(100, 160))] = 1.0
    sound += 0.001 * random.standard_normal(len(sound))
    for hertz in VOWELS[name]:
        pole = 0.98 * np.exp(2j * np.pi * hertz / 16000)
        sound = lfilter([1.0], [1.0, -2 * pole.real, abs(pole) ** 2], sound)
    return (0.3 * sound / np.abs(sound).max()).astype(np.float32)


@pytest.mark.parametrize("samples", [720, 16000, 16319, 16320, 50001])
def test_a_unit_for_each_frame_of_the_model(samples: int) -> None:
    model = load_pretrained(ASSET)
    frames = int(model._get_feat_extract_output_lengths(torch.tensor(samples)))
    assert cepstra_of(np.random.default_rng(0).standard_normal(samples)).shape == (frames, 26)


def test_units_ignore_loudness_and_a_telephone_band() -> None:
    samples = speak("paper garden", Voice("gmw/en-US", "m3", 170, 40))
    telephone = soxr.resample(soxr.resample(samples, 16000, 8000), 8000, 16000)
    noise = 1e-3 * np.random.default_rng(0).standard_normal(len(samples))
    spread = cepstra_of(samples + noise).std()
    for other in (0.5 * (samples + noise), telephone[: len(samples)] + noise):
        difference = cepstra_of(other) - cepstra_of(samples + noise)
        assert np.abs(difference).mean() < 0.1 * spread


@pytest.fixture
def vowels(tmp_path: Path) -> tuple[Path, list[str]]:
    """A manifest folder in which every utterance runs through the three vowels, and the order."""
    utterances, orders = [], []
    (tmp_path / "audio").mkdir()
    for index in range(12):
        order = np.random.default_rng(index).permutation(list(VOWELS))
        sound = np.concatenate([vowel(name, 0.4, index) for name in order])
        soundfile.write(tmp_path / "audio" / f"{index:02d}.wav", sound, 16000)
        utterances.append(Utterance(f"{index:02d}.wav", len(sound), "A"))
        orders.append("".join(order))
    write_manifest(tmp_path, [Split("train", tmp_path / "audio", tuple(utterances))], {})
    return tmp_path, orders


def test_units_tell_vowels_apart_across_pitches(vowels: tuple[Path, list[str]]) -> None:
    folder, orders = vowels
    write_units(folder, ["train"], clusters=12)
    assert (folder / "dict.km.txt").read_text().splitlines() == [f"{i} 1" for i in range(12)]
    lines = [line.split() for line in (folder / "train.km").read_text().splitlines()]
    heard: dict[str, Counter[str]] = {name: Counter() for name in VOWELS}
    for order, units in zip(orders, lines):
        assert len(units) == (3 * 6400 - 400) // 320 + 1
        for place, name in enumerate(order):
            middle = units[place * 20 + 5 : place * 20 + 15]
            heard[name].update(middle)
    for name, units in heard.items():
        foreign = sum((heard[other] for other in VOWELS if other != name), Counter())
        own = sum(count for unit, count in units.items() if count > foreign[unit])
        assert own > 0.95 * units.total()


def test_units_are_repeatable(vowels: tuple[Path, list[str]]) -> None:
    folder, _ = vowels
    write_units(folder, ["train"], clusters=5, seed=3)
    first = (folder / "train.km").read_bytes()
    write_units(folder, ["train"], clusters=5, seed=3)
    assert (folder / "train.km").read_bytes() == first


def test_an_unprepared_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train.tsv is missing"):
        write_units(tmp_path, ["train"])
