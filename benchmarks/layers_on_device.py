"""Similarity of layers and verification of plans on a device, beside a CPU.

    python -m benchmarks.layers_on_device

wav2vec 2.0 base with random weights, recordings of noise. The references are what the whole model
hears on the CPU. They differ, as devices round in their own ways, but not by much. Two minutes on
two cores.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import click
import numpy as np

from benchmarks import original_layer_search as plain
from benchmarks.harness import Report, device_option, in_words, machine, on_device
from benchmarks.recognisers import SMALL_ENCODER
from speechprune.dropping.hearing import Recordings
from speechprune.dropping.similarity import Listening
from speechprune.dropping.transcripts import TranscriptVerifier
from speechprune.layers.plan import LayerPlan
from speechprune.layers.similarity import MEASURES, gather
from speechprune.manifests.manifest import Split
from speechprune.models.loading import LoadedRecogniser
from speechprune.models.sites import encoder_of_model

#: Most that devices may differ by: in similarity, and in the error rate of a plan.
TOLERANCE = 0.05


@dataclass(frozen=True)
class Work:
    """What was done on a device: its time, and values to compare with those of another."""

    name: str
    seconds: float
    values: np.ndarray


def do(loaded: LoadedRecogniser, split: Split, device: str) -> Iterator[Work]:
    """Both kinds of work, on a device that is warm."""
    encoder = encoder_of_model(loaded.model)
    sampling_rate = loaded.cfg.task.get("sample_rate") or 16000
    paths = [split.root / utterance.path for utterance in split.utterances]
    measure = MEASURES.build("svcca", mode="T")
    with on_device(device):
        heard = Recordings(paths, False, sampling_rate)
        gather(Listening(encoder, heard, [0]).states(), [measure])
        start = perf_counter()
        states = Listening(encoder, heard, range(len(heard))).states()
        (statistic,) = gather(states, [measure])
        matrix = measure.matrix(statistic)
        yield Work("similarity, svcca", perf_counter() - start, matrix)
        start = perf_counter()
        verifier = TranscriptVerifier(loaded, split)
        layers = len(verifier.layers)
        plans = [LayerPlan(layers, (layer,)) for layer in range(layers)]
        measured = verifier.measure(plans, verifier.metric)
        rates = np.array([plan.rate(verifier.metric) for plan in measured])
        yield Work(f"{layers} plans verified", perf_counter() - start, rates)


@click.command(help=__doc__, context_settings={"show_default": True})
@device_option
@click.option("--utterances", type=click.IntRange(1), default=4, help="Number of utterances.")
@click.option("--seconds", type=float, default=10.0, help="Length of each, in seconds.")
@click.option("--quick", is_flag=True, help="A tiny encoder, to try this out.")
def main(device: str, utterances: int, seconds: float, quick: bool) -> None:
    loaded = plain.recogniser(**(SMALL_ENCODER if quick else {}))
    report = Report()
    report.tell(f"{machine(device)}; {utterances} utterances of {seconds:g} s\n")
    rows = report.table(["device", "work", "time", "ratio", "difference"], (0, 20, 8), left=2)
    with tempfile.TemporaryDirectory() as folder:
        with on_device("cpu"):
            split = plain.noises(Path(folder), loaded, utterances, seconds)
        reference = []
        for work in do(loaded, split, "cpu"):
            reference.append(work)
            rows.add("cpu", work.name, in_words(work.seconds), "1.0")
        for here, there in zip(reference, do(loaded, split, device) if device != "cpu" else ()):
            difference = float(np.abs(here.values - there.values).max())
            ratio = f"{here.seconds / there.seconds:.1f}"
            rows.add(device, there.name, in_words(there.seconds), ratio, f"{difference:.1g}")
            if not difference <= TOLERANCE:
                raise click.ClickException(f"{here.name}: devices differ by {difference:.3g}")


if __name__ == "__main__":
    main()
