"""Common Voice: columns by name, the official splits, drawn hours, published lists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from corpora import noise, write_common_voice

from speechprune.errors import UserError
from speechprune.manifests.corpora.common_voice import CommonVoice
from speechprune.manifests.corpus import Corpus
from speechprune.manifests.manifest import read_split
from speechprune.manifests.preparation import prepare

DEV, TEST = [("ann", 'a "quoted" b')], [("bob", "c")]
TRAIN = [("cid", "d"), ("cid", "e"), ("dan", "f")]


def names(corpus: Corpus) -> dict[str, list[str]]:
    """Transcripts by split."""
    return {name: [clip.transcript for clip in clips] for name, clips in corpus.splits.items()}


def official(root: Path, **options: str) -> Path:
    """A language folder with the official splits."""
    rows = {"train": TRAIN, "dev": DEV, "test": TEST, "validated": [*DEV, *TRAIN, *TEST]}
    return write_common_voice(root, rows, **options)


@pytest.mark.parametrize(
    "columns",
    [
        "client_id path sentence up_votes down_votes age gender accent",
        "path sentence_id client_id variant locale sentence segment",
    ],
)
def test_columns_are_found_by_their_names(tmp_path: Path, columns: str) -> None:
    root = official(tmp_path / "cv-corpus-17.0-2024-03-15" / "tr", columns=columns)
    corpus = CommonVoice().read(root)
    assert (corpus.language, corpus.version) == ("tr", "cv-corpus-17.0-2024-03-15")
    assert names(corpus) == {"train": ["d", "e", "f"], "dev": ['a "quoted" b'], "test": ["c"]}
    assert [clip.speaker for clip in corpus.splits["train"]] == ["cid", "cid", "dan"]


def test_it_becomes_a_manifest_folder(tmp_path: Path) -> None:
    prepare(CommonVoice().read(official(tmp_path / "xx")), tmp_path / "out")
    split = read_split(tmp_path / "out", "train")
    assert [u.path for u in split.utterances] == [
        f"clips/common_voice_xx_{number}.flac" for number in (0, 1, 2)
    ]
    assert all(abs(u.frames - 8000) < 1500 for u in split.utterances)


def many_speakers(root: Path, *, durations: str | None, delta: bool = False) -> Path:
    """Twelve speakers of three clips of 1.0 s in `validated`, two of them in dev and test."""
    said = [(f"s{i:02d}", f"clip {i} {j}") for i in range(12) for j in range(3)]
    rows = {"validated": said, "invalidated": [("zoe", "x")]}
    if not delta:
        rows.update(dev=[said[0]], test=[said[3]], train=[])
    write_common_voice(root, rows)
    if durations is not None:
        header = "clip\tduration[ms]\n" if durations.endswith("tsv") else ""
        lines = [f"common_voice_xx_{i}.mp3\t1000\n" for i in range(len(said))]
        (root / durations).write_text(header + "".join(lines))
    return root


@pytest.mark.parametrize("durations", ["clip_durations.tsv", "times.txt"])
def test_hours_are_drawn_by_speakers_of_their_own(tmp_path: Path, durations: str) -> None:
    root = many_speakers(tmp_path / "xx", durations=durations)
    corpus = CommonVoice(train_hours=20.5 / 3600, seed=1).read(root)
    speakers = {name: {c.speaker for c in clips} for name, clips in corpus.splits.items()}
    assert len(corpus.splits["train"]) == 20
    assert speakers["dev"] == {"s00"} and speakers["test"] == {"s01"}
    assert not speakers["train"] & (speakers["dev"] | speakers["test"])
    again = CommonVoice(train_hours=20.5 / 3600, seed=1).read(root)
    other = CommonVoice(train_hours=20.5 / 3600, seed=2).read(root)
    assert corpus.splits == again.splits != other.splits
    with pytest.raises(UserError, match="only 0.01 of 1 hours are left for train"):
        CommonVoice(train_hours=1.0).read(root)


def test_lengths_are_measured_where_they_are_not_listed(tmp_path: Path) -> None:
    root = many_speakers(tmp_path / "xx", durations=None)
    corpus = CommonVoice(train_hours=5.2 / 3600).read(root)
    assert 8 <= len(corpus.splits["train"]) <= 10  # of half a second, and a little padding


def test_exactly_what_is_there_can_be_drawn(tmp_path: Path) -> None:
    root = many_speakers(tmp_path / "xx", durations="times.txt")
    corpus = CommonVoice(train_hours=30 / 3600).read(root)
    assert len(corpus.splits["train"]) == 30


def test_old_releases_leave_the_ending_out(tmp_path: Path) -> None:
    root = many_speakers(tmp_path / "xx", durations="times.txt")
    for name in ("validated", "dev", "test"):
        text = (root / f"{name}.tsv").read_text()
        (root / f"{name}.tsv").write_text(text.replace(".mp3", ""))
    corpus = CommonVoice(train_hours=20.5 / 3600).read(root)
    assert len(corpus.splits["train"]) == 20


def test_small_languages_have_empty_splits(tmp_path: Path) -> None:
    root = many_speakers(tmp_path / "xx", durations="times.txt")
    header = (root / "dev.tsv").read_text().splitlines()[0]
    for name in ("train", "dev"):
        (root / f"{name}.tsv").write_text(f"{header}\n")
    with pytest.raises(UserError, match="train.tsv lists no clip; draw splits with --train-hours"):
        CommonVoice().read(root)
    corpus = CommonVoice(train_hours=20 / 3600).read(root)
    assert {n: len(c) for n, c in corpus.splits.items()} == {"train": 20, "dev": 2, "test": 1}


def test_a_clip_in_two_splits_is_refused(tmp_path: Path) -> None:
    root = write_common_voice(tmp_path / "xx", {"train": TRAIN, "dev": DEV, "test": TRAIN[:1]})
    with pytest.raises(UserError, match="two clips are called 'clips/common_voice_xx_0'"):
        CommonVoice().read(root)


def test_contradictory_choices_are_refused(tmp_path: Path) -> None:
    root = many_speakers(tmp_path / "xx", durations="times.txt")
    lists = published(tmp_path / "lists")
    with pytest.raises(UserError, match="leave out --train-hours"):
        CommonVoice(splits=lists, train_hours=1.0).read(root)
    with pytest.raises(UserError, match="--train-hours nan is not a length"):
        CommonVoice(train_hours=float("nan")).read(root)


def test_a_delta_release_gets_all_three_splits(tmp_path: Path) -> None:
    root = many_speakers(tmp_path / "xx", durations="times.txt", delta=True)
    with pytest.raises(UserError, match="no train.tsv; delta releases have no splits: draw them"):
        CommonVoice().read(root)
    corpus = CommonVoice(train_hours=20.5 / 3600).read(root)
    assert {n: len(c) for n, c in corpus.splits.items()} == {"train": 20, "dev": 2, "test": 2}
    speakers = [{clip.speaker for clip in clips} for clips in corpus.splits.values()]
    assert sum(map(len, speakers)) == len(set.union(*speakers))


def published(folder: Path) -> Path:
    """Lists of one hour and of five, and the phones of the clips."""
    folder.mkdir(parents=True)
    files = {
        "trainSeqs_1.0_uniform_new_version.txt": "common_voice_xx_0\ncommon_voice_xx_1\n",
        "trainSeqs_5.0_uniform_new_version.txt": "common_voice_xx_0\n",
        "valSeqs_1.0_uniform_new_version.txt": "common_voice_xx_2\n",
        "testSeqs_1.0_uniform_new_version.txt": "common_voice_xx_3.mp3\n",
        "validated_phones_reduced.txt": "".join(f"common_voice_xx_{i} 0 {i} 2\n" for i in range(4)),
        "phonesMatches_reduced.json": json.dumps({"a": 0, "t\u0283": 1, "o": 2, "u": 3}),
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_published_lists_with_their_phones(tmp_path: Path) -> None:
    root = official(tmp_path / "xx")
    published(tmp_path / "lists" / "xx")
    corpus = CommonVoice(splits=tmp_path / "lists", labels="phones").read(root)
    assert names(corpus) == {
        "train": ["a a o", "a t\u0283 o"],
        "valid": ["a o o"],
        "test": ["a u o"],
    }
    assert corpus.labels.units
    assert [clip.speaker for clip in corpus.splits["train"]] == ["cid", "cid"]


def test_published_lists_with_sentences(tmp_path: Path) -> None:
    root = official(tmp_path / "xx")
    corpus = CommonVoice(splits=published(tmp_path / "lists")).read(root)
    assert names(corpus) == {"train": ["d", "e"], "valid": ["f"], "test": ['a "quoted" b']}


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        (
            "trainSeqs_1.0_uniform_new_version.txt",
            "nobody\n",
            "1 clips listed for train are not in",
        ),
        (
            "valSeqs_1.0_uniform_new_version.txt",
            "common_voice_xx_0\n",
            "is listed in trainSeqs_1.0",
        ),
        ("trainSeqs_1.0_other.txt", "common_voice_xx_0\n", "several lists of one split"),
        ("validated_phones_reduced.txt", "common_voice_xx_0 9\n", "line 1: a phone has no symbol"),
        ("phonesMatches_reduced.json", "[]", "is not JSON of the form"),
    ],
)
def test_published_lists_refused(tmp_path: Path, file: str, text: str, complaint: str) -> None:
    lists = published(tmp_path / "lists")
    (lists / file).write_text(text)
    with pytest.raises(UserError, match=complaint):
        CommonVoice(splits=lists, labels="phones").read(official(tmp_path / "xx"))


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="is not a language folder of Common Voice: looked for clips"
    ):
        CommonVoice(language="en").read(tmp_path)
    root = official(tmp_path / "xx")
    with pytest.raises(UserError, match="no folder .*lists"):
        CommonVoice(splits=tmp_path / "lists").read(root)
    good = (root / "dev.tsv").read_text()
    (root / "dev.tsv").write_text(good.replace("sentence", "text"))
    with pytest.raises(UserError, match="dev.tsv has no column 'sentence'; its first line has"):
        CommonVoice().read(root)
    (root / "dev.tsv").write_text(good)
    (root / "clips/common_voice_xx_1.mp3").unlink()
    with pytest.raises(UserError, match="1 clips of train have no audio; the first"):
        CommonVoice().read(root)


def shorten(table: Path, number: int) -> None:
    """Drop the last column of a line, counted from 1."""
    rows = table.read_text(encoding="utf-8").splitlines()
    rows[number - 1] = rows[number - 1].rpartition("\t")[0]
    table.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def test_a_short_row_is_left_out_like_a_bad_clip(tmp_path: Path) -> None:
    root = official(tmp_path / "xx")
    shorten(root / "train.tsv", 3)
    with (root / "train.tsv").open("a") as file:
        file.write("cid\t\tno clip\t2\n\n")
    corpus = CommonVoice().read(root)
    with pytest.raises(
        UserError, match="2 of 6 clips cannot be used.* is train.tsv line 3 in train"
    ):
        prepare(corpus, tmp_path / "out", workers=1)
    made = prepare(corpus, tmp_path / "out", workers=1, max_bad=0.4)
    assert made.excluded == (
        ("train", "train.tsv line 3", "has 3 columns, not 4"),
        ("train", "train.tsv line 5", "names no clip"),
    )
    assert [u.text for u in made.splits[0].utterances] == ["D", "F"]


def test_tables_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    root = many_speakers(tmp_path / "xx", durations="times.txt")
    (root / "times.txt").write_bytes(b"\xff\xfe1")
    with pytest.raises(UserError, match="times.txt is not UTF-8 text"):
        CommonVoice(train_hours=0.001).read(root)
    (root / "times.txt").unlink()
    (root / "dev.tsv").unlink()
    (root / "dev.tsv").mkdir()
    with pytest.raises(UserError, match="dev.tsv cannot be read: Is a directory"):
        CommonVoice(train_hours=0.001).read(root)


def test_short_rows_are_not_drawn(tmp_path: Path) -> None:
    root = many_speakers(tmp_path / "xx", durations="times.txt")
    shorten(root / "validated.tsv", 9)
    corpus = CommonVoice(train_hours=20.5 / 3600).read(root)
    assert not any(clip.problem for clips in corpus.splits.values() for clip in clips)
    assert len(corpus.splits["train"]) == 20
    # It is listed, but does not count as a clip that failed.
    made = prepare(corpus, tmp_path / "out", workers=1, max_bad=0.0)
    assert made.excluded == (("validated", "validated.tsv line 9", "has 3 columns, not 4"),)
    assert prepare(corpus, tmp_path / "out", resume=True).excluded == made.excluded


def test_a_listed_clip_whose_row_is_short_is_left_out(tmp_path: Path) -> None:
    root = official(tmp_path / "xx")
    number = 1 + (root / "validated.tsv").read_text().splitlines().index(
        next(row for row in (root / "validated.tsv").read_text().splitlines() if "xx_1.mp3" in row)
    )
    shorten(root / "validated.tsv", number)
    corpus = CommonVoice(splits=published(tmp_path / "lists")).read(root)
    good, bad = corpus.splits["train"]
    assert (good.transcript, bad.name) == ("d", f"validated.tsv line {number}")


def test_every_text_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    root = many_speakers(tmp_path / "xx", durations="clip_durations.tsv")
    lists = published(tmp_path / "lists")
    readers = (
        CommonVoice(train_hours=20.5 / 3600),
        CommonVoice(splits=lists),
        CommonVoice(splits=lists, labels="phones"),
    )
    expected = [reader.read(root) for reader in readers]
    for file in (*root.glob("*.tsv"), *lists.iterdir()):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert [reader.read(root) for reader in readers] == expected


def test_clips_that_nobody_lists_do_not_matter(tmp_path: Path) -> None:
    root = official(tmp_path / "xx")
    noise(root / "clips/common_voice_xx_99.mp3", rate=48000)
    assert sum(map(len, names(CommonVoice().read(root)).values())) == 5
