"""Damaged files of every kind, given to every command that reads them.

Whatever is wrong with a file, a command uses it or refuses it in one line, in bounded time: nothing
in it runs, no traceback is shown, and no half-written output is left.
"""

from __future__ import annotations

import io
import itertools
import json
import shutil
import signal
import traceback
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from click.testing import CliRunner

from benchmarks.mutations import mutated_bytes, mutated_lines, mutations
from speechprune.checkpoint.layers import depth
from speechprune.checksums import CHECKSUM, write_json
from speechprune.layers.matrix import SimilarityMatrix
from speechprune.layers.plan import LayerPlan, LayerPlans
from speechprune.manifests.provenance import write_provenance
from speechprune.masking.mask_set import MaskSet
from speechprune.models.mask_reading import read_checkpoint_masks
from speechprune.rewriting.banking import add, create
from speechprune.tools.main import commands

#: What can become of a command, best first; the last five are faults of ours.
USED, REFUSED = "used", "refused"
FAULTS = ("unclear", "traceback", "hung", "executed", "left behind")
OUTCOMES = (USED, REFUSED, *FAULTS)
#: Seconds that a command may take.
PATIENCE = 60


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        files: examples, by their paths within the folder of examples.
        lines: command lines that read them: `{file}` is the damaged one, `{in}` the folder of
            examples that it lies in, `{out}` a path to write to.
    """

    files: tuple[str, ...]
    lines: tuple[str, ...]


_RECORDINGS = ("one.wav", "two.flac", "three.mp3", "four.ogg")
_ON_DATA = "--data {in}/data --subset valid"
_KALDI = "prepare kaldi {in}/kaldi --language en --out {out} --workers 1 --max-bad 1"

KINDS: Mapping[str, Kind] = {
    "pretrained": Kind(
        ("pretrained.pt",),
        (
            "masks make {file} {out} --by global-magnitude --sparsity 0.5",
            f"layers similarity {{file}} {_ON_DATA} --measure cka --out {{out}}",
        ),
    ),
    "finetuned": Kind(
        ("finetuned.pt",),
        (
            "masks export {file} {out}",
            "masks fold {file} {out}",
            "layers drop {file} 0 {out}",
            f"evaluate {{file}} {_ON_DATA}",
            "transcribe {file} {in}/one.wav",
        ),
    ),
    "saved": Kind(
        ("run/checkpoints/checkpoint_last.pt",),
        ("compare {in}/run --subset valid", "average {in}/run {out}"),
    ),
    "masks": Kind(
        ("masks.safetensors",),
        ("masks stats {file}", "masks apply {in}/finetuned.pt {file} {out}"),
    ),
    "bank": Kind(
        ("bank.safetensors",),
        (
            "bank list {file}",
            "bank extract {file} es {out}",
            "bank remove {file} es",
        ),
    ),
    "matrix": Kind(("matrix.safetensors",), ("layers search {file} --drop 1",)),
    "plans": Kind(("plans.json",), ("layers drop {in}/finetuned.pt {file} {out}",)),
    "run": Kind(
        ("run/summary.json", "run/overrides.json"),
        ("compare {in}/run --subset valid",),
    ),
    "manifest": Kind(
        (
            *("data/valid.tsv", "data/valid.ltr", "data/valid.wrd", "data/valid.spk"),
            *("data/dict.ltr.txt", "data/provenance.json"),
        ),
        (
            "manifest check {in}/data",
            "manifest stats {in}/data",
            "manifest subset {in}/data {out} --minutes 0.05 --split train",
            f"evaluate {{in}}/finetuned.pt {_ON_DATA}",
        ),
    ),
    "audio": Kind(
        _RECORDINGS,
        ("transcribe {in}/finetuned.pt {file}", _KALDI),
    ),
    "kaldi": Kind(
        ("kaldi/wav.scp", "kaldi/text", "kaldi/utt2spk"),
        (_KALDI,),
    ),
    "table": Kind(
        ("en/train.tsv", "en/test.tsv"),
        ("prepare common-voice {in}/en --language en --out {out} --workers 1 --max-bad 1",),
    ),
    "archive": Kind(
        ("digits.zip",),
        ("prepare digits --archive {file} --train 2 --valid 1 --test 1 --out {out}",),
    ),
}


def write_examples(folder: Path, pretrained: Path, finetuned: Path, data: Path) -> None:
    """Make a folder of whole files of all kinds.

    Args:
        pretrained: the model that ``finetuned`` was trained on.
        finetuned: a model with masks, whose letters are those of ``data``.
        data: a manifest folder with the splits train and valid, and its audio inside.
    """
    shutil.copytree(data, folder / "data")
    for split in ("train", "valid"):
        rows = (data / f"{split}.tsv").read_text(encoding="utf-8").splitlines()[1:]
        _write(folder / "data" / f"{split}.spk", [f"speaker {split}" for _ in rows])
    write_provenance(folder / "data", {"corpus": "tones", "language": "en"})
    shutil.copy(pretrained, folder / "pretrained.pt")
    shutil.copy(finetuned, folder / "finetuned.pt")
    masks, layers = MaskSet(read_checkpoint_masks(finetuned), {}), depth(finetuned)
    masks.save(folder / "masks.safetensors")
    create(pretrained, folder / "bank.safetensors")
    add(folder / "bank.safetensors", "es", finetuned)
    alike = np.exp(-np.abs(np.subtract.outer(*2 * [np.arange(layers + 1.0)])))
    SimilarityMatrix(alike, "svcca").save(folder / "matrix.safetensors")
    LayerPlans((LayerPlan(layers, (0,)),), layers).save(folder / "plans.json")
    _write_run(folder / "run", finetuned)
    _write_audio(folder)


def _write_run(folder: Path, finetuned: Path) -> None:
    """A run as the runner of recipes leaves it."""
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copy(finetuned, folder / "checkpoints" / "checkpoint_last.pt")
    counts = {"updates": 2, "final_updates": 2, "seed": 1, "freeze_finetune_updates": 0}
    write_json(folder / "summary.json", {"label": "masks", "sparsity": 0.5, **counts})
    write_json(folder / "overrides.json", {"overrides": ["optimization.max_update=2"]})


def _write_audio(folder: Path) -> None:
    """Recordings in each format, and the corpora and the archive that they are in."""
    noise = np.random.default_rng(0).normal(scale=0.1, size=16000).astype(np.float32)
    for name in _RECORDINGS:
        soundfile.write(folder / name, noise, 16000)
    kaldi, voices = folder / "kaldi", folder / "en"
    (voices / "clips").mkdir(parents=True)
    kaldi.mkdir()
    _write(kaldi / "wav.scp", [f"{name} {folder}/{name}" for name in _RECORDINGS])
    _write(kaldi / "text", [f"{name} A BAD DECADE" for name in _RECORDINGS])
    _write(kaldi / "utt2spk", [f"{name} speaker-{name}" for name in _RECORDINGS])
    names = [f"u{number}" for number in range(6)]
    for name in names:
        shutil.copy(folder / "three.mp3", voices / "clips" / f"{name}.mp3")
    columns = ("client_id", "path", "sentence", "up_votes")
    rows = [(f"speaker-{name}", f"{name}.mp3", "A bad decade.", "2") for name in names]
    tables = {"train": rows[:2], "dev": rows[2:4], "test": rows[4:]}
    for table, those in tables.items():
        _write(voices / f"{table}.tsv", ["\t".join(row) for row in (columns, *those)])
    with zipfile.ZipFile(folder / "digits.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for digit, index in itertools.product(range(10), (0, 5, 10)):
            spoken = io.BytesIO()
            soundfile.write(spoken, noise[:2000], 8000, format="WAV")
            archive.writestr(f"recordings/{digit}_anna_{index}.wav", spoken.getvalue())


def _write(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@dataclass(frozen=True)
class Trial:
    """What a command made of a damaged file.

    Attributes:
        line: the command line, as it stands in `KINDS`.
        damage: the file and what was done to it, in words.
        outcome: one of `OUTCOMES`.
        told: the end of what it printed.
    """

    line: str
    damage: str
    outcome: str
    told: str


def trials(kind: Kind, examples: Path, scratch: Path, number: int, seed: int) -> Iterator[Trial]:
    """Damage an example ``number`` times, each time in one place, and try all command lines.

    Args:
        examples: what `write_examples` made; it is changed, and mended after each trial.
        scratch: a folder for what commands write, which is emptied.
    """
    marker = scratch.with_name(f"{scratch.name}.executed")
    share = -(-number // len(kind.files))
    for name in kind.files:
        path = examples / name
        whole = path.read_bytes()
        for line in kind.lines:
            outcome, told = _tried(line, path, examples, scratch, marker)
            if outcome != USED:
                raise RuntimeError(f"{line} should use the whole {name}, but: {outcome}, {told}")
        for damage, content in islice(_damaged(path, share, seed, marker), share):
            path.write_bytes(content)
            for line in kind.lines:
                outcome, told = _tried(line, path, examples, scratch, marker)
                yield Trial(line, f"{name}: {damage}", outcome, told)
            path.write_bytes(whole)


def _tried(line: str, path: Path, examples: Path, scratch: Path, marker: Path) -> tuple[str, str]:
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    names = {"file": path, "in": examples, "out": scratch / "out"}
    words = [word.format(**names) for word in line.split()]
    try:
        with _deadline():
            result = CliRunner().invoke(commands, words, catch_exceptions=True)
    except TimeoutError:
        return "hung", ""
    told = result.output.strip().splitlines()[-1:] or [""]
    if marker.exists():
        marker.unlink()
        return "executed", told[0]
    if isinstance(result.exception, TimeoutError):
        return "hung", told[0]
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return "traceback", "".join(traceback.format_exception(result.exception))[-3000:]
    if not result.exit_code:
        return USED, told[0]
    if not _names_the_fault(line, told[0]):
        return "unclear", result.output[-1000:]
    # A preparation may go on where it ended: what it has so far is hidden beside its output.
    seen = [path for path in scratch.iterdir() if not path.name.startswith(".")]
    return ("left behind" if seen else REFUSED), told[0]


def _names_the_fault(line: str, told: str) -> bool:
    return told.startswith("speechprune: error: ") or line.startswith("manifest check")


@contextmanager
def _deadline() -> Iterator[None]:
    """Raise TimeoutError after `PATIENCE`, where Python runs again."""

    def stop(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _damaged(path: Path, number: int, seed: int, marker: Path) -> Iterator[tuple[str, bytes]]:
    """Contents of a file with something wrong: its bytes by turns with what it says."""
    content = path.read_bytes()
    by_bytes = (("bytes", damaged) for damaged in mutated_bytes(content, number, seed))
    by_meaning = _MEANINGS.get(path.suffix, _as_text)(content, number, seed, marker)
    for pair in zip(by_meaning, by_bytes):
        yield from pair


Damaged = Iterator[tuple[str, bytes]]


def _as_checkpoint(content: bytes, number: int, seed: int, marker: Path) -> Damaged:
    state = torch.load(io.BytesIO(content), weights_only=True)
    for mutation in mutations(state, number, seed, marker):
        saved = io.BytesIO()
        torch.save(mutation.value, saved)
        yield f"{'.'.join(map(str, mutation.place))} {mutation.change}", saved.getvalue()


def _as_json(content: bytes, number: int, seed: int, marker: Path) -> Damaged:
    """Without a checksum, as files of earlier versions and those written by hand."""
    value = json.loads(content)
    value.pop(CHECKSUM, None)
    for mutation in mutations(value, number, seed, marker):
        told = f"{'.'.join(map(str, mutation.place))} {mutation.change}"
        yield told, json.dumps(mutation.value, default=str).encode()


def _as_text(content: bytes, number: int, seed: int, marker: Path) -> Damaged:
    yield from mutated_lines(content, number, seed)


def _as_bytes(content: bytes, number: int, seed: int, marker: Path) -> Damaged:
    return (("bytes", damaged) for damaged in mutated_bytes(content, number, seed + 1))


_MEANINGS: Mapping[str, Callable[[bytes, int, int, Path], Damaged]] = {
    ".pt": _as_checkpoint,
    ".json": _as_json,
    **dict.fromkeys((".safetensors", ".wav", ".flac", ".mp3", ".ogg", ".zip"), _as_bytes),
}
