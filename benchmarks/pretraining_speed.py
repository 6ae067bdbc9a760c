"""How long it takes to pretrain the nano and the mini model on one core, or on a GPU.

    python -m benchmarks.pretraining_speed

Updates of fairseq's trainer by the config of each model, and what is made before: speech, and the
units of its frames. On a CPU, one thread's own seconds are counted, whatever else the machine does.
Two minutes on a core.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import click
import torch

from benchmarks.harness import RESULTS, Report, device_option, machine
from speechprune.manifests.acoustic_units import Cepstra, write_units
from speechprune.manifests.audio import SAMPLE_RATE
from speechprune.manifests.frame_units import UNIT_RATE
from speechprune.manifests.rows import read_rows
from speechprune.recipes import mini, mini_speech
from speechprune.recipes.hidden_units import HiddenStates, Listening, middle
from speechprune.recipes.pretraining import folder_override
from speechprune.training.rehearsal import rehearse

CONFIGS = {"nano": "pretraining/nano", "mini": mini.CONFIG}
OVERRIDES: dict[str, dict[str, tuple[str, ...]]] = {
    "nano": {"cpu": (), "cuda": ("common.cpu=false",)},
    "mini": {name: scale.overrides for name, scale in mini.SCALES.items()},
}
HEADS = (
    *("model", "parameters", "audio s", "s per update", "audio s per s", "frames per s"),
    "updates in two hours",
)
_TWO_HOURS = 7200.0
_WARM_UP = 2


@dataclass(frozen=True)
class Timed:
    """Updates of one model.

    Attributes:
        parameters: of the network in pretraining, with its label embeddings.
        audio: seconds of audio in an update, on average.
        seconds: of an update, on average, without reading data, validation and saving.
    """

    parameters: int
    audio: float
    seconds: float

    def cells(self) -> list[str]:
        frames = self.audio * UNIT_RATE / self.seconds
        return [
            f"{self.parameters:,}",
            f"{self.audio:.1f}",
            f"{self.seconds:.3f}",
            f"{self.audio / self.seconds:.1f}",
            f"{frames:,.0f}",
            f"{_TWO_HOURS / self.seconds:,.0f}",
        ]


def clock(device: str) -> float:
    """Seconds: this process's own on a CPU, and those on the wall with a GPU."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def trainer_of(config: str, data: Path, overrides: Sequence[str]) -> Any:
    """fairseq's trainer by a config, on a folder of manifests and units."""
    from fairseq import tasks
    from fairseq.trainer import Trainer

    own = [folder_override("task.data", data), folder_override("task.label_dir", data)]
    cfg = rehearse(["--config-name", config, *own, *overrides], data=False)
    task = tasks.setup_task(cfg.task)
    model, criterion = task.build_model(cfg.model), task.build_criterion(cfg.criterion)
    return Trainer(cfg, task, model, criterion)


def updates(trainer: Any, device: str, count: int) -> Timed:
    """The time of some updates, after two to warm up."""
    seconds, audio = [], []
    batches = _batches(trainer)
    for number in range(count + _WARM_UP):
        batch = next(batches)
        start = clock(device)
        trainer.train_step([batch])
        if number >= _WARM_UP:
            seconds.append(clock(device) - start)
            audio.append(batch["net_input"]["source"].numel() / SAMPLE_RATE)
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    return Timed(parameters, mean(audio), mean(seconds))


def _batches(trainer: Any) -> Iterator[Any]:
    epoch = 1
    while True:
        stream = trainer.get_train_iterator(epoch, load_dataset=epoch == 1)
        trainer.begin_epoch(epoch)
        yield from stream.next_epoch_itr(shuffle=True)
        epoch += 1


@dataclass(frozen=True)
class Listened:
    """Speech that was made, and what takes its time before training.

    Attributes:
        data: the manifest folder of all recordings, with units of cepstra.
        hours: of them.
        speaking, cepstra: seconds that these took.
    """

    data: Path
    hours: float
    speaking: float
    cepstra: float

    @classmethod
    def of(cls, folder: Path, hours: float) -> Listened:
        """About so many hours of new speech in all languages, by one process."""
        start = time.process_time()
        data = mini_speech.make_mini_speech(folder, mini_speech.MiniSpeech(hours))
        spoken = time.process_time()
        for split in mini_speech.SPLITS:
            features = Cepstra(data)
            list(features.of(split, range(features.count(split))))
        heard = time.process_time()
        write_units(data, mini_speech.SPLITS)
        samples = sum(
            s for name in mini_speech.SPLITS for _, s in read_rows(data / f"{name}.tsv")[1]
        )
        return cls(data, samples / SAMPLE_RATE / 3600, spoken - start, heard - spoken)


def hidden_states(listened: Listened, trainer: Any, device: str) -> float:
    """Seconds that the middle hidden states of a model take."""
    checkpoint = listened.data / "model.pt"
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(checkpoint), {})
    how = Listening(torch.device(device))
    features = HiddenStates(listened.data, checkpoint, middle(checkpoint), how)
    start = clock(device)
    for split in mini_speech.SPLITS:
        list(features.of(split, range(features.count(split))))
    return clock(device) - start


@click.command(help=__doc__)
@device_option
@click.option("--updates", "count", type=click.IntRange(1), default=9, help="Updates timed; 9.")
@click.option("--hours", type=float, default=0.05, help="Hours of speech to make, about; 0.05.")
@click.option("--save", is_flag=True, help="Write the tables to benchmarks/results.")
def main(device: str, count: int, hours: float, save: bool) -> None:
    if device == "cpu":
        torch.set_num_threads(1)
    report = Report()
    report.tell(f"{machine(device)}\n")
    with tempfile.TemporaryDirectory() as folder:
        listened = Listened.of(Path(folder) / "speech", hours)
        rows = report.table(HEADS)
        for name, config in CONFIGS.items():
            trainer = trainer_of(config, listened.data, OVERRIDES[name][device])
            rows.add(name, *updates(trainer, device, count).cells())
        report.tell(f"\n{listened.hours:.2f} hours of speech, by one process\n")
        rows = report.table(("step", "seconds per hour"), (30,))
        for step, seconds in (
            ("speaking", listened.speaking),
            ("cepstra", listened.cepstra),
            ("hidden states of mini", hidden_states(listened, trainer, device)),
        ):
            rows.add(step, f"{seconds / listened.hours:.1f}")
    if save:
        report.save(RESULTS / f"pretraining_speed_{device}.txt")


if __name__ == "__main__":
    main()
