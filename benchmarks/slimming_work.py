"""What `benchmarks.slimming` does besides training: files made of others, once, by worker processes
with one thread each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from io import BytesIO
from itertools import combinations
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.harness import machine
from speechprune.backbones import LAYER_ROLES, find_backbone
from speechprune.backbones.cost import encoder_cost
from speechprune.backbones.lengths import SAMPLE_RATE
from speechprune.checksums import write_json
from speechprune.decoding.inference import evaluate, padded, read_audio
from speechprune.dropping.search import VerificationSettings, verify_plans
from speechprune.files import make_folder
from speechprune.layers.plan import LayerPlan, LayerPlans
from speechprune.manifests.manifest import read_split
from speechprune.models.loading import LoadedRecogniser, load_encoder, load_recogniser
from speechprune.models.sites import encoder_of_model, prunable
from speechprune.recipes.steps import Making
from speechprune.rewriting.baseline_masks import Ranking
from speechprune.rewriting.layer_dropping import drop_layers
from speechprune.rewriting.masks import apply_masks
from speechprune.workers import follow_parent

#: Audio that multiply-adds and time are measured on.
SECONDS = 10


@dataclass(frozen=True)
class Made(Making):
    """A file that is made of another one, unless it is there: a round between trainings.

    Attributes:
        make: of a source and a target, and perhaps of more; a worker process has to find it by
            its name.
        settings: what else ``make`` is given.
        workers: where it runs.
        then: what to do in this process once the file has been made.
    """

    make: Callable[..., object]
    settings: Mapping[str, Any]
    workers: Executor
    then: Callable[[], None] = lambda: None

    def finish(self, environment: Mapping[str, str]) -> None:
        """Make the file, unless it is there; raises UserError as ``make``."""
        if not self.is_done:
            make_folder(self.target.parent)
            self.workers.submit(self.make, self.source, self.target, **self.settings).result()
            self.then()


def begin() -> None:
    """How a worker process begins."""
    follow_parent()
    torch.set_num_threads(1)


# --- how much goes -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """How much every method keeps of an encoder: what it has without some of its layers.

    Attributes:
        whole, kept: parameters.
        heads, channels: shares that are removed of each layer, where units go and no layers.
        sparsity: share that is removed of the weights and biases that PARP masks.
    """

    whole: int
    kept: int
    heads: float
    channels: float
    sparsity: float

    @property
    def share(self) -> float:
        """Of the parameters that stay."""
        return self.kept / self.whole


def size_without_layers(path: Path, drop: int) -> Size:
    """What a pretrained encoder, all of whose layers are alike, keeps when some are dropped.

    Of the heads of each layer, the nearest whole number to the share that has to go of all units is
    removed, and of the channels as many as come nearest to the same number of parameters.
    """
    encoder = load_encoder(path)
    family = find_backbone(encoder)
    units = family.units(encoder)
    sites = prunable(family.sites(encoder, LAYER_ROLES), biases=True)
    maskable = sum(getattr(site.module, site.tensor).numel() for site in sites)
    whole, one, layers = _parameters(encoder), units[0], len(units)
    family.drop_layers(encoder, range(drop))
    kept = _parameters(encoder)
    of_each = (whole - kept) / layers
    of_units = one.parameters_of_head * one.heads + one.parameters_of_channel * one.channels
    heads = round(of_each / of_units * one.heads)
    channels = round((of_each - heads * one.parameters_of_head) / one.parameters_of_channel)
    return Size(whole, kept, heads / one.heads, channels / one.channels, (whole - kept) / maskable)


def _parameters(encoder: nn.Module) -> int:
    return sum(parameter.numel() for parameter in encoder.parameters())


# --- models --------------------------------------------------------------------------------------


def drop_best(source: Path, out: Path, *, drop: int, data: Path) -> None:
    """Drop so many layers, by the plan of all with the fewest errors on the validation split."""

    def plans(layers: int) -> LayerPlans:
        chosen = combinations(range(layers), drop)
        return LayerPlans(tuple(LayerPlan(layers, dropped) for dropped in chosen), layers)

    report = verify_plans(source, plans, VerificationSettings(data, "valid"))
    drop_layers(source, report.measured[0].plan.dropped, out)


def mask_by_magnitude(source: Path, out: Path, *, sparsity: float) -> None:
    """Mask the smallest weights and biases of all layers together, as PARP does at first."""
    apply_masks(source, Ranking(source, "global-magnitude").masks(sparsity), out)


# --- measurements --------------------------------------------------------------------------------


def measure(source: Path, out: Path, *, data: Path) -> None:
    """Write error rates of a model on the test split, and what it costs, as JSON.

    ``parameters`` are of the encoder, without those that masks remove; ``multiply_adds`` are of its
    dense products for `SECONDS` of audio, whose number masks leave alone; ``bytes`` is what all
    tensors of the model take in a file, masks baked in.
    """
    loaded = load_recogniser(source)
    found = evaluate(loaded, read_split(data, "test"))
    masked = _bake(loaded)
    encoder = encoder_of_model(loaded.model)
    cost = encoder_cost(encoder, SECONDS)
    file = BytesIO()
    torch.save(loaded.model.state_dict(), file)
    measured = {
        "wer": found.words.rate,
        "cer": found.characters.rate,
        "parameters": cost.parameters - masked,
        "multiply_adds": cost.multiply_adds,
        "bytes": file.getbuffer().nbytes,
        "units": [[layer.heads, layer.channels] for layer in find_backbone(encoder).units(encoder)],
    }
    write_json(out, measured)


def _bake(loaded: LoadedRecogniser) -> int:
    """Bake the masks of a model in, if it has some; gives how many entries they remove."""
    controller = getattr(loaded.model, "mask_controller", None)
    if controller is None:
        return 0
    tally = controller.mask_set().tally
    loaded.model.fold()
    return int(tally.total - tally.kept)


def measure_speed(models: Mapping[str, Path], out: Path, *, data: Path, repeats: int) -> None:
    """Write the seconds that each model takes for a second of audio, as JSON.

    All models hear the same speech in turn, so that what else the machine does falls on all alike.

    Args:
        models: checkpoints by what they are called.
        repeats: times each, after once to warm up; the median of each model counts.
    """
    loaded = {name: load_recogniser(path) for name, path in models.items()}
    for each in loaded.values():
        _bake(each)
    speech = _speech(data)
    turns = [
        {name: _seconds(each, speech) for name, each in loaded.items()} for _ in range(1 + repeats)
    ]
    taken = {name: [turn[name] / SECONDS for turn in turns[1:]] for name in models}
    seconds = {name: median(each) for name, each in taken.items()}
    write_json(out, {"machine": machine(), "seconds": seconds, "all": taken})


def _speech(data: Path) -> np.ndarray:
    """`SECONDS` of the test split, float32 (samples,)."""
    split = read_split(data, "test")
    samples, heard = SECONDS * SAMPLE_RATE, []
    for utterance in split.utterances:
        heard.append(read_audio(split.root / utterance.path, SAMPLE_RATE))
        if sum(map(len, heard)) >= samples:
            break
    return np.concatenate(heard)[:samples]


@torch.inference_mode()
def _seconds(loaded: LoadedRecogniser, speech: np.ndarray) -> float:
    batch = padded(loaded, [speech])
    start = perf_counter()
    loaded.model.get_logits(loaded.model(**batch))
    return perf_counter() - start
