"""A preparation that was interrupted goes on where it was, with the same settings only."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from corpora import corpus_of, files_of, noise

from speechprune.errors import UserError
from speechprune.manifests import audio
from speechprune.manifests.check import check_split
from speechprune.manifests.corpus import Clip, Corpus, ReadyUnits, Segment
from speechprune.manifests.manifest import read_split
from speechprune.manifests.preparation import prepare

SLOW = """
import sys, time
from pathlib import Path
from typing import Any
sys.path.insert(0, sys.argv[3])
from corpora import corpus_of
from speechprune.manifests import conversion, preparation
write = conversion.write_flac
def slowly(*arguments):
    time.sleep(0.05)
    return write(*arguments)
conversion.write_flac = slowly
names = [f"{i:03d}.wav" for i in range(60)]
preparation.prepare(corpus_of(Path(sys.argv[1]), train=names), Path(sys.argv[2]), workers=2)
"""


def test_a_killed_preparation_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [noise(tmp_path / f"in/{i:03d}.wav", 0.1, 8000).name for i in range(60)]
    arguments = [str(tmp_path / "in"), str(tmp_path / "out"), str(Path(__file__).parent.parent)]
    killed = subprocess.Popen([sys.executable, "-c", SLOW, *arguments], start_new_session=True)
    done = tmp_path / ".out.partial" / "audio"
    while len(list(done.glob("*.flac"))) < 5:
        assert killed.poll() is None
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)  # its workers end by themselves
    killed.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in done.glob("*.flac")}
    (done / "059.flac.1.partial").write_bytes(b"fLaC")  # what a worker may leave
    assert not (tmp_path / "out").exists() and 5 <= len(kept) < 60
    corpus = corpus_of(tmp_path / "in", train=names)
    prepare(corpus, tmp_path / "out", workers=1)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out/audio").iterdir()}
    assert {name: after[name] for name in kept} == kept
    prepare(corpus, tmp_path / "fresh", workers=1)
    moved = {k: v.replace(b"/fresh/", b"/out/") for k, v in files_of(tmp_path / "fresh").items()}
    assert files_of(tmp_path / "out") == moved
    assert sorted(os.listdir(tmp_path)) == ["fresh", "in", "out"]


def test_a_full_disk_keeps_what_is_done_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = corpus_of(tmp_path / "in", train=["a.wav", "b.wav"])
    for name in ("a.wav", "b.wav"):
        noise(tmp_path / "in" / name, rate=8000)
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name == "b.flac":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(audio.os, "replace", full)
    with pytest.raises(UserError, match="No space left on device; make room"):
        prepare(corpus, tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()
    assert os.listdir(tmp_path / ".out.partial/audio") == ["a.flac"]
    monkeypatch.undo()
    prepare(corpus, tmp_path / "out")
    assert check_split(tmp_path / "out", "train").utterances == 2


def test_other_settings_do_not_go_on_with_it(tmp_path: Path) -> None:
    noise(tmp_path / "in/a.wav", rate=8000)
    (tmp_path / "in/b.wav").write_bytes(b"")
    corpus = corpus_of(tmp_path / "in", train=["a.wav", "b.wav"])
    kept = re.escape(f"stays in {tmp_path.resolve()}/.out.partial, from which the same command")
    with pytest.raises(UserError, match=f"--max-bad .*; what was converted {kept}"):
        prepare(corpus, tmp_path / "out")
    assert (tmp_path / ".out.partial/audio/a.flac").exists()
    clips = {"train": [Clip("a.wav", "a")]}
    other = Corpus("other", "en", tmp_path / "in", clips, ReadyUnits())
    with pytest.raises(UserError, match="other settings"):
        prepare(other, tmp_path / "out")
    prepare(other, tmp_path / "out", overwrite=True)
    assert len(read_split(tmp_path / "out", "train").utterances) == 1


def refused_for_a_bad_clip(folder: Path, *clips: Clip) -> None:
    """Prepare ``clips`` and one that cannot be used: audio is left to go on with."""
    (folder / "in/bad.wav").write_bytes(b"")
    splits = {"train": [*clips, Clip("bad.wav", "b")]}
    with pytest.raises(UserError, match="--max-bad"):
        prepare(Corpus("toy", "en", folder / "in", splits, ReadyUnits()), folder / "out")


def test_audio_of_another_source_is_made_anew(tmp_path: Path) -> None:
    noise(tmp_path / "in/a.wav", 0.5, 8000)
    refused_for_a_bad_clip(tmp_path, Clip("a.wav", "a"))
    noise(tmp_path / "in/a.wav", 0.7, 8000)
    noise(tmp_path / "in/bad.wav", 0.3)
    splits = {"train": [Clip("a.wav", "a"), Clip("bad.wav", "b")]}
    prepare(Corpus("toy", "en", tmp_path / "in", splits, ReadyUnits()), tmp_path / "out")
    frames = [u.frames for u in read_split(tmp_path / "out", "train").utterances]
    assert sorted(frames) == [4800, 11200]


def test_other_segments_do_not_go_on_with_it(tmp_path: Path) -> None:
    noise(tmp_path / "in/a.wav", 2.0)
    refused_for_a_bad_clip(tmp_path, Clip("a.wav", "a", "", Segment("u", 0.0, 1.0)))
    splits = {"train": [Clip("a.wav", "a", "", Segment("u", 0.0, 0.5))]}
    other = Corpus("toy", "en", tmp_path / "in", splits, ReadyUnits())
    with pytest.raises(UserError, match="other settings"):
        prepare(other, tmp_path / "out")
