"""Digit strings: every recording in its own split, labels that say what is heard."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import zipfile
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import soundfile
from corpora import files_of

from speechprune.errors import UserError
from speechprune.manifests import digit_recordings
from speechprune.manifests.digit_recordings import read_recordings, recordings_digest
from speechprune.manifests.digits import WORDS, DigitStrings, make_digits
from speechprune.manifests.manifest import read_split
from speechprune.manifests.merge import merge
from speechprune.manifests.partition import split_split
from speechprune.manifests.provenance import read_provenance
from speechprune.manifests.report import check_folder
from speechprune.manifests.subset import draw_subset

SPEAKERS = ("ann", "bob")
INDICES = range(12)
SMALL = DigitStrings(sizes={"train": 12, "valid": 8, "test": 8}, seed=3)


def level(digit: int, speaker: str, index: int) -> int:
    """The constant sample value, of 16 bits, that stands for one recording."""
    return 400 + 100 * (digit + 10 * (SPEAKERS.index(speaker) + len(SPEAKERS) * index))


def flac(samples: np.ndarray, rate: int = 8000, form: str = "FLAC") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples.astype(np.int16), rate, format=form, subtype="PCM_16")
    return buffer.getvalue()


def archive_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def members() -> dict[str, bytes]:
    """Recordings that are told apart by their sample value alone."""
    return {
        f"fsdd/{digit}_{speaker}_{index}.flac": flac(np.full(800, level(digit, speaker, index)))
        for digit in range(10)
        for speaker in SPEAKERS
        for index in INDICES
    }


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, members: dict[str, bytes]) -> Path:
    return archive_of(tmp_path_factory.mktemp("fsdd") / "digits.tar", members)


def heard(path: Path) -> list[tuple[int, str, int]]:
    """The recordings (digit, speaker, index) in an utterance, found by their sample values."""
    samples, rate = soundfile.read(path, dtype="int16")
    assert rate == 16000
    names = {level(d, s, i): (d, s, i) for d in range(10) for s in SPEAKERS for i in INDICES}
    rounded = np.round(samples / 100.0).astype(int) * 100
    runs = [(value, len(list(run))) for value, run in groupby(rounded.tolist())]
    # 0.1 s at 16 kHz, less the ringing of the resampler at both ends.
    return [names[value] for value, length in runs if value and length > 1000]


def test_labels_speakers_and_splits_are_those_of_the_recordings(
    tmp_path: Path, archive: Path
) -> None:
    make_digits(tmp_path / "corpus", archive, SMALL)
    allowed = {"test": range(0, 5), "valid": range(5, 10), "train": range(10, 12)}
    lengths = set()
    for name, indices in allowed.items():
        split = read_split(tmp_path / "corpus", name)
        assert len(split.utterances) == SMALL.sizes[name]
        for utterance in split.utterances:
            found = heard(split.root / utterance.path)
            assert utterance.text == " ".join(WORDS[digit] for digit, _, _ in found)
            assert {speaker for _, speaker, _ in found} == {utterance.speaker}
            assert all(index in indices for _, _, index in found)
            lengths.add(len(found))
    assert lengths == {1, 2, 3, 4, 5}


def test_pauses_part_the_digits(tmp_path: Path, archive: Path) -> None:
    settings = DigitStrings(sizes={"train": 4}, digits=(3, 3), silence=(0.2, 0.2))
    make_digits(tmp_path / "corpus", archive, settings)
    for utterance in read_split(tmp_path / "corpus", "train").utterances:
        assert utterance.frames / 16000 == pytest.approx(3 * 0.1 + 4 * 0.2, abs=1e-3)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, archive: Path) -> None:
    make_digits(tmp_path / "a", archive, SMALL)
    make_digits(tmp_path / "b", archive, SMALL)
    make_digits(tmp_path / "c", archive, DigitStrings(sizes=SMALL.sizes, seed=4))
    audio = {
        name: [path.read_bytes() for path in sorted((tmp_path / name).rglob("*.flac"))]
        for name in "abc"
    }
    assert audio["a"] == audio["b"]
    assert audio["a"] != audio["c"]


def as_github_gives_them(path: Path, members: dict[str, bytes]) -> Path:
    """The same recordings as a repository of WAV files: an archive or folder, as the name says."""
    root = "free-spoken-digit-dataset-master"
    files = {f"{root}/README.md": b"# Free Spoken Digit Dataset\n", f"{root}/0_ann_0.txt": b"no"}
    for name, content in members.items():
        samples, rate = soundfile.read(io.BytesIO(content), dtype="int16")
        wav = name.replace("fsdd", f"{root}/recordings").replace(".flac", ".wav")
        files[wav] = flac(samples, rate, "WAV")
    return write_source(path, files)


def write_source(path: Path, files: dict[str, bytes]) -> Path:
    """An archive or folder, as its name says."""
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    elif path.suffix:
        archive_of(path, files)
    else:
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["clone", "master.tar.gz", "master.tar", "master.zip"])
def test_what_github_gives_makes_the_same_corpus(
    tmp_path: Path, archive: Path, members: dict[str, bytes], name: str
) -> None:
    source = as_github_gives_them(tmp_path / name, members)
    make_digits(tmp_path / "out", archive, SMALL)
    expected = files_of(tmp_path / "out")
    make_digits(tmp_path / "out", source, SMALL, overwrite=True)
    found = files_of(tmp_path / "out")
    told, before = (json.loads(files.pop("provenance.json")) for files in (found, expected))
    assert (told.pop("archive"), before.pop("archive")) == (name, archive.name)
    assert told.pop("archive_digest") != before.pop("archive_digest")
    assert told == before and found == expected


def test_a_folder_is_named_in_the_provenance_however_it_is_given(
    tmp_path: Path, members: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(as_github_gives_them(tmp_path / "clone", members))
    make_digits(tmp_path / "out", Path("."), SMALL)
    assert read_provenance(tmp_path / "out")["archive"] == "clone"


def other_take(members: dict[str, bytes]) -> dict[str, bytes]:
    """The same names and sizes of files; one recording is another."""
    name = "fsdd/3_bob_11.flac"
    found = {**members, name: flac(np.full(800, 555))}
    assert len(found[name]) == len(members[name]) and found[name] != members[name]
    return found


@pytest.mark.parametrize("name", ["clone", "digits.tar"])
def test_recordings_of_the_same_name_are_not_taken_for_others(
    tmp_path: Path, members: dict[str, bytes], name: str
) -> None:
    first, copy = (write_source(tmp_path / place / name, members) for place in ("1", "2"))
    other = write_source(tmp_path / "3" / name, other_take(members))
    make_digits(tmp_path / "out", first, SMALL)
    before = files_of(tmp_path / "out")
    make_digits(tmp_path / "out", copy, SMALL, resume=True)
    with pytest.raises(UserError, match="was prepared with archive_digest '.*; choose another"):
        make_digits(tmp_path / "out", other, SMALL, resume=True)
    shutil.move(first, tmp_path / "moved")
    make_digits(tmp_path / "out", first, SMALL, resume=True)
    # Earlier versions told the name alone.
    place = tmp_path / "out" / "provenance.json"
    told = json.loads(place.read_text())
    del told["archive_digest"]
    place.write_text(json.dumps(told))
    make_digits(tmp_path / "out", other, SMALL, resume=True)
    after = files_of(tmp_path / "out")
    assert {**after, "provenance.json": b""} == {**before, "provenance.json": b""}


def test_what_is_no_recording_of_a_folder_does_not_count(
    tmp_path: Path, members: dict[str, bytes]
) -> None:
    clone = write_source(tmp_path / "clone", members)
    before = recordings_digest(clone)
    (clone / "README.md").write_text("# Digits")
    assert recordings_digest(clone) == before
    (clone / "fsdd" / "0_eve_0.flac").write_bytes(flac(np.zeros(800)))
    assert recordings_digest(clone) != before


def test_recordings_are_never_replaced(tmp_path: Path, archive: Path) -> None:
    make_digits(tmp_path / "out", archive, SMALL)
    (tmp_path / "out" / "digits.tar").write_bytes(archive.read_bytes())
    for source in (tmp_path / "out", tmp_path / "out" / "digits.tar"):
        with pytest.raises(UserError, match="lies in .*out; choose another folder"):
            make_digits(tmp_path / "out", source, SMALL, overwrite=True)
    assert (tmp_path / "out" / "digits.tar").exists()


def test_speakers_that_all_splits_share_are_no_mistake(tmp_path: Path, archive: Path) -> None:
    made, drawn, cut, both = (tmp_path / name for name in ("made", "drawn", "cut", "both"))
    make_digits(made, archive, SMALL)
    draw_subset(made, drawn, 0.1)
    split_split(made, cut, {"train": 0.5, "valid2": 0.5})
    make_digits(tmp_path / "more", archive, SMALL)
    merge(both, [made, tmp_path / "more"], ["en", "de"])
    for folder in (made, drawn, cut, both):
        assert not check_folder(folder).errors, check_folder(folder).describe_in_words()
    (made / "valid.spk").write_text("eve\n" * SMALL.sizes["valid"])
    (made / "train.spk").write_text("eve\n" * SMALL.sizes["train"])
    assert check_folder(made).counts == {"shared speaker": 1}


def test_real_digits(tmp_path: Path, shared_data: Path) -> None:
    archive = shared_data / "fsdd" / "fsdd-5speakers.tar"
    recordings, rate = read_recordings(archive)
    assert (len(recordings), rate) == (2500, 8000)
    assert sum(recording.split == "test" for recording in recordings) == 10 * 5 * 5
    make_digits(tmp_path / "corpus", archive, SMALL)
    split = read_split(tmp_path / "corpus", "test")
    for utterance in split.utterances:
        samples, rate = soundfile.read(split.root / utterance.path)
        assert (rate, len(samples)) == (16000, utterance.frames)
        digits = len(utterance.text.split())
        assert 0.2 * digits < len(samples) / rate < 2.0 * digits + 0.5
        assert np.abs(samples).max() > 0.01


@pytest.mark.parametrize("name", ["../0_eve_11.flac", "fsdd/0_a_1.flac/../../x", "/0_a_1.flac"])
def test_path_traversal_is_refused(tmp_path: Path, members: dict[str, bytes], name: str) -> None:
    path = archive_of(tmp_path / "hostile.tar", {**members, name: flac(np.zeros(8))})
    with pytest.raises(UserError, match="outside of it; do not trust it"):
        make_digits(tmp_path / "corpus", path, SMALL)
    assert sorted(os.listdir(tmp_path)) == ["hostile.tar"]


def test_links_are_passed_over(tmp_path: Path, members: dict[str, bytes]) -> None:
    path = archive_of(tmp_path / "hostile.tar", members)
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("fsdd/0_mal_0.flac")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    recordings, _ = read_recordings(path)
    assert "mal" not in {recording.speaker for recording in recordings}
    assert sorted(os.listdir(tmp_path)) == ["hostile.tar"]


def test_bad_archives_are_refused(tmp_path: Path, archive: Path, members: dict[str, bytes]) -> None:
    content = archive.read_bytes()
    packed = archive_of(tmp_path / "whole.tar.gz", members).read_bytes()
    zipped = as_github_gives_them(tmp_path / "whole.zip", members).read_bytes()
    bad = {
        "short.gz": packed[: len(packed) // 2],
        "damaged.gz": packed[:2000] + b"\xff" * 90 + packed[2090:],
        "damaged.zip": zipped[:600] + b"\xff" * 90 + zipped[690:],
        "truncated": content[: len(content) // 2],
        "empty": b"",
        "text": b"no archive" * 100,
    }
    for name, damaged in bad.items():
        (tmp_path / name).write_bytes(damaged)
    archive_of(tmp_path / "rates", {**members, "fsdd/0_ann_50.flac": flac(np.zeros(9), 16000)})
    archive_of(tmp_path / "lacking", {k: v for k, v in members.items() if "/7_bob_" not in k})
    archive_of(tmp_path / "noise", {"fsdd/0_ann_1.flac": b"not audio"})
    (tmp_path / "folder").mkdir()
    for name in (*bad, "rates", "lacking", "noise", "missing", "folder"):
        with pytest.raises(UserError) as caught:
            make_digits(tmp_path / "corpus", tmp_path / name, SMALL)
        assert "\n" not in str(caught.value), name
    assert not list(tmp_path.glob("*corpus*"))


def silence(values: int, channels: int = 1) -> bytes:
    """A little FLAC that decodes to many zeros."""
    return flac(np.zeros((values // channels, channels)))


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip", "folder"])
def test_far_too_much_audio_is_not_decoded(
    tmp_path: Path, members: dict[str, bytes], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(more: dict[str, bytes]) -> str:
        number = len(os.listdir(tmp_path))
        source = tmp_path / (f"{number}" if kind == "folder" else f"{number}.{kind}")
        write_source(source, {**members, **more})
        with pytest.raises(UserError) as caught:
            read_recordings(source)
        return str(caught.value)

    for channels in (1, 8):
        told = refused({"fsdd/0_eve_1.flac": silence(1 << 20, channels)})
        assert "holds" in told and "0_eve_1.flac', which is too long" in told
    told = refused({"fsdd/0_eve_1.wav": flac(np.zeros(1000), 1, "WAV")})
    assert "0_eve_1.wav', which is too long" in told  # a quarter of an hour at 1 Hz
    assert "too long for a spoken digit" in refused({"fsdd/0_eve_1.wav": bytes(1 << 21)})
    monkeypatch.setattr(digit_recordings, "_MOST_VALUES", 240 * 800 - 1)
    assert "far more audio than spoken digits need" in refused({})


def test_a_tar_with_a_huge_header_is_not_read(tmp_path: Path) -> None:
    member = tarfile.TarInfo("header")
    member.type, member.size = tarfile.XHDTYPE, 1 << 30
    with tarfile.open(archive_of(tmp_path / "a.tar", {"a": b""}), "a") as tar:
        tar.addfile(member)
    with pytest.raises(UserError, match=f"is not an archive.* a header of {1 << 30} bytes"):
        read_recordings(tmp_path / "a.tar")


def test_bad_samples_are_refused_and_odd_ones_told(
    tmp_path: Path, members: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    def with_samples(samples: np.ndarray, share: float = 1.0) -> Path:
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, 8000, format="WAV", subtype="FLOAT")
        content = buffer.getvalue()[: int(share * len(buffer.getvalue()))]
        return archive_of(tmp_path / "a.tar", {**members, "x/0_eve_1.wav": content})

    bad = np.full(800, 0.1)
    bad[400] = np.nan
    with pytest.raises(UserError, match=r"a.tar holds 'x/0_eve_1.wav', which has .* 0\.050 s"):
        read_recordings(with_samples(bad))
    with pytest.raises(UserError, match="'x/0_eve_1.wav', which is truncated: 0.0[78] of 0.10 s"):
        read_recordings(with_samples(np.full(800, 0.1), 0.8))
    assert not caplog.records
    read_recordings(with_samples(np.full(800, 0.1), 0.98))
    read_recordings(with_samples(np.full(800, 1000.0)))
    cut, loud = (record.getMessage() for record in caplog.records)
    assert "'x/0_eve_1.wav', which is truncated" in cut and "as if they were integers" in loud


@pytest.mark.parametrize(
    "settings",
    [
        {"sizes": {"dev": 3}},
        {"sizes": {"train": 0}},
        {"sizes": {}},
        {"digits": (0, 2)},
        {"seed": -1},
    ],
)
def test_bad_settings_are_refused(settings: dict) -> None:
    with pytest.raises(UserError):
        DigitStrings(**settings)
