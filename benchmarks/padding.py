"""What hearing each utterance of a batch apart costs, beside fairseq's own batches.

    python -m benchmarks.padding

A wav2vec 2.0 base with random weights makes features of utterances of 2 to 8 s, longest first, in
batches of several sizes. fairseq's own normalise over padding, so that what an utterance gives
depends on its batch: by how much is told too, as the largest difference of an output.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import numpy as np
import torch
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from benchmarks.harness import Report, device_option, machine
from speechprune.backbones.wav2vec2 import Wav2Vec2

_RATE = 16000
_SHORTEST, _LONGEST = 2.0, 8.0

Extract = Callable[[Tensor, Tensor], Tensor]


@click.command(help=__doc__, context_settings={"show_default": True})
@device_option
@click.option("--utterances", type=click.IntRange(2), default=16, help="Number of utterances.")
@click.option("--sizes", default="1,4,16", help="Utterances in a batch.")
@click.option("--repeats", type=click.IntRange(1), default=2, help="Times each; the best counts.")
@click.option("--save", type=click.Path(path_type=Path), help="File for the table.")
def main(device: str, utterances: int, sizes: str, repeats: int, save: Path | None) -> None:
    report = Report()
    report.tell(machine(device))
    model = _base().to(device)
    audio = _audio(utterances, device)
    seconds = sum(len(each) for each in audio) / _RATE
    alone = [_apart(model)(*_padded([each])) for each in audio]
    table = report.table(
        ("batch of", "padding", "fairseq", "apart", "fairseq off by", "apart off by")
    )
    for size in map(int, sizes.split(",")):
        batches = [audio[start : start + size] for start in range(0, len(audio), size)]
        heard = sum(len(batch) * len(batch[0]) for batch in batches) / _RATE
        cells = [str(size), f"{1 - seconds / heard:.0%}"]
        measured = [_measure(extract(model), batches, repeats) for extract in (_fairseqs, _apart)]
        cells += [f"{seconds / time:.2f} x" for time, _ in measured]
        cells += [f"{_difference(features, alone):.0e}" for _, features in measured]
        table.add(*cells)
    report.tell(
        "x: seconds of audio in a second; off by: largest difference from the utterance alone"
    )
    if save is not None:
        report.save(save)


def _base() -> Any:
    torch.manual_seed(0)
    model = Wav2Vec2Model(Wav2Vec2Config())
    model.remove_pretraining_modules()
    return model.eval().requires_grad_(False)


def _audio(utterances: int, device: str) -> list[Tensor]:
    lengths = np.random.default_rng(0).uniform(_SHORTEST, _LONGEST, utterances) * _RATE
    generator = torch.Generator().manual_seed(0)
    descending = sorted(map(int, lengths), reverse=True)
    return [torch.randn(length, generator=generator).to(device) for length in descending]


def _padded(batch: list[Tensor]) -> tuple[Tensor, Tensor]:
    source = pad_sequence(batch, batch_first=True)
    lengths = torch.tensor([len(each) for each in batch], device=source.device)
    return source, torch.arange(source.shape[1], device=source.device) >= lengths[:, None]


def _fairseqs(model: Any) -> Extract:
    return lambda source, padding: model.extract_features(source, padding, mask=False)["x"]


def _apart(model: Any) -> Extract:
    return lambda source, padding: Wav2Vec2().features(model, source, padding)[0]


@torch.inference_mode()
def _measure(
    extract: Extract, batches: list[list[Tensor]], repeats: int
) -> tuple[float, list[Tensor]]:
    """The best time for all batches, in seconds, and the features of each utterance, (T, C), with
    frames of padding after them."""
    best, features = float("inf"), []
    for _ in range(repeats):
        start = perf_counter()
        features = [one for batch in batches for one in extract(*_padded(batch))]
        features[-1].sum().item()  # what a GPU was asked for is done
        best = min(best, perf_counter() - start)
    return best, features


def _difference(features: list[Tensor], alone: list[Tensor]) -> float:
    pairs = zip(features, alone)
    return max((one[: own.shape[1]] - own[0]).abs().max().item() for one, own in pairs)


if __name__ == "__main__":
    main()
