"""An hour of speech as one recording: memory and speed, beside batches of pieces of 20 seconds.

    python -m benchmarks.long_recordings --checkpoint model.pt --data data --out hour.wav

Each way runs in a process of its own, whose highest memory is that of the row.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import click
import numpy as np
import soundfile

from benchmarks.harness import Report, Rows, machine

#: Seconds of the pieces that are transcribed beside, and of the audio in a batch.
PIECE, BATCH = 20, 80
WAYS = ("windows", "pieces")
HEAD = ("way", "audio s", "seconds", "audio s per s", "highest MB", "words")


def concatenate(folder: Path, split: str, seconds: float, out: Path) -> Path:
    """Write recordings of a split one after the other, with pauses, until they are long enough."""
    from speechprune.decoding.inference import read_audio
    from speechprune.manifests.manifest import read_split

    found = read_split(folder, split)
    pause = np.zeros(8000, dtype=np.float32)
    with soundfile.SoundFile(out, "w", 16000, channels=1, subtype="PCM_16") as file:
        index = 0
        while file.tell() < seconds * 16000:
            utterance = found.utterances[index % len(found.utterances)]
            file.write(read_audio(found.root / utterance.path, 16000))
            file.write(pause)
            index += 1
    return out


def hear(way: str, checkpoint: Path, recording: Path) -> int:
    """The words that are heard in one way."""
    from speechprune.decoding.files import transcribe_files
    from speechprune.decoding.texts import texts_of
    from speechprune.models.loading import load_recogniser

    loaded = load_recogniser(checkpoint)
    if way == "windows":
        return len(transcribe_files(loaded, [recording])[0].text.split())
    size, words = PIECE * 16000, 0
    with soundfile.SoundFile(recording) as file:
        while len(samples := file.read(BATCH * 16000, dtype="float32")):
            pieces = [samples[begin : begin + size] for begin in range(0, len(samples), size)]
            words += sum(len(text.split()) for text in texts_of(loaded, pieces))
    return words


def measured(way: str, checkpoint: Path, recording: Path) -> tuple[str, ...]:
    """A row of the table, of this process."""
    start = perf_counter()
    words = hear(way, checkpoint, recording)
    seconds = perf_counter() - start
    audio = soundfile.info(str(recording)).duration
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return (
        way,
        f"{audio:.0f}",
        f"{seconds:.1f}",
        f"{audio / seconds:.1f}",
        f"{memory:.0f}",
        str(words),
    )


@click.command(help=__doc__)
@click.option("--checkpoint", required=True, type=click.Path(path_type=Path), help="CTC model.")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder of manifests.")
@click.option("--subset", default="test", show_default=True, help="Split to concatenate.")
@click.option("--minutes", default=60.0, show_default=True, help="Length of the recording.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Recording to write.")
@click.option("--save", type=click.Path(path_type=Path), help="File for the table.")
@click.option("--way", type=click.Choice(WAYS), help="Only measure this way, in this process.")
def main(
    checkpoint: Path,
    data: Path,
    subset: str,
    minutes: float,
    out: Path,
    save: Path | None,
    way: str | None,
) -> None:
    if way is not None:
        click.echo("\t".join(measured(way, checkpoint, out)))
        return
    concatenate(data, subset, minutes * 60, out)
    report = Report()
    report.tell(f"{machine()}; {checkpoint.name}\n")
    rows = Rows(report.tell, HEAD, (max(map(len, WAYS)),))
    for each in WAYS:
        line = [sys.executable, "-m", "benchmarks.long_recordings", *sys.argv[1:], "--way", each]
        ran = subprocess.run(line, check=True, capture_output=True, text=True, env=os.environ)
        rows.add(*ran.stdout.strip().split("\t"))
    if save is not None:
        report.save(save)


if __name__ == "__main__":
    main()
