"""From a corpus to a manifest folder: in place or converted, in parallel, whole."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from corpora import corpus_of, cut, files_of, noise, without_length

from speechprune.errors import UserError
from speechprune.locks import locked
from speechprune.manifests.check import check_split
from speechprune.manifests.corpus import Clip, Corpus, ReadyUnits, Segment
from speechprune.manifests.folders import replacing
from speechprune.manifests.labels import characters
from speechprune.manifests.manifest import read_split
from speechprune.manifests.preparation import prepare


def test_ready_audio_stays_where_it_is(tmp_path: Path) -> None:
    noise(tmp_path / "in/b/2.wav")
    noise(tmp_path / "in/a 1.flac")
    prepare(corpus_of(tmp_path / "in", train=["b/2.wav", "a 1.flac"]), tmp_path / "out")
    split = read_split(tmp_path / "out", "train")
    assert split.root == tmp_path / "in"
    assert [u.path for u in split.utterances] == ["a 1.flac", "b/2.wav"]
    assert [u.text for u in split.utterances] == ["said a 1", "said 2"]
    assert [u.speaker for u in split.utterances] == ["speaker of a 1.flac", "speaker of b/2.wav"]
    assert not (tmp_path / "out/audio").exists()
    assert check_split(tmp_path / "out", "train").utterances == 2


def test_other_audio_is_converted(tmp_path: Path) -> None:
    noise(tmp_path / "in/clips/a.mp3", 1.0, 48000)
    noise(tmp_path / "in/clips/b.wav", 1.0, 8000, channels=2)
    prepare(corpus_of(tmp_path / "in", train=["clips/a.mp3", "clips/b.wav"]), tmp_path / "out")
    split = read_split(tmp_path / "out", "train")
    assert split.root == tmp_path / "out/audio"
    assert [u.path for u in split.utterances] == ["clips/a.flac", "clips/b.flac"]
    for utterance in split.utterances:
        info = soundfile.info(split.root / utterance.path)
        assert (info.samplerate, info.channels, info.format) == (16000, 1, "FLAC")
        assert info.frames == utterance.frames == pytest.approx(16000, abs=1200)


def test_a_split_of_both_starts_from_their_common_folder(tmp_path: Path) -> None:
    noise(tmp_path / "in/a.wav")
    noise(tmp_path / "in/b.wav", rate=8000)
    prepare(corpus_of(tmp_path / "in", train=["a.wav", "b.wav"]), tmp_path / "out")
    split = read_split(tmp_path / "out", "train")
    assert split.root == tmp_path
    assert [u.path for u in split.utterances] == ["in/a.wav", "out/audio/b.flac"]
    assert check_split(tmp_path / "out", "train").utterances == 2


def test_segments_are_cut(tmp_path: Path) -> None:
    samples, _ = soundfile.read(noise(tmp_path / "in/long.wav", 2.0))
    parts = [Segment("x/first", 0.0, 0.5), Segment("second", 0.5, 1.75)]
    clips = [Clip("long.wav", name, "", part) for name, part in zip("ab", parts)]
    prepare(Corpus("toy", "en", tmp_path / "in", {"train": clips}, ReadyUnits()), tmp_path / "out")
    utterances = read_split(tmp_path / "out", "train").utterances
    assert [(u.path, u.frames, u.text) for u in utterances] == [
        ("second.flac", 20000, "b"),
        ("x/first.flac", 8000, "a"),
    ]
    cut, _ = soundfile.read(tmp_path / "out/audio/second.flac")
    assert abs(cut - samples[8000:28000]).max() <= 2.0**-15


def test_bad_clips_are_left_out_and_listed(tmp_path: Path) -> None:
    names = [noise(tmp_path / f"in/{i}.wav").name for i in range(3)]
    (tmp_path / "in/bad.wav").write_bytes(b"RIFF of nothing")
    (tmp_path / "in/worse.mp3").write_bytes(b"")
    corpus = corpus_of(
        tmp_path / "in", train=[*names[:2], "bad.wav"], valid=["worse.mp3", names[2]]
    )
    prepared = prepare(corpus, tmp_path / "out", max_bad=0.4)
    assert [row[:2] for row in prepared.excluded] == [("train", "bad"), ("valid", "worse")]
    assert all("is not readable audio" in reason for _, _, reason in prepared.excluded)
    told = json.loads((tmp_path / "out/provenance.json").read_text())["excluded"]
    assert [(row["split"], row["clip"], row["reason"]) for row in told] == list(prepared.excluded)
    assert len(read_split(tmp_path / "out", "train").utterances) == 2


def odd_corpus(folder: Path) -> Corpus:
    """Recordings that are used although something is odd about them, two that are not, and one
    that is fine."""
    time = np.arange(32000) / 16000
    tone = 0.5 * np.sin(2 * np.pi * 220 * time)
    cut(noise(folder / "cut.flac", 4.0), 0.97)
    cut(noise(folder / "cut.wav", 4.0), 0.97)
    without_length(noise(folder / "streamed.wav", 1.0))
    cut(noise(folder / "half.wav"), 0.5)
    soundfile.write(folder / "fine.wav", tone, 16000, "FLOAT")
    soundfile.write(folder / "loud.wav", tone * 32768, 16000, "FLOAT")
    soundfile.write(folder / "mute.wav", np.stack([tone, -tone], 1), 16000)
    soundfile.write(folder / "nan.wav", np.where(time == 1.5, np.nan, tone), 16000, "FLOAT")
    for ending in ("flac", "wav"):  # clips are called by their names without ending
        (folder / f"cut.{ending}").rename(folder / f"cut {ending}.{ending}")
    return corpus_of(folder, train=sorted(path.name for path in folder.iterdir()))


def test_odd_clips_are_used_and_told(tmp_path: Path) -> None:
    corpus = odd_corpus(tmp_path / "in")
    prepared = prepare(corpus, tmp_path / "out", max_bad=0.3, workers=1)
    assert [(row[1], row[2].partition(":")[0]) for row in prepared.excluded] == [
        ("half", "is truncated"),
        ("nan", "has samples that are not numbers, the first at 1.500 s (sample 24000)"),
    ]
    assert [(split, clip, kind) for split, clip, kind, _ in prepared.remarks] == [
        ("train", "cut flac", "cut short"),
        ("train", "cut wav", "cut short"),
        ("train", "loud", "integer scale"),
        ("train", "mute", "antiphase"),
    ]
    told = json.loads((tmp_path / "out/provenance.json").read_text())["remarks"]
    assert [tuple(row.values()) for row in told] == [
        (clip, kind, remark, split) for split, clip, kind, remark in prepared.remarks
    ]
    assert prepare(corpus, tmp_path / "out", resume=True).remarks == prepared.remarks
    check_split(tmp_path / "out", "train")


def test_what_was_odd_is_known_after_an_interruption(tmp_path: Path) -> None:
    corpus = odd_corpus(tmp_path / "in")
    with pytest.raises(UserError, match="--max-bad"):
        prepare(corpus, tmp_path / "out", max_bad=0.1, workers=1)
    kept = {path: path.stat().st_ino for path in (tmp_path / ".out.partial/audio").iterdir()}
    assert len(kept) == 3
    again = prepare(corpus, tmp_path / "out", max_bad=0.3, workers=1)
    assert {path.stat().st_ino for path in (tmp_path / "out/audio").iterdir()} == {*kept.values()}
    shutil.rmtree(tmp_path / "out")
    assert prepare(corpus, tmp_path / "out", max_bad=0.3, workers=2) == again


def test_a_clip_whose_name_is_too_long_is_left_out(tmp_path: Path) -> None:
    names = ["x" * 251 + ".wav", "y" * 251 + ".wav", "z" * 300 + ".wav", "a.wav"]
    noise(tmp_path / "in" / names[0], rate=8000)
    for name in (names[1], names[3]):
        noise(tmp_path / "in" / name)
    prepared = prepare(corpus_of(tmp_path / "in", train=names), tmp_path / "out", max_bad=0.5)
    reasons = {clip[0]: reason for _, clip, reason in prepared.excluded}
    assert list(reasons) == ["x", "z"]
    assert "too long a name" in reasons["x"] and "name too long" in reasons["z"]
    assert [u.path[0] for u in read_split(tmp_path / "out", "train").utterances] == ["a", "y"]


def test_too_many_bad_clips_are_an_error(tmp_path: Path) -> None:
    noise(tmp_path / "in/good.wav")
    (tmp_path / "in/bad.wav").write_bytes(b"")
    corpus = corpus_of(tmp_path / "in", train=["good.wav", "bad.wav"])
    with pytest.raises(UserError, match="1 of 2 clips cannot be used, more than --max-bad 0.01"):
        prepare(corpus, tmp_path / "out")
    assert os.listdir(tmp_path) == ["in"]


def test_an_empty_label_leaves_a_clip_out(tmp_path: Path) -> None:
    noise(tmp_path / "in/a.wav")
    noise(tmp_path / "in/b.wav")
    clips = [Clip("a.wav", "a"), Clip("b.wav", "  ")]
    corpus = Corpus("toy", "en", tmp_path / "in", {"train": clips}, ReadyUnits())
    prepared = prepare(corpus, tmp_path / "out", max_bad=0.5)
    assert "has nothing left of its transcript" in prepared.excluded[0][2]


def many(folder: Path, count: int) -> Corpus:
    """A corpus half of which is converted."""
    names = [f"{i:03d}.wav" for i in range(count)]
    for i, name in enumerate(names):
        noise(folder / name, 0.05 + 0.001 * i, (16000, 8000)[i % 2])
    return corpus_of(folder, train=names[: count // 2], valid=names[count // 2 :])


def test_the_result_is_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    corpus = many(tmp_path / "in", 150)
    found = []
    for workers in (1, 3):
        prepare(corpus, tmp_path / "out", workers=workers, overwrite=True)
        found.append(files_of(tmp_path / "out"))
    assert len(found[0]) == 75 + 2 * 4 + 2
    assert found[0] == found[1]


def test_splits_that_share_clips_share_their_audio(tmp_path: Path) -> None:
    noise(tmp_path / "in/a.wav", 9.0, 8000)
    clips = [Clip("a.wav", "a", "", Segment(f"u{i}", i / 8, i / 8 + 0.1)) for i in range(64)]
    splits = {name: clips for name in ("train_a", "train_b", "train_c", "train_d")}
    corpus = Corpus("toy", "en", tmp_path / "in", splits, ReadyUnits())
    prepared = prepare(corpus, tmp_path / "out", workers=4)
    assert not prepared.excluded
    assert len(list((tmp_path / "out/audio").iterdir())) == 64


def test_a_corpus_within_the_folder_is_never_replaced(tmp_path: Path) -> None:
    noise(tmp_path / "in/a.wav", rate=8000)
    prepare(corpus_of(tmp_path / "in", train=["a.wav"]), tmp_path / "out")
    for root, source in ((tmp_path / "out", "audio/a.flac"), (tmp_path, "out/audio/a.flac")):
        with pytest.raises(UserError, match="audio of the corpus lies in .*out"):
            prepare(corpus_of(root, train=[source]), tmp_path / "out", overwrite=True)
    assert (tmp_path / "out/audio/a.flac").exists()


def test_a_folder_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    noise(tmp_path / "in/a.wav")

    def meanwhile(outcomes: Any, total: int) -> Any:
        (tmp_path / "out").mkdir()
        (tmp_path / "out/thesis.tex").write_text("precious")
        return outcomes

    corpus = corpus_of(tmp_path / "in", train=["a.wav"])
    with pytest.raises(UserError, match="exists and is not a prepared corpus"):
        prepare(corpus, tmp_path / "out", progress=meanwhile)
    assert (tmp_path / "out/thesis.tex").read_text() == "precious"


def test_paths_may_go_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise(tmp_path / "in/a.wav")
    noise(tmp_path / "in/b.wav", rate=8000)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    prepare(corpus_of(Path("../in"), train=["a.wav", "b.wav"]), Path("../out"))
    assert check_split(tmp_path / "out", "train").utterances == 2


def test_a_finished_folder_is_kept_replaced_or_refused(tmp_path: Path) -> None:
    noise(tmp_path / "in/a.wav")
    corpus = corpus_of(tmp_path / "in", train=["a.wav"])
    first = prepare(corpus, tmp_path / "out")
    with pytest.raises(UserError, match="exists; choose another folder or add --overwrite"):
        prepare(corpus, tmp_path / "out")
    assert prepare(corpus, tmp_path / "out", resume=True) == first
    other = Corpus("other", "en", tmp_path / "in", corpus.splits, ReadyUnits())
    with pytest.raises(UserError, match="was prepared with corpus 'toy', not 'other'"):
        prepare(other, tmp_path / "out", resume=True)
    changed = Corpus("toy", "en", tmp_path / "in", {"train": [Clip("a.wav", "b")]}, ReadyUnits())
    with pytest.raises(UserError, match="was prepared with clips_sha256"):
        prepare(changed, tmp_path / "out", resume=True)
    spelt = Corpus("toy", "en", tmp_path / "in", corpus.splits, characters("en"))
    with pytest.raises(UserError, match="was prepared with labels 'ReadyUnits"):
        prepare(spelt, tmp_path / "out", resume=True)


def test_what_names_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two clips are called 'a'"):
        corpus_of(tmp_path, train=["a.wav"], valid=["a.mp3"])
    two = [Clip("a.wav", "a", "", Segment("u", 0.0, end)) for end in (1.0, 2.0)]
    with pytest.raises(UserError, match="two clips are called 'u'"):
        Corpus("toy", "en", tmp_path, {"train": two[:1], "dev": two[1:]}, ReadyUnits())
    with pytest.raises(UserError, match="tab or line feed"):
        corpus_of(tmp_path, train=["a\tb.wav"])
    with pytest.raises(UserError, match="would lie outside of the new folder"):
        corpus_of(tmp_path, train=["a/../../b.wav"])
    with pytest.raises(UserError, match="split valid has no utterance"):
        corpus_of(tmp_path, train=["a.wav"], valid=[])


def test_an_unwritable_place_is_told(tmp_path: Path) -> None:
    noise(tmp_path / "in/a.wav")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"):
        prepare(corpus_of(tmp_path / "in", train=["a.wav"]), tmp_path / "file" / "out")


def test_the_disk_has_every_file_before_the_folder_has_its_name(
    tmp_path: Path, disk: list[tuple[str, str]]
) -> None:
    noise(tmp_path / "in/clips/a.wav", 1.0, 8000)
    noise(tmp_path / "in/clips/b.wav", 1.0, 8000)
    for overwrite in (False, True):
        disk.clear()
        corpus = corpus_of(tmp_path / "in", train=["clips/a.wav", "clips/b.wav"])
        prepare(corpus, tmp_path / "out", workers=1, overwrite=overwrite)
        out, partial = tmp_path / "out", tmp_path / ".out.partial"
        end = disk.index(("rename", str(out)))
        assert disk[end + 1 :] == [("sync", str(tmp_path))]
        # Each was synced under another name right before it got its own.
        named = {
            disk[i][1] for i in range(1, end) if (disk[i - 1][0], disk[i][0]) == ("sync", "rename")
        }
        inside = [path for path in out.rglob("*") if path.is_file()]
        assert {str(partial / path.relative_to(out)) for path in inside} <= named
        folders = [partial, *(partial / p.relative_to(out) for p in out.rglob("*") if p.is_dir())]
        assert {("sync", str(folder)) for folder in folders} <= set(disk[:end])


def test_two_cannot_prepare_one_folder(tmp_path: Path) -> None:
    noise(tmp_path / "in/a.wav", rate=8000)
    with locked(tmp_path / ".out.partial"):
        with pytest.raises(UserError, match=f"another process is writing to {tmp_path}/out"):
            prepare(corpus_of(tmp_path / "in", train=["a.wav"]), tmp_path / "out", workers=1)
    with replacing(tmp_path / "made"):
        with pytest.raises(UserError, match=f"another process is writing to {tmp_path}/made"):
            with replacing(tmp_path / "made"):
                pass
        (tmp_path / ".made.new" / "file").write_text("made")
    assert os.listdir(tmp_path / "made") == ["file"]
    prepare(corpus_of(tmp_path / "in", train=["a.wav"]), tmp_path / "out", workers=1)
    assert sorted(os.listdir(tmp_path)) == ["in", "made", "out"]


def test_what_a_killed_process_left_is_not_taken_over(tmp_path: Path) -> None:
    for name in ("old.tsv", "audio/old.flac"):
        (tmp_path / ".out.new" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / ".out.new" / name).write_text("old")
    with replacing(tmp_path / "out") as partial:
        (partial / "new.tsv").write_text("new")
    assert os.listdir(tmp_path / "out") == ["new.tsv"]
    assert os.listdir(tmp_path) == ["out"]
