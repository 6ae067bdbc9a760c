"""Greedy CTC transcription, and error rates of a corpus.

Every utterance is decoded and counted: fairseq's own batching drops the shortest ones.

What a model makes of an utterance does not depend on what shares its batch: see
`speechprune.backbones.apart`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from speechprune.decoding import MAX_TOKENS
from speechprune.decoding.greedy import decode, spells_words
from speechprune.decoding.scoring import ErrorCounts, count_text_errors, rate_names
from speechprune.errors import UserError
from speechprune.manifests.audio import SAMPLE_RATE, resample
from speechprune.manifests.classes import LabelledUtterance
from speechprune.manifests.manifest import Split, Utterance, read_split
from speechprune.manifests.recording import BadAudio, decode_recording
from speechprune.masking.masked_site import masked_weight
from speechprune.models.loading import LoadedModel, LoadedRecogniser

if TYPE_CHECKING:
    from fairseq.data.dictionary import Dictionary

logger = logging.getLogger(__name__)

Found = TypeVar("Found")


@dataclass(frozen=True)
class Evaluation:
    """How well and how fast a model transcribes a corpus.

    Attributes:
        words, characters: errors over all utterances; both are of the units if ``units``.
        units: whether the model writes units, such as phones, and not words spelt by letters.
        parameters: tensor entries that inference reads, masked ones included, scores excluded.
        density: share of the maskable weights that is kept.
        audio_seconds: length of the corpus.
        seconds: time spent in the model and in decoding, without reading files.
        device: "cpu" or "cuda".
    """

    words: ErrorCounts
    characters: ErrorCounts
    units: bool
    parameters: int
    density: float
    audio_seconds: float
    seconds: float
    device: str

    @property
    def rate_names(self) -> dict[str, str]:
        """What was measured, by its names in JSON, and what tables call it."""
        return rate_names(letters=not self.units)

    @property
    def speed(self) -> float:
        """Seconds of audio transcribed per second."""
        return self.audio_seconds / self.seconds


def evaluate(
    loaded: LoadedRecogniser,
    split: Split,
    *,
    max_tokens: int = MAX_TOKENS,
    batch_size: int | None = None,
) -> Evaluation:
    """Transcribe every utterance of ``split`` and compare it with its text.

    Args:
        max_tokens: audio samples per batch, padding included; a longer utterance goes alone.
        batch_size: at most this many utterances per batch; None for no such limit.

    Raises:
        UserError: audio is missing or unreadable, which `check_split` tells before a model is
            loaded, or there is no text to compare with, or one in another alphabet.
    """
    check_references(loaded, split)
    loaded.model.to(best_device())
    texts, seconds = in_batches(
        split.root,
        split.utterances,
        sample_rate(loaded),
        lambda audio: transcribe(loaded, audio),
        max_tokens=max_tokens,
        batch_size=batch_size,
    )
    return evaluation_of(loaded, split, texts, seconds)


def evaluation_of(
    loaded: LoadedRecogniser, split: Split, texts: Sequence[str], seconds: float
) -> Evaluation:
    """What transcripts of a split are worth.

    Args:
        loaded: the model that wrote them.
        texts: of its utterances, in order.
        seconds: that they took.
    """
    letters = spells_words(loaded.dictionary)
    words, characters = ErrorCounts(), ErrorCounts()
    for utterance, text in zip(split.utterances, texts):
        found = count_text_errors(utterance.text, text, letters=letters)
        words, characters = words + found[0], characters + found[1]
    return Evaluation(
        words,
        characters,
        units=not letters,
        parameters=count_parameters(loaded.model),
        density=loaded.density,
        audio_seconds=sum(u.frames for u in split.utterances) / sample_rate(loaded),
        seconds=seconds,
        device=loaded.device.type,
    )


def in_batches(
    root: Path,
    utterances: Sequence[Utterance | LabelledUtterance],
    rate: int,
    hear: Callable[[list[np.ndarray]], Sequence[Found]],
    *,
    max_tokens: int,
    batch_size: int | None,
) -> tuple[list[Found], float]:
    """What is made of every utterance, in order, and the seconds that it took without reading.

    Args:
        root: the folder of the recordings.
        rate: that they are heard at, in Hz.
        hear: gives something for each of some recordings, float32 (samples,).
        max_tokens, batch_size: as for `batches`.

    Raises:
        UserError: audio is missing or unreadable.
    """
    found: dict[int, Found] = {}
    seconds = 0.0
    with tqdm(total=len(utterances), desc="decoding", leave=False, disable=None) as bar:
        for batch in batches([u.frames for u in utterances], max_tokens, batch_size):
            audio = [read_audio(root / utterances[i].path, rate) for i in batch]
            start = perf_counter()
            found.update(zip(batch, hear(audio)))
            seconds += perf_counter() - start
            bar.update(len(batch))
    return [found[index] for index in range(len(utterances))], seconds


def read_references(loaded: LoadedRecogniser, folder: Path, name: str) -> Split:
    """A split with the texts that a model's transcripts are compared with.

    The model's dictionary tells whether labels are letters.

    Raises:
        UserError: as `speechprune.manifests.manifest.read_split`.
    """
    labels = loaded.cfg.task.labels
    return read_split(folder, name, labels, letters=spells_words(loaded.dictionary))


def check_references(loaded: LoadedRecogniser, split: Split) -> None:
    """Warn of symbols in the references that the model cannot write.

    Raises:
        UserError: there are no references, or the model knows none of their symbols.
    """
    check_symbols([loaded.dictionary], split, loaded.path)


def check_symbols(dictionaries: Sequence[Dictionary], split: Split, path: Path) -> None:
    """As `check_references`, of models of which each utterance finds one that suits.

    Args:
        dictionaries: of their outputs; either all have letters of words, or none has.
        path: of the file that the models are in.
    """
    if not any(utterance.text for utterance in split.utterances):
        raise UserError(f"no utterance of {split.name} has a text to compare transcripts with")
    known = {symbol for dictionary in dictionaries for symbol in dictionary.symbols}
    letters = spells_words(dictionaries[0])
    own = {symbol for each in dictionaries for symbol in each.symbols[each.nspecial :]}
    if letters and any(len(symbol) > 1 for symbol in own):
        return  # words are written without the seams between such symbols
    used: Counter[str] = Counter()
    for utterance in split.utterances:
        used.update(utterance.text.replace(" ", "") if letters else utterance.text.split())
    unknown = Counter({symbol: count for symbol, count in used.items() if symbol not in known})
    example = sorted(unknown, key=lambda symbol: (-unknown[symbol], symbol))[:1]
    if len(unknown) == len(used):
        raise UserError(
            f"{split.name} is in another alphabet than {path}: no symbol of it, such as "
            f"{example[0]!r}, is known"
        )
    if unknown:
        logger.warning(
            f"{sum(unknown.values())} of {sum(used.values())} symbols in the texts of "
            f"{split.name}, such as {example[0]!r}, are unknown to {path}: each is an error"
        )


def transcribe(loaded: LoadedRecogniser, audio: Sequence[np.ndarray]) -> list[str]:
    """Greedy CTC transcripts of one batch.

    Args:
        audio: float32 recordings of shape (samples,) at the model's sample rate; one that is too
            short for a single frame has no text.

    Raises:
        UserError: as `scores_of`.
    """
    heard = audible(loaded, audio)
    texts = [""] * len(audio)
    if heard:
        emissions, _ = scores_of(loaded, [audio[i] for i in heard])
        for index, text in zip(heard, decode(loaded.dictionary, emissions)):
            texts[index] = text
    return texts


def scores_of(
    loaded: LoadedRecogniser, audio: Sequence[np.ndarray]
) -> tuple[Tensor, Tensor | None]:
    """CTC scores of one batch, (T, B, symbols), and the padding of their frames, bool (B, T), if
    there is any.

    Args:
        audio: float32 recordings of shape (samples,), long enough for a frame each.

    Raises:
        UserError: as `refuse_no_numbers`.
    """
    with torch.inference_mode():
        output = loaded.model(**padded(loaded, audio))
        scores = loaded.model.get_logits(output)
    refuse_no_numbers(loaded, [scores])
    return scores, output["padding_mask"]


def refuse_no_numbers(loaded: LoadedModel, outputs: Iterable[Tensor]) -> None:
    """Raise UserError if a score is NaN: the best output would be the first one, whatever is heard.

    (Scores of frames that are padding are minus infinity.)
    """
    if any(scores.isnan().any() for scores in outputs):
        raise no_numbers(loaded)


def no_numbers(loaded: LoadedModel) -> UserError:
    """Why a model whose scores are NaN or infinite is of no use."""
    return UserError(
        f"{loaded.path} is damaged, or its training diverged: its scores are not numbers"
    )


def audible(loaded: LoadedModel, audio: Sequence[np.ndarray]) -> list[int]:
    """The recordings of (samples,) that are long enough for a frame."""
    return [i for i, samples in enumerate(audio) if loaded.frame_count(len(samples))]


def padded(loaded: LoadedModel, audio: Sequence[np.ndarray]) -> dict[str, Tensor]:
    """A batch as the model takes it: ``source``, float32 (B, samples), and ``padding_mask``."""
    normalize = bool(loaded.cfg.task.get("normalize"))
    return padded_batch(audio, normalize=normalize, device=loaded.device)


def padded_batch(
    audio: Sequence[np.ndarray], *, normalize: bool, device: torch.device
) -> dict[str, Tensor]:
    """A batch as encoders take it: ``source``, float32 (B, samples), and ``padding_mask``.

    Args:
        audio: float32 recordings of shape (samples,).
        normalize: give each recording mean 0 and variance 1.
    """
    recordings = [torch.from_numpy(samples) for samples in audio]
    if normalize:
        recordings = [F.layer_norm(samples, samples.shape) for samples in recordings]
    lengths = torch.tensor([len(samples) for samples in recordings])
    source = pad_sequence(recordings, batch_first=True).to(device)
    padding_mask = (torch.arange(source.shape[1]) >= lengths[:, None]).to(device)
    return {"source": source, "padding_mask": padding_mask}


def read_audio(path: Path, rate: int) -> np.ndarray:
    """A recording as float32 (samples,) at ``rate``; channels are averaged.

    Raises:
        UserError: the file is missing, is not readable audio, or is truncated so that fairseq
            could not read it, or so much that `prepare` would leave it out.
    """
    with naming(path):
        decoded = decode_recording(path)
        decoded.check()
        if decoded.damaged:
            raise BadAudio(decoded.missing)
        return resample(decoded.samples, decoded.rate, rate)


def batches(
    frames: Sequence[int], max_tokens: int, batch_size: int | None = None
) -> Iterator[list[int]]:
    """Indices of utterances, longest first, in batches within both limits; each index once."""
    batch: list[int] = []
    for index in sorted(range(len(frames)), key=lambda i: -frames[i]):
        longest = frames[batch[0]] if batch else frames[index]
        if batch and (len(batch) == batch_size or longest * (len(batch) + 1) > max_tokens):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def count_parameters(model: nn.Module) -> int:
    """Parameters that inference reads: masks leave the count alone, scores are not counted.

    An exported model, whose parameters are elsewhere, says how many there are.
    """
    told: int | None = getattr(model, "parameter_count", None)
    if told is not None:
        return told
    controller = getattr(model, "mask_controller", None)
    sites = controller.sites if controller else []
    scores = {id(s): s for site in sites if (s := masked_weight(site).scores) is not None}
    count = sum(parameter.numel() for parameter in model.parameters())
    return count - sum(shared.numel() for shared in scores.values())


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Bad audio is told with the path of its file."""
    try:
        yield
    except BadAudio as problem:
        raise UserError(f"{path} {problem}") from problem


def sample_rate(loaded: LoadedModel) -> int:
    """What the model listens at, in Hz."""
    return int(loaded.cfg.task.get("sample_rate") or SAMPLE_RATE)


def best_device() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
