"""Seeded corpora of synthetic speech: short sentences in several languages and many voices.

A corpus is a function of its settings: utterance `i` of a split is drawn from
`numpy.random.default_rng((seed, split, i))`, so neither the number of workers nor the size of
another split changes it.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Iterator, Mapping, Sequence

import numpy as np

from speechprune.errors import UserError
from speechprune.manifests.audio import write_flac
from speechprune.manifests.dictionary import symbols_digest
from speechprune.manifests.espeak import Voice, language_file, speak
from speechprune.manifests.folders import replacing
from speechprune.manifests.labels import LabelKind, make_labels
from speechprune.manifests.making import SPLITS, check_seed, check_sizes
from speechprune.manifests.manifest import AUDIO, Split, Utterance, write_manifest
from speechprune.manifests.processes import chunked, spread
from speechprune.manifests.progress import Progress, unwatched
from speechprune.manifests.provenance import finished
from speechprune.manifests.vocabulary import LANGUAGES, words

VARIANTS = (
    *("f1", "f2", "f3", "f4", "f5", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8"),
    *("Andrea", "Annie", "Jacky", "Mario", "Michael", "aunty", "belinda", "boris", "ed"),
    *("grandma", "grandpa", "gustave", "ian", "john", "linda", "max", "norbert", "paul"),
    *("quincy", "rob", "steph", "victor", "zac"),
)
"""Timbres that sound like people. Left out, besides robots and whispers, are "Reed" and "caleb",
whose samples differ from one process to the next."""

_SHARE_FOR_TRAINING = 0.7
_NUMBERS = 100
_CHUNK = 16  # sentences that a worker speaks at a time


@dataclass(frozen=True)
class SyntheticSpeech:
    """Settings of a synthetic corpus; the default is a quarter of an hour, learnt in minutes.

    Attributes:
        languages: ISO codes that espeak-ng speaks, drawn with equal chance.
        sizes: utterances per split (train, valid, test); the voices of the splits are disjoint.
        vocabulary: words per language to draw from, the first of its list; None for all. Languages
            that `vocabulary` has no list of count instead: their words are the numbers from 0 on,
            which have no spelling, so that they need phones for labels.
        words: of the one language, instead of those of `vocabulary`.
        labels: "characters" or "phones".
        sentence: fewest and most words per utterance.
        rate: slowest and fastest speech, words per minute.
        pitch: lowest and highest pitch, 0 to 99.
        noise: quietest and loudest background, in dB relative to the speech, drawn uniformly;
            None for clean speech.
        seed: corpora with different seeds share nothing but their words and voices.
    """

    languages: tuple[str, ...] = ("en",)
    sizes: Mapping[str, int] = field(
        default_factory=lambda: {"train": 900, "valid": 40, "test": 80}
    )
    vocabulary: int | None = 40
    words: tuple[str, ...] = ()
    sentence: tuple[int, int] = (2, 4)
    rate: tuple[int, int] = (150, 220)
    pitch: tuple[int, int] = (30, 70)
    noise: tuple[float, float] | None = None
    labels: LabelKind = "characters"
    seed: int = 1

    def __post_init__(self) -> None:
        if self.labels not in ("characters", "phones"):
            raise UserError(f"labels {self.labels!r} are neither characters nor phones")
        for code in self.languages:
            language_file(code)
            if self.labels == "characters" and code not in LANGUAGES and not self.words:
                raise UserError(
                    f"there are no words of language {code!r} here, only numbers: give words, "
                    f"choose phones for labels, or one of {', '.join(LANGUAGES)}"
                )
        if self.words and len(self.languages) > 1:
            raise UserError(f"words are of one language, not of {', '.join(self.languages)}")
        check_sizes(self.sizes)
        check_seed(self.seed)
        if not self.languages:
            raise UserError("a synthetic corpus needs a language")
        if self.vocabulary is not None and self.vocabulary < 2:
            raise UserError(f"a vocabulary of {self.vocabulary} words is too small; 2 or more")
        self._check_ranges()

    def _check_ranges(self) -> None:
        ranges = {name: getattr(self, name) for name in ("sentence", "rate", "pitch", "noise")}
        for name, ends in ranges.items():
            if ends is not None and not ends[0] <= ends[1]:
                raise UserError(f"{name} runs from {ends[0]} to {ends[1]}; put the smaller first")
        if self.sentence[0] < 1:
            raise UserError("an utterance needs at least one word")
        for rate, pitch in zip(self.rate, self.pitch):
            Voice("", "", rate, pitch)


@dataclass(frozen=True)
class Sentence:
    """One utterance to speak: file `path`, `text` in lower case, `voice`, and `noise` in dB
    relative to the speech."""

    path: str
    language: str
    text: str
    voice: Voice
    noise: float | None
    seed: tuple[int, ...]


def plan(settings: SyntheticSpeech) -> dict[str, list[Sentence]]:
    """What will be said by whom, per split; no audio is made."""
    voices = _voices_per_split(settings)
    return {
        name: [_draw(settings, name, voices[name], index) for index in range(size)]
        for name, size in settings.sizes.items()
    }


def make_synthetic(
    folder: Path,
    settings: SyntheticSpeech,
    *,
    workers: int | None = 1,
    dictionary: Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress = unwatched,
) -> None:
    """Speak a corpus into the manifest folder `folder`.

    The files are the same for any number of `workers`, None for one per core. `dictionary` and
    `resume` are as in `preparation.prepare`. `progress` wraps the stream of finished utterances.
    Raises UserError as `folders.replacing` does, or if `dictionary` lacks a symbol.
    """
    provenance = {
        "corpus": "synthetic, espeak-ng",
        "language": "+".join(settings.languages),
        "settings": asdict(settings),
        "dictionary": symbols_digest(dictionary),
    }
    if resume and finished(folder, provenance) is not None:
        return
    planned = plan(settings)
    with replacing(folder, overwrite) as partial_folder:
        sentences = [sentence for split in planned.values() for sentence in split]
        render = partial(_render, partial_folder / AUDIO)
        rendered = chain.from_iterable(spread(render, chunked(sentences, _CHUNK), workers))
        spoken = iter(progress(rendered, len(sentences)))
        root = Path(os.path.realpath(folder)) / AUDIO
        splits = [
            Split(name, root, tuple(_label(settings.labels, split, spoken)))
            for name, split in planned.items()
        ]
        list(spoken)  # lets a progress bar end
        units = settings.labels == "phones"
        write_manifest(partial_folder, splits, provenance, units=units, dictionary=dictionary)


def _voices_per_split(settings: SyntheticSpeech) -> dict[str, list[str]]:
    """Shuffle the variants and deal them out: most to training, the rest to the other splits."""
    order = np.random.default_rng((settings.seed, len(SPLITS))).permutation(len(VARIANTS))
    shuffled = [VARIANTS[i] for i in order]
    held_out = [name for name in SPLITS if name in settings.sizes and name != "train"]
    if not held_out or "train" not in settings.sizes:
        groups = np.array_split(shuffled, max(1, len(settings.sizes)))
        return {name: list(map(str, group)) for name, group in zip(settings.sizes, groups)}
    cut = int(_SHARE_FOR_TRAINING * len(shuffled))
    groups = np.array_split(shuffled[cut:], len(held_out))
    dealt = {name: list(map(str, group)) for name, group in zip(held_out, groups)}
    return {"train": shuffled[:cut], **dealt}


def _draw(settings: SyntheticSpeech, split: str, variants: list[str], index: int) -> Sentence:
    seed = (settings.seed, SPLITS.index(split), index)
    random = np.random.default_rng(seed)
    language = settings.languages[random.integers(len(settings.languages))]
    vocabulary = (settings.words or _words(language))[: settings.vocabulary]
    length = random.integers(settings.sentence[0], settings.sentence[1], endpoint=True)
    text = " ".join(vocabulary[i] for i in random.integers(len(vocabulary), size=length))
    voice = Voice(
        language_file(language),
        variants[random.integers(len(variants))],
        int(random.integers(*settings.rate, endpoint=True)),
        int(random.integers(*settings.pitch, endpoint=True)),
    )
    noise = None if settings.noise is None else float(random.uniform(*settings.noise))
    return Sentence(f"{split}/{index:06d}.flac", language, text, voice, noise, seed)


def _words(language: str) -> Sequence[str]:
    if language in LANGUAGES:
        return words(language)
    return [str(number) for number in range(_NUMBERS)]


def _label(
    kind: LabelKind, sentences: list[Sentence], spoken: Iterator[Utterance]
) -> Iterator[Utterance]:
    """The utterances of the sentences, with labels for texts."""
    texts: dict[int, str] = {}
    for language in sorted({sentence.language for sentence in sentences}):
        said = [i for i, sentence in enumerate(sentences) if sentence.language == language]
        labels = make_labels(kind, language)
        texts.update(zip(said, labels.label([sentences[i].text for i in said])[0]))
    for index, _ in enumerate(sentences):
        yield next(spoken)._replace(text=texts[index])


def _render(folder: Path, sentences: list[Sentence]) -> list[Utterance]:
    return [_render_one(folder, sentence) for sentence in sentences]


def _render_one(folder: Path, sentence: Sentence) -> Utterance:
    samples = speak(sentence.text, sentence.voice)
    if sentence.noise is not None:
        samples = _add_noise(samples, sentence.noise, np.random.default_rng((*sentence.seed, 1)))
    frames = write_flac(folder / sentence.path, samples.clip(-1.0, 1.0))
    return Utterance(sentence.path, frames, sentence.text, sentence.voice.variant)


def _add_noise(samples: np.ndarray, level: float, random: np.random.Generator) -> np.ndarray:
    """Add noise of `level` dB relative to the speech (T,), with a random spectral slope.

    The slope, amplitude falling with frequency to a power of 0 (white) to 1, is that of rooms
    and recorders.
    """
    spectrum = np.fft.rfft(random.standard_normal(len(samples)))
    spectrum /= np.maximum(np.arange(len(spectrum)), 1.0) ** random.uniform(0.0, 1.0)
    noise = np.fft.irfft(spectrum, len(samples))
    loudness = np.sqrt(np.mean(samples**2) / np.mean(noise**2)) * 10.0 ** (level / 20.0)
    return (samples + loudness * noise).astype(np.float32)
