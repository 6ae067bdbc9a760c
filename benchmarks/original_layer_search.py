"""What layer search is measured against, the plain way; and what on, made-up data.

The plain way takes each pair, set and plan by itself, by the formulas of CoMFLP's code (Liu et al.,
Interspeech 2023) and of the CCA that it uses (Raghu et al., NeurIPS 2017), on float32 arrays as
there. Where that code does what nobody would need, such as to look for a set in a list of those
seen or to run the whole model beside each plan, it is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, combinations
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import soundfile
import torch
from fairseq import tasks
from fairseq.data.dictionary import Dictionary
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config
from numpy.typing import NDArray
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F

from speechprune.backbones import find_backbone
from speechprune.decoding import MAX_TOKENS, inference
from speechprune.decoding.inference import Evaluation, batches, evaluate, transcribe
from speechprune.manifests.audio import SAMPLE_RATE
from speechprune.manifests.manifest import Split, Utterance
from speechprune.models.loading import LoadedRecogniser

THRESHOLD = 0.99
EPSILON = 1e-10
LETTERS = "|'ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Layers = tuple[int, ...]


def svcca(first: NDArray, second: NDArray) -> float:
    """The mean canonical correlation of two states, each (C, N)."""
    return float(np.mean(_canonical_correlations(_reduced(first), _reduced(second))))


def svcca_pairs(states: int) -> list[tuple[int, int]]:
    """The pairs that it is computed of: a state with itself too."""
    return [(i, j) for i in range(states) for j in range(i, states)]


def _reduced(activations: NDArray) -> NDArray:
    """Coordinates along the first singular vectors that make up `THRESHOLD` of all values."""
    centred = activations - activations.mean(axis=1, keepdims=True)
    _, values, vectors = np.linalg.svd(centred, full_matrices=False)
    whole, reached, count = values.sum(), 0.0, 0
    while reached / whole <= THRESHOLD and count < len(values):
        reached += values[count]
        count += 1
    return values[:count, None] * vectors[:count]


def _canonical_correlations(first: NDArray, second: NDArray) -> NDArray:
    """All of two sets of variables, (K, N) and (M, N), from their joint covariance."""
    size = len(first)
    covariance = np.cov(first, second)
    own_first, own_second = covariance[:size, :size], covariance[size:, size:]
    between = covariance[:size, size:]
    largest_first, largest_second = np.abs(own_first).max(), np.abs(own_second).max()
    own_first, own_second = own_first / largest_first, own_second / largest_second
    between = between / np.sqrt(largest_first * largest_second)
    varies_first = np.abs(own_first.diagonal()) >= EPSILON
    varies_second = np.abs(own_second.diagonal()) >= EPSILON
    whitening_first = _inverse_root(own_first[np.ix_(varies_first, varies_first)])
    whitening_second = _inverse_root(own_second[np.ix_(varies_second, varies_second)])
    product = whitening_first @ between[np.ix_(varies_first, varies_second)] @ whitening_second
    return np.linalg.svd(product, compute_uv=False)


def _inverse_root(covariance: NDArray) -> NDArray:
    """The square root of the pseudoinverse."""
    inverse = np.linalg.pinv(covariance + EPSILON * np.eye(len(covariance)))
    values, vectors = np.linalg.eigh(inverse)
    return vectors @ np.diag(np.sqrt(values)) @ vectors.T


def distance_correlations(states: Sequence[Tensor], batch_size: int) -> NDArray:
    """The mean over batches of the correlation of each two states, each (N, C)."""
    batches = list(zip(*(state.split(batch_size) for state in states)))
    matrix = torch.zeros(len(states), len(states))
    for batch in batches:
        centred = [_centred_distances(rows) for rows in batch]
        for i, first in enumerate(centred):
            for j, second in enumerate(centred):
                matrix[i, j] += _correlation(first, second)
    return (matrix / len(batches)).numpy()


def _centred_distances(rows: Tensor) -> Tensor:
    rows = F.normalize(rows)
    found = torch.sqrt((rows[None] - rows[:, None]).square().sum(dim=-1) + 1e-12)
    columns, lines = found.mean(dim=0, keepdim=True), found.mean(dim=1, keepdim=True)
    return found - columns - lines + found.mean()


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    both, own_first, own_second = (
        (x * y).sum() / x.numel() for x, y in ((first, second), (first, first), (second, second))
    )
    return both / torch.sqrt(own_first * own_second + 1e-9)


def score(matrix: NDArray, dropped: Sequence[int]) -> float:
    """The mean similarity over the runs of neighbours among ``dropped``, which ascend."""
    total, runs, first = 0.0, 0, dropped[0]
    for layer, following in zip(dropped, (*dropped[1:], -1)):
        if following != layer + 1:
            total += matrix[first, layer + 1]
            runs += 1
            first = following
    return total / runs


def greedy(matrix: NDArray, drop: int) -> list[Layers]:
    """Adds the best layer, ``drop`` times; one set."""
    dropped: Layers = ()
    for _ in range(drop):
        left = (layer for layer in range(len(matrix) - 1) if layer not in dropped)
        larger = [tuple(sorted((*dropped, layer))) for layer in left]
        dropped = larger[int(np.argmax([score(matrix, each) for each in larger]))]
    return [dropped]


def beam(matrix: NDArray, drop: int, width: int = 10) -> list[Layers]:
    """Adds a layer to each of the best sets, ``drop`` times; each set counts once."""
    best: list[Layers] = [()]
    for _ in range(drop):
        seen: set[Layers] = set()
        for dropped in best:
            for layer in range(len(matrix) - 1):
                if layer not in dropped:
                    seen.add(tuple(sorted((*dropped, layer))))
        best = _best(matrix, list(seen), width)
    return best


def exhaustive(matrix: NDArray, drop: int, top: int = 10) -> list[Layers]:
    """The best of all sets."""
    return _best(matrix, list(combinations(range(len(matrix) - 1), drop)), top)


def _best(matrix: NDArray, sets: Sequence[Layers], top: int) -> list[Layers]:
    scores = np.array([score(matrix, each) for each in sets])
    return [sets[index] for index in np.argsort(-scores, kind="stable")[:top]]


class PlanByPlan:
    """Takes layers out of a model, evaluates what is left from audio to errors, puts them back.

    Attributes:
        texts: transcripts by the layers dropped, by place in the split.
    """

    def __init__(self, loaded: LoadedRecogniser, split: Split, metric: str) -> None:
        self.loaded, self.split, self.metric = loaded, split, metric
        self.encoder: Any = loaded.model.w2v_encoder.w2v_model
        self.texts: dict[Layers, dict[int, str]] = {}

    def rate(self, dropped: Iterable[int]) -> float:
        """The error rate without the layers ``dropped``."""
        dropped = tuple(sorted(dropped))
        family = find_backbone(self.encoder)
        whole: nn.ModuleList = family.layers(self.encoder)
        family.drop_layers(self.encoder, dropped)
        try:
            found = self._evaluate(dropped)
        finally:
            self.encoder.encoder.layers = whole
        return found.words.rate if self.metric == "wer" else found.characters.rate

    def _evaluate(self, dropped: Layers) -> Evaluation:
        order = chain(*batches([u.frames for u in self.split.utterances], MAX_TOKENS, batch_size=1))
        texts = self.texts[dropped] = {}

        def transcribe_and_note(*arguments: Any) -> list[str]:
            made = transcribe(*arguments)
            texts.update((next(order), text) for text in made)
            return made

        # An evaluation tells errors alone; the texts are to be compared too.
        with patch.object(inference, "transcribe", transcribe_and_note):
            return evaluate(self.loaded, self.split, batch_size=1)

    def best(self, plans: Sequence[Layers]) -> Layers:
        """The plan with the lowest rate."""
        return min(plans, key=lambda dropped: (self.rate(dropped), dropped))

    def eliminate(self, layers: int, drop: int) -> list[Layers]:
        """Greedy layer pruning: the plan of each step."""
        steps: list[Layers] = []
        for _ in range(drop):
            gone = steps[-1] if steps else ()
            larger = [tuple(sorted((*gone, n))) for n in range(layers) if n not in gone]
            # Of plans that tie, the one that drops the first layer beside those gone.
            steps.append(larger[int(np.argmin([self.rate(dropped) for dropped in larger]))])
        return steps


class PassCounter:
    """Counts utterances through the front end and through layers, whoever sends them."""

    def __init__(self, loaded: LoadedRecogniser) -> None:
        encoder: Any = loaded.model.w2v_encoder.w2v_model
        self.front_end = self.layers = 0
        encoder.feature_extractor.register_forward_hook(self._count_audio)
        for layer in find_backbone(encoder).layers(encoder):
            layer.register_forward_hook(self._count_states)

    def counted(self, way: Callable[[], Any]) -> tuple[Any, int, int]:
        """What ``way`` gives, and the passes that it made."""
        self.front_end = self.layers = 0
        return way(), self.front_end, self.layers

    def _count_audio(self, module: nn.Module, inputs: tuple[Tensor], output: Any) -> None:
        self.front_end += inputs[0].shape[0]

    def _count_states(self, module: nn.Module, inputs: tuple[Tensor], output: Any) -> None:
        self.layers += inputs[0].shape[1]


def representations(layers: int, channels: int, rows: int) -> list[NDArray]:
    """States of a network, float32 (N, C): each the one before with noise, mixed a little.

    Layers add noise unequally, all of it with the spectrum that the first state has.
    """
    generator = np.random.default_rng(layers)
    spectrum = np.arange(1, channels + 1) ** -0.5

    def noise(amount: float) -> NDArray:
        drawn = generator.standard_normal((rows, channels), dtype=np.float32)
        return drawn * (amount * spectrum).astype(np.float32)

    mixing = np.eye(channels) + generator.normal(0, 0.1 / channels**0.5, (channels, channels))
    states = [noise(1.0)]
    for amount in generator.uniform(0.2, 0.6, layers):
        states.append((states[-1] + noise(amount)) @ mixing.astype(np.float32))
    return states


def similarities(layers: int) -> NDArray:
    """A matrix of a deep network: states are the less alike, the more was done between them."""
    generator = np.random.default_rng(layers)
    done = np.concatenate([[0.0], generator.uniform(0.01, 0.2, layers).cumsum()])
    noise = np.triu(generator.uniform(-0.05, 0.05, (layers + 1, layers + 1)))
    return np.exp(-np.abs(done[:, None] - done)) + noise + noise.T


def recogniser(**settings: Any) -> LoadedRecogniser:
    """wav2vec 2.0 base, but for ``settings``, with a CTC head for 28 letters; random weights."""
    dictionary = Dictionary()
    for letter in LETTERS:
        dictionary.add_symbol(letter)
    shared = {"data": ".", "normalize": False}
    defaults: Any = OmegaConf.to_container(
        OmegaConf.structured(Wav2Vec2Config(**settings)), enum_to_str=True
    )
    encoder = {**defaults, "_name": "wav2vec2"}
    pretrained = {"task": {"_name": "audio_pretraining", **shared}, "model": encoder}
    task = {"_name": "audio_finetuning", "labels": "ltr", **shared}
    model = {"_name": "wav2vec_ctc", "w2v_path": "random", "w2v_args": pretrained, **shared}
    cfg = OmegaConf.create({"task": task, "model": model})
    torch.manual_seed(0)
    built_task = tasks.setup_task(cfg.task, from_checkpoint=True)
    built_task.load_state_dict({"target_dictionary": dictionary})
    built = built_task.build_model(cfg.model, from_checkpoint=True).eval().requires_grad_(False)
    return LoadedRecogniser(Path("random"), built, built_task, dictionary, cfg, {})


def noises(folder: Path, loaded: LoadedRecogniser, count: int, seconds: float) -> Split:
    """Recordings of noise; what ``loaded`` transcribes them to are the references.

    So layers that change little cost few errors, as they do in a trained model.
    """
    generator = np.random.default_rng(0)
    utterances = []
    for number in range(count):
        samples = generator.normal(0, 0.1, int(seconds * SAMPLE_RATE)).astype(np.float32)
        soundfile.write(folder / f"{number}.wav", samples, SAMPLE_RATE, subtype="FLOAT")
        (text,) = transcribe(loaded, [samples])
        utterances.append(Utterance(f"{number}.wav", len(samples), text))
    return Split("noise", folder, tuple(utterances))
