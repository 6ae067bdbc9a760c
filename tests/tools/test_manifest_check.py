"""`speechprune manifest check`: each kind of problem is found, counted and told in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from corpora import cut, noise
from manifest_folders import TRAIN, VALID, contents, edit, lines, refuse, run, succeed, write_folder

from speechprune.errors import UserError
from speechprune.manifests.check import check_split


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "ein Körper")


def rewrite(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("".join(f"{line}\n" for line in change(lines(path))), encoding="utf-8")


def audio(folder: Path, name: str = "train/001.flac") -> Path:
    return folder / "audio" / name


def test_a_good_folder_passes(folder: Path) -> None:
    output = succeed("check", folder, "--max-tokens", 3200).splitlines()
    assert output[0].split() == "split utterances hours longest s symbols errors".split()
    rows = [line.split() for line in output[1:]]
    assert rows == [["train", "4", "0.00", "0.20", "7", "0"], ["valid", "2", "0.00", "0.12", *"60"]]
    found = json.loads(succeed("check", folder, "--json"))
    assert (found["errors"], found["problems"]) == (0, {})
    frames = [frames for _, _, frames in TRAIN]
    assert found["splits"]["train"]["hours"] == pytest.approx(sum(frames) / 16000 / 3600)
    assert check_split(folder, "train").utterances == found["splits"]["train"]["utterances"]


def test_a_folder_of_someone_else_passes(folder: Path) -> None:
    """Nothing but .tsv, .ltr and dictionary; no word end after the last word."""
    for ending in ("spk", "wrd"):
        (folder / f"train.{ending}").unlink()
    (folder / "provenance.json").unlink()
    rewrite(folder / "valid.ltr", lambda labels: [label[:-2] for label in labels])
    succeed("check", folder)


def test_files_may_begin_with_a_byte_order_mark(folder: Path, tmp_path: Path) -> None:
    succeed("merge", tmp_path / "plain", folder, write_folder(tmp_path / "other"))
    for file in folder.iterdir():
        if file.is_file():
            file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    succeed("check", folder)
    assert check_split(folder, "train", closed=True).unknown == 0
    symbols = json.loads(succeed("stats", folder, "--json"))["splits"]["train"]["symbols"]
    assert not any("\ufeff" in symbol for symbol in symbols)
    succeed("merge", tmp_path / "marked", folder, tmp_path / "other")
    assert contents(tmp_path / "marked") == contents(tmp_path / "plain")


def test_units_and_words_need_not_agree(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "units", {"train": [("a b", "x", 800)]}, units=True)
    edit(folder / "train.wrd", "a b", "something else")
    succeed("check", folder)


def first_row_again(rows: list[str]) -> list[str]:
    """As the second, in another spelling."""
    return [*rows[:2], rows[1].replace("/", "/./"), *rows[3:]]


def stored(folder: Path, place: str, archive: str = "all.zip") -> None:
    """The second recording of train as a slice of an archive."""
    (folder / "audio/all.zip").write_bytes(audio(folder).read_bytes())
    edit(folder / "train.tsv", "train/001.flac", f"{archive}:{place}")


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "no labels": ("manifest", lambda f: (f / "train.ltr").unlink()),
    "latin 1": ("manifest", lambda f: (f / "train.ltr").write_bytes("Ä |\n".encode("latin-1"))),
    "no rows": ("manifest", lambda f: rewrite(f / "train.tsv", lambda rows: rows[:1])),
    "no dictionary": ("dictionary", lambda f: (f / "dict.ltr.txt").unlink()),
    "symbol twice": ("dictionary", lambda f: edit(f / "dict.ltr.txt", "N ", "N 1\nN ")),
    "no counts": ("dictionary", lambda f: edit(f / "dict.ltr.txt", "N ", "N")),
    "one column": ("row", lambda f: edit(f / "train.tsv", "\t1600", " 1600")),
    "no samples": ("row", lambda f: edit(f / "train.tsv", "\t1600", "\t0")),
    "more than 64 bits": ("row", lambda f: edit(f / "train.tsv", "\t1600", "\t" + "9" * 5000)),
    "superscript": ("row", lambda f: edit(f / "train.tsv", "\t1600", "\t1600²")),
    "fewer labels": ("line count", lambda f: rewrite(f / "train.ltr", lambda rows: rows[:-1])),
    "fewer words": ("line count", lambda f: rewrite(f / "train.wrd", lambda rows: rows[:-1])),
    "more speakers": ("line count", lambda f: rewrite(f / "train.spk", lambda r: [*r, "x"])),
    "symbol": ("unknown symbol", lambda f: edit(f / "dict.ltr.txt", "V ", "W ")),
    "provenance": ("provenance", lambda f: edit(f / "provenance.json", "{", "")),
    "empty": ("empty label", lambda f: rewrite(f / "valid.ltr", lambda rows: ["|", rows[1]])),
    "words": ("words", lambda f: edit(f / "train.wrd", "SEVEN", "ELEVEN")),
    "twice": ("repeated path", lambda f: rewrite(f / "train.tsv", first_row_again)),
    "shared": ("shared recording", lambda f: edit(f / "valid.tsv", "valid/000", "train/000")),
    "speaker": ("shared speaker", lambda f: edit(f / "valid.spk", "zoe", "ann")),
    "root": ("audio folder", lambda f: edit(f / "train.tsv", "audio", "moved")),
    "no recording": ("missing recording", lambda f: audio(f).unlink()),
    "text": ("unreadable recording", lambda f: audio(f).write_text("no audio")),
    "nothing": ("unreadable recording", lambda f: audio(f).write_bytes(b"")),
    "cut": ("damaged recording", lambda f: audio(f).write_bytes(audio(f).read_bytes()[:-900])),
    "beyond": ("unreadable recording", lambda f: stored(f, f"0:{10**12}")),
    "nowhere": ("missing recording", lambda f: stored(f, "0:10", "gone.zip")),
    "name": ("unreadable recording", lambda f: edit(f / "train.tsv", "train/001", "x" * 300)),
    "rate": ("sample rate", lambda f: soundfile.write(audio(f), np.zeros(2400), 8000)),
    "stereo": ("channels", lambda f: soundfile.write(audio(f), np.zeros((2400, 2)), 16000)),
    "length": ("length", lambda f: soundfile.write(audio(f), np.zeros(2399), 16000)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_kind_of_damage_is_found(folder: Path, damage: str) -> None:
    kind, change = DAMAGES[damage]
    change(folder)
    result = run("check", folder)
    assert (result.exit_code, result.stderr) == (1, "")
    assert f"{kind}, 1 of 1: " in result.stdout
    found = json.loads(run("check", folder, "--json").stdout)
    # The letters of an emptied label no longer make its words.
    assert set(found["problems"]) - ({"words"} if kind == "empty label" else set()) == {kind}
    assert found["problems"][kind]["count"] == 1
    assert "\n" not in found["problems"][kind]["examples"][0]
    told = sum(row["errors"] for row in found["splits"].values())
    assert (told == 0) == (kind in ("dictionary", "provenance"))


def test_bad_samples_are_found_with_their_place(folder: Path) -> None:
    samples = np.full(2400, 0.1)
    samples[800] = np.inf
    soundfile.write(audio(folder, "a.wav"), samples, 16000, "FLOAT")
    edit(folder / "train.tsv", "train/001.flac", "a.wav")
    check_split(folder, "train")  # headers alone do not tell
    result = run("check", folder)
    assert result.exit_code == 1
    assert "damaged recording, 1 of 1: " in result.stdout
    assert "a.wav has samples that are not numbers, the first at 0.050 s (sample 800)" in (
        result.stdout
    )


def test_what_may_be_right_is_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    noise(folder / "audio/a.wav", 1.0)
    cut(folder / "audio/a.wav", 0.98)
    frames = soundfile.info(folder / "audio/a.wav").frames
    assert 0.95 * 16000 < frames < 16000
    soundfile.write(folder / "audio/b.wav", np.full(3200, 1000.0), 16000, "FLOAT")
    edit(folder / "train.tsv", "train/001.flac\t2400", f"a.wav\t{frames}")
    edit(folder / "train.tsv", "train/002.flac", "b.wav")
    output = succeed("check", folder)
    assert f"warning: cut short, 1 of 1: {folder}/audio/a.wav is truncated: 0.98 of 1.00" in output
    assert "warning: integer scale, 1 of 1: " in output and "b.wav has float samples" in output
    found = json.loads(succeed("check", folder, "--json"))
    assert (found["errors"], found["problems"]) == (0, {})
    counts = {kind: told["count"] for kind, told in found["warnings"].items()}
    assert counts == {"cut short": 1, "integer scale": 1}
    check_split(folder, "train")
    (told,) = (record.getMessage() for record in caplog.records)
    assert told.startswith("cut short: 1 of 4 recordings in ") and "a.wav is truncated" in told
    cut(folder / "audio/a.wav", 0.9)
    before, frames = frames, soundfile.info(folder / "audio/a.wav").frames
    edit(folder / "train.tsv", f"a.wav\t{before}", f"a.wav\t{frames}")
    with pytest.raises(UserError, match="a.wav is truncated: 0.88 of 1.00 s are there"):
        check_split(folder, "train")


def test_channels_that_cancel_each_other_are_told(folder: Path) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 2400)
    soundfile.write(audio(folder), np.stack([samples, -samples], 1), 16000)
    result = run("check", folder)
    assert result.exit_code == 1 and "channels, 1 of 1: " in result.stdout
    assert "warning: antiphase, 1 of 1: " in result.stdout


def test_what_a_batch_cannot_hold_is_found(folder: Path) -> None:
    result = run("check", folder, "--max-tokens", 2399)
    assert result.exit_code == 1
    assert "too long, 2 of 2: " in result.stdout and "3200 samples, more than" in result.stdout


def test_three_of_a_kind_are_told_and_all_are_counted(tmp_path: Path) -> None:
    splits = {"train": [("NO", "", 800)] * 300, "test": [*TRAIN, *VALID]}
    folder = write_folder(tmp_path / "corpus", splits)
    for index in range(300):
        if index % 3:
            audio(folder, f"train/{index:03d}.flac").unlink()
    (folder / "test.spk").unlink()
    found = run("check", folder).stdout.splitlines()
    assert [line.split()[-1] for line in found[1:3]] == ["0", "200"]
    assert [line.partition(": ")[0] for line in found[3:]] == [
        f"missing recording, {number} of 200" for number in (1, 2, 3)
    ]
    # In the order of the manifest, however the threads go.
    paths = [line.partition(" is missing;")[0] for line in found[3:]]
    assert [path[-8:] for path in paths] == ["001.flac", "002.flac", "004.flac"]


def test_another_sample_rate_may_be_right(folder: Path) -> None:
    assert "sample rate, 3 of 6: " in run("check", folder, "--sample-rate", 8000).stdout


def test_speakers_may_be_in_two_held_out_splits(tmp_path: Path) -> None:
    splits = {"train-10m": TRAIN, "dev_clean": VALID, "test": VALID, "other": TRAIN}
    folder = write_folder(tmp_path / "corpus", splits)
    succeed("check", folder)
    edit(folder / "dev_clean.spk", "zoe", "eve")
    assert "'eve' speaks in train-10m and in dev_clean" in run("check", folder).stdout


def test_what_is_no_manifest_folder_is_refused(tmp_path: Path) -> None:
    assert "no folder" in refuse("check", tmp_path / "nowhere")
    assert "holds no SPLIT.tsv" in refuse("check", tmp_path)
