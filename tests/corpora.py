"""Corpora in miniature, laid out as they are downloaded."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import soundfile

from speechprune.manifests.corpus import Clip, Corpus, ReadyUnits

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
#: One real clip of Common Voice, 2.38 s, 48 kHz MP3.
REAL_MP3 = DATA / "commonvoice" / "common_voice_en_651325.mp3"


def noise(path: Path, seconds: float = 0.5, rate: int = 16000, channels: int = 1) -> Path:
    """Write a little noise; the ending tells the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(path.name.encode())
    shape = (int(seconds * rate), channels)
    samples = np.random.default_rng(seed).normal(0.0, 0.1, shape).clip(-0.9, 0.9)
    soundfile.write(path, samples, rate)
    return path


def cut(path: Path, share: float) -> Path:
    """Take away the end of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


def without_length(path: Path, size: int = 0xFFFFFFFF, riff: int = 0xFFFFFFFF) -> Path:
    """Let the header of a WAV say nothing of its length, as programs do that write to a pipe."""
    content = path.read_bytes()
    assert content[36:40] == b"data"
    sizes = struct.pack("<I", riff), struct.pack("<I", size)
    path.write_bytes(content[:4] + sizes[0] + content[8:40] + sizes[1] + content[44:])
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything in a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def corpus_of(root: Path, **splits: list[str]) -> Corpus:
    """A corpus of files below ``root``, each saying its own name."""
    clips = {
        split: [
            Clip(source, f"said {Path(source).stem}", f"speaker of {source}") for source in sources
        ]
        for split, sources in splits.items()
    }
    return Corpus("toy", "en", root, clips, ReadyUnits())


def clips_per_split(corpus: Corpus) -> dict[str, int]:
    """Clips per split; every clip's audio must be there."""
    for clips in corpus.splits.values():
        assert all((corpus.root / clip.source).is_file() for clip in clips)
    return {name: len(clips) for name, clips in corpus.splits.items()}


def write_librispeech(root: Path) -> Path:
    """`train-clean-100` and `dev-clean`, with two chapters of two utterances each."""
    for split, speakers in (("train-clean-100", (19, 103)), ("dev-clean", (84, 174))):
        for speaker in speakers:
            _chapter(root / split, speaker, 198)
    return root


def write_libri_light(root: Path) -> Path:
    """`librispeech_finetuning`: 1h/0 to 1h/5 and 9h, each clean and other."""
    speaker = 1000
    for part in (*(f"1h/{i}" for i in range(6)), "9h"):
        for kind in ("clean", "other"):
            speaker += 1
            _chapter(root / part / kind, speaker, 7)
    return root


def _chapter(folder: Path, speaker: int, chapter: int) -> None:
    lines = []
    for index, text in enumerate(("THE CAT'S HAT", "A DOG")):
        name = f"{speaker}-{chapter}-{index:04d}"
        noise(folder / f"{speaker}/{chapter}/{name}.flac", 0.3 + 0.1 * index)
        lines.append(f"{name} {text}\n")
    (folder / f"{speaker}/{chapter}/{speaker}-{chapter}.trans.txt").write_text("".join(lines))


def write_common_voice(
    root: Path,
    sentences: dict[str, list[tuple[str, str]]],
    *,
    columns: str = "client_id path sentence up_votes",
) -> Path:
    """A language folder: of each ``.tsv``, (speaker, sentence) rows; each clip a small MP3.

    Clips of `validated` that other files have too are the same.
    """
    numbers: dict[tuple[str, str], int] = {}
    for rows in sentences.values():
        for row in rows:
            numbers.setdefault(row, len(numbers))
    for number in numbers.values():
        noise(root / "clips" / f"common_voice_xx_{number}.mp3", 0.5, 48000)
    for name, rows in sentences.items():
        lines = [columns.split()]
        for speaker, sentence in rows:
            values = {
                "client_id": speaker,
                "path": f"common_voice_xx_{numbers[speaker, sentence]}.mp3",
                "sentence": sentence,
            }
            lines.append([values.get(column, "0") for column in lines[0]])
        text = "".join("\t".join(line) + "\n" for line in lines)
        (root / f"{name}.tsv").write_text(text, encoding="utf-8")
    return root


def write_aishell(root: Path) -> Path:
    """`data_aishell`, with one recording that has no transcript."""
    lines = []
    for split, speaker in (("train", 2), ("dev", 724), ("test", 764)):
        for index in range(2):
            name = f"BAC009S{speaker:04d}W{index:04d}"
            noise(root / f"wav/{split}/S{speaker:04d}/{name}.wav", 0.3)
            lines.append(f"{name} \u800c \u5bf9 \u697c\u5e02\n")
    noise(root / "wav/train/S0002/BAC009S0002W9999.wav")
    (root / "transcript").mkdir()
    (root / "transcript/aishell_transcript_v0.8.txt").write_text("".join(lines), encoding="utf-8")
    return root


def write_kaldi(root: Path) -> Path:
    """`train`, with one long recording in segments, and `dev`, with whole ones."""
    noise(root / "audio/long.wav", 3.0, 8000)
    noise(root / "audio/a b.wav")
    noise(root / "audio/\u00e9.flac")
    tables = {
        "train/wav.scp": f"long {root}/audio/long.wav",
        "train/segments": "u2 long 1.0 2.25\nu1 long 0.0 1.0",
        "train/text": "u1 one two\nu2 three",
        "train/utt2spk": "u1 ann\nu2 bob",
        "dev/wav.scp": "d1 audio/a b.wav\nd2 audio/\u00e9.flac",
        "dev/text": "d1 four\nd2 five six",
    }
    for name, text in tables.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text + "\n", encoding="utf-8")
    return root
