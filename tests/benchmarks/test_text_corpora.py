"""Rated texts become tasks whose splits share no text, from an archive that is not trusted."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.text_corpora import FILES, RatedText, drawn, read_corpora, write_corpora
from speechprune.errors import UserError
from speechprune.manifests.glue.folder import task_of_folder
from speechprune.manifests.glue.preparation import TextSettings, prepare_text


def tables(rows: int = 120) -> dict[str, bytes]:
    """A table of each corpus: ratings in turns of -1, 0 and 1.5, and texts of their own."""
    made = {}
    for corpus, file in FILES.items():
        group = "{0}_1" if corpus in ("products", "editorials") else "{0}"
        lines = [
            f'{group.format(n)}\t{(-1, 0, 1.5)[n % 3]}\tA {corpus} text &amp; its "number {n}.\r\n'
            for n in range(rows)
        ]
        made[file] = "".join(lines).encode()
    return made


def packed(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def archive(path: Path, files: Mapping[str, bytes]) -> Path:
    inner = packed({f"hutto_ICWSM_2014/{name}": content for name, content in files.items()})
    place = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
    path.write_bytes(packed({"vaderSentiment-3.3.2/setup.py": b"", place: inner}))
    return path


def texts_of(path: Path) -> list[str]:
    return [line.split("\t")[0] for line in path.read_text(encoding="utf-8").splitlines()[1:]]


def test_tasks_share_no_text_between_splits(tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = write_corpora(archive(tmp_path / "a.tar.gz", tables()), out)
    assert [row[0] for row in told] == ["corpus", *FILES]
    assert [sum(map(int, row[1:4])) for row in told[1:]] == [120] * 4
    assert [row[4:] for row in told[1:]] == [["40", "40"]] * 4
    plain = {
        name: (out / f"plain/{name}.txt").read_text().splitlines() for name in ("train", "valid")
    }
    tested = set()
    for corpus in FILES:
        value, sign = (
            {
                split: texts_of(out / f"{corpus}-{kind}/{split}.tsv")
                for split in ("train", "dev", "test")
            }
            for kind in ("value", "sign")
        )
        every = [text for texts in value.values() for text in texts]
        assert len(set(every)) == len(every) == 120 and '& its "number' in every[0]
        assert all(set(sign[split]) <= set(value[split]) for split in value)
        assert sum(map(len, sign.values())) == 80
        assert set(value["train"]) <= set(plain["train"]) and set(value["dev"]) <= set(
            plain["valid"]
        )
        tested |= set(value["test"])
    assert tested and not tested & {*plain["train"], *plain["valid"]}


def test_both_tasks_can_be_prepared(tmp_path: Path) -> None:
    write_corpora(archive(tmp_path / "a.tar.gz", tables()), tmp_path / "out")
    for task, classes in (("movies-sign", ("0", "1")), ("movies-value", ())):
        found = prepare_text(tmp_path / "out", tmp_path / task, TextSettings(task), workers=1)
        assert all(size.labelled for size in found.splits)
        assert task_of_folder(tmp_path / task).classes == classes
    scores = (tmp_path / "movies-value/label/train.label").read_text().split()
    assert set(scores) == {"-1.0", "0.0", "1.5"}


def test_texts_that_are_alike_are_kept_once_and_articles_stay_together() -> None:
    rows = [RatedText(str(n // 4), 1.0, f"Sentence {n}") for n in range(200)]
    splits = drawn(
        {
            "editorials": rows,
            "tweets": [RatedText("7", 1.0, "sentence 5!"), RatedText("8", 1.0, ":-)")],
        }
    )
    assert not any(splits["tweets"].values())
    groups = [{row.group for row in texts} for texts in splits["editorials"].values()]
    assert sum(map(len, groups)) == 50 and len(groups[0]) > 30 and groups[1] and groups[2]
    again = drawn({"editorials": rows[::-1]})["editorials"]
    assert [{row.group for row in texts} for texts in again.values()] == groups


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"1\t0.5\n", "line 1 is not ID, rating and text"),
        (b"1\t0.5\tgood\n2\tx\tbad\n", "line 2 is not ID, rating and text"),
        (b"1\tnan\tgood\n", "has the rating nan, not one from -4 to 4"),
        (b"1\t5\tgood\n", "has the rating 5.0, not one from -4 to 4"),
    ],
)
def test_bad_tables_are_refused(content: bytes, expected: str, tmp_path: Path) -> None:
    files = {**tables(3), FILES["tweets"]: content}
    with pytest.raises(UserError, match=expected):
        read_corpora(archive(tmp_path / "a.tar.gz", files))


def test_bad_archives_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing; get it by `pip download"):
        read_corpora(tmp_path / "gone.tar.gz")
    (tmp_path / "text.tar.gz").write_text("no archive")
    with pytest.raises(UserError, match="is not the archive of vaderSentiment"):
        read_corpora(tmp_path / "text.tar.gz")
    whole = archive(tmp_path / "a.tar.gz", tables(3)).read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is not the archive of vaderSentiment"):
        read_corpora(tmp_path / "cut.tar.gz")
    (tmp_path / "other.tar.gz").write_bytes(packed({"setup.py": b""}))
    with pytest.raises(UserError, match="does not hold hutto_ICWSM_2014.tar.gz"):
        read_corpora(tmp_path / "other.tar.gz")
    files = tables(3)
    files.pop(FILES["movies"])
    with pytest.raises(UserError, match="does not hold movieReviewSnippets_GroundTruth.txt"):
        read_corpora(archive(tmp_path / "b.tar.gz", files))
    twice = {**tables(3), f"again/{FILES['movies']}": b""}
    with pytest.raises(UserError, match="twice, or far too large"):
        read_corpora(archive(tmp_path / "c.tar.gz", twice))


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("1\t1.0\tsecret\n")
    link = tarfile.TarInfo("hutto_ICWSM_2014.tar.gz")
    link.type, link.linkname = tarfile.SYMTYPE, str(secret)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.addfile(link)
    with pytest.raises(UserError, match="does not hold"):
        read_corpora(tmp_path / "a.tar.gz")
