"""How fast corpora are prepared, by number of workers.

    python -m benchmarks.prepare

MP3 to FLAC as from Common Voice, and LibriSpeech's FLAC in place. For the conversion, the time that
decoding, resampling and encoding take by themselves is shown beside it.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Callable

import click
import soundfile
import soxr

from benchmarks.harness import Report, Rows
from speechprune.manifests.audio import SAMPLE_RATE, read_resampled, write_flac
from speechprune.manifests.corpora.common_voice import CommonVoice
from speechprune.manifests.corpora.librispeech import LibriSpeech
from speechprune.manifests.corpus import ReadyUnits
from speechprune.manifests.espeak import Voice, speak
from speechprune.manifests.preparation import prepare

_TEXT = "the quick brown fox jumps over the lazy dog while seven wizards look on"
_DISTINCT = 16  # recordings spoken; the others are copies of them


@click.command(help=__doc__)
@click.option("--clips", type=click.IntRange(1), default=800, help="In each corpus; 800.")
@click.option("--workers", type=click.IntRange(1), default=os.cpu_count(), help="At most.")
def main(clips: int, workers: int) -> None:
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        spoken = [
            speak(_TEXT, Voice("gmw/en-US", f"m{1 + i % 8}", 120 + 5 * i)) for i in range(_DISTINCT)
        ]
        hours = sum(len(spoken[i % _DISTINCT]) for i in range(clips)) / SAMPLE_RATE / 3600
        report.tell(f"{os.cpu_count()} cores; {clips} clips, {hours:.2f} h\n")
        rows = report.table(["corpus", "workers", "hours per minute", ""], (20,))
        mp3 = _write_common_voice(Path(folder) / "xx", spoken, clips)
        flac = _write_librispeech(Path(folder) / "libri", spoken, clips)
        for name, read in (
            ("MP3 to FLAC", lambda: CommonVoice().read(mp3)),
            ("LibriSpeech in place", lambda: LibriSpeech().read(flac)),
        ):
            for count in (n for n in (1, 2, 4, 8, 16, 32, 64) if n <= workers):
                out = Path(folder) / f"{name}-{count}"
                corpus = replace(read(), labels=ReadyUnits())
                seconds = _time(partial(prepare, corpus, out, workers=count))
                rows.add(name, str(count), f"{hours / seconds * 60:.1f}")
        _tell_parts(rows, mp3 / "clips", clips, hours)


def _tell_parts(rows: Rows, clips: Path, count: int, hours: float) -> None:
    """What the steps of a conversion take by themselves, in one process."""
    paths = sorted(clips.iterdir())[:count]
    decoded: list[Any] = []
    decoding = _time(lambda: decoded.extend(soundfile.read(p, dtype="float32") for p in paths))
    resampled: list[Any] = []
    resampling = _time(
        lambda: resampled.extend(soxr.resample(x, r, SAMPLE_RATE) for x, r in decoded)
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "a.flac"
        encoding = _time(lambda: [write_flac(out, samples) for samples in resampled])
        whole = _time(lambda: [write_flac(out, read_resampled(path)[0]) for path in paths])
    for name, seconds in (
        ("decoding", decoding),
        ("resampling", resampling),
        ("writing", encoding),
    ):
        share = f"{seconds / whole:4.0%} of a conversion"
        rows.add(f"{name} alone", "1", f"{hours / seconds * 60:.1f}", share)


def _write_common_voice(root: Path, spoken: list, count: int) -> Path:
    (root / "clips").mkdir(parents=True)
    encoded = []
    for samples in spoken:
        file = io.BytesIO()
        soundfile.write(file, soxr.resample(samples, SAMPLE_RATE, 48000), 48000, format="MP3")
        encoded.append(file.getvalue())
    rows: dict[str, list[Any]] = {"train": [], "dev": [], "test": []}
    for index in range(count):
        name = f"common_voice_xx_{index}.mp3"
        (root / "clips" / name).write_bytes(encoded[index % len(encoded)])
        split = ("train", "dev", "test")[max(0, index - count + 3)]
        rows[split].append(f"speaker\t{name}\t{_TEXT}\n")
    for split, lines in rows.items():
        (root / f"{split}.tsv").write_text("client_id\tpath\tsentence\n" + "".join(lines))
    return root


def _write_librispeech(root: Path, spoken: list, count: int) -> Path:
    folder = root / "train-clean-100" / "1" / "2"
    folder.mkdir(parents=True)
    encoded = []
    for samples in spoken:
        write_flac(folder / "a.flac", samples)
        encoded.append((folder / "a.flac").read_bytes())
    (folder / "a.flac").unlink()
    lines = []
    for index in range(count):
        (folder / f"1-2-{index:06d}.flac").write_bytes(encoded[index % len(encoded)])
        lines.append(f"1-2-{index:06d} {_TEXT.upper()}\n")
    (folder / "1-2.trans.txt").write_text("".join(lines))
    return root


def _time(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
