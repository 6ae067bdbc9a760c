"""Four corpora of rated texts as tasks in GLUE's layout, and as plain text to pretrain on.

They lie in the source archive of vaderSentiment 3.3.2: sentences of film reviews, tweets, product
reviews and newspaper editorials, each rated from -4 to 4 (Hutto and Gilbert, "VADER:
A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM 2014).
"""

from __future__ import annotations

import hashlib
import html
import io
import re
import tarfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from speechprune.errors import UserError
from speechprune.manifests.folders import replacing
from speechprune.manifests.lines import write_lines
from speechprune.manifests.provenance import write_provenance
from speechprune.tables import table

#: The file of each corpus.
FILES = {
    "movies": "movieReviewSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
    "products": "amazonReviewSnippets_GroundTruth.txt",
    "editorials": "nytEditorialSnippets_GroundTruth.txt",
}
#: GLUE's names of the splits.
SPLITS = ("train", "dev", "test")

_INNER = "hutto_ICWSM_2014.tar.gz"
_LARGEST = 1 << 25  # bytes of a file; the largest of the archive has 2.3 million
_LARGEST_HEADER = 1 << 20  # bytes that tarfile reads at once to find a member's name
_DAMAGED = (tarfile.TarError, zlib.error, EOFError, OSError)


@dataclass(frozen=True)
class RatedText:
    """A text with its mean rating, from -4 to 4; `group` is the review or article that it is of."""

    group: str
    rating: float
    text: str


class _Member(tarfile.TarInfo):
    """A member, refused if its long name, or other attributes, would fill the memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        member = super().frombuf(buf, encoding, errors)
        if not member.isfile() and member.size > _LARGEST_HEADER:
            raise tarfile.ReadError(f"it has a header of {member.size} bytes")
        return member


def read_corpora(archive: Path) -> dict[str, list[RatedText]]:
    """The corpora of the source archive, each in its order; nothing is written to the disk.

    Raises UserError if the archive is missing or damaged, or lacks a corpus.
    """
    try:
        with tarfile.open(archive, "r:gz", tarinfo=_Member) as tar:
            inner = _content(archive, tar, [_INNER])[_INNER]
        with tarfile.open(fileobj=io.BytesIO(inner), mode="r:gz", tarinfo=_Member) as tar:
            found = _content(archive, tar, list(FILES.values()))
    except FileNotFoundError:
        raise UserError(
            f"{archive} is missing; get it by `pip download --no-deps --no-binary :all: "
            "vaderSentiment==3.3.2`"
        ) from None
    except _DAMAGED as error:
        raise UserError(f"{archive} is not the archive of vaderSentiment: {error}") from error
    return {name: _rated(file, found[file]) for name, file in FILES.items()}


def _content(archive: Path, tar: tarfile.TarFile, names: Sequence[str]) -> dict[str, bytes]:
    """The bytes of files by their names, whatever folders they lie in."""
    found = {}
    for member in tar:
        name = member.name.rpartition("/")[2]
        if name not in names or not member.isfile():
            continue
        if member.size > _LARGEST or name in found:
            raise UserError(f"{archive} holds {name} twice, or far too large; do not trust it")
        stream = tar.extractfile(member)
        assert stream is not None  # it is a file
        found[name] = stream.read()
    missing = [name for name in names if name not in found]
    if missing:
        raise UserError(f"{archive} does not hold {missing[0]}; give the archive of version 3.3.2")
    return found


def _rated(file: str, content: bytes) -> list[RatedText]:
    rows = []
    for number, line in enumerate(content.decode("utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        fields = line.rstrip("\r").split("\t")
        try:
            name, rating, text = fields[0], float(fields[1]), fields[2]
        except (IndexError, ValueError):
            raise UserError(f"{file} line {number} is not ID, rating and text: {line!r}") from None
        if not -4.0 <= rating <= 4.0:
            raise UserError(f"{file} line {number} has the rating {rating}, not one from -4 to 4")
        rows.append(
            RatedText(name.partition("_")[0], rating, " ".join(html.unescape(text).split()))
        )
    return rows


def drawn(corpora: Mapping[str, Sequence[RatedText]]) -> dict[str, dict[str, list[RatedText]]]:
    """Each corpus in `SPLITS` of 80, 10 and 10 %, by a digest of the name of the review or article.

    Of texts that differ in letter case and marks alone, the first of all corpora is kept, and those
    without a letter or digit are left out.
    """
    seen: set[str] = set()
    splits: dict[str, dict[str, list[RatedText]]] = {}
    for corpus, rows in corpora.items():
        splits[corpus] = {split: [] for split in SPLITS}
        for row in rows:
            plain = " ".join(re.findall(r"[^\W_]+", row.text.lower()))
            if plain and plain not in seen:
                seen.add(plain)
                splits[corpus][_split_of(corpus, row.group)].append(row)
    return splits


def _split_of(corpus: str, group: str) -> str:
    digest = hashlib.sha256(f"{corpus}/{group}".encode()).digest()
    return {0: "test", 1: "dev"}.get(digest[0] % 10, "train")


def write_corpora(archive: Path, out: Path, overwrite: bool = False) -> list[list[str]]:
    """Write `out/CORPUS-sign` and `out/CORPUS-value`, each with a table for each split, and
    `out/plain` with `train.txt` and `valid.txt`; gives a line for each corpus, to print.

    The sign is 1 above 0 and 0 below; texts rated 0 have none. Both tasks, and the plain text, have
    the same texts in a split, and texts of a test are nowhere to train on.

    Raises UserError as `read_corpora` and `folders.replacing`.
    """
    splits = drawn(read_corpora(archive))
    told = [["corpus", *SPLITS, "signs 1", "signs 0"]]
    with replacing(out, overwrite) as partial:
        for corpus, by_split in splits.items():
            for split, rows in by_split.items():
                signed = [row for row in rows if row.rating]
                _write(partial / f"{corpus}-sign", split, "label", _signs(signed))
                _write(partial / f"{corpus}-value", split, "score", _values(rows))
            signs = [row.rating > 0 for rows in by_split.values() for row in rows if row.rating]
            sizes = [len(rows) for rows in by_split.values()] + [sum(signs), signs.count(False)]
            told.append([corpus, *(f"{size:,}" for size in sizes)])
        for split, name in (("train", "train"), ("dev", "valid")):
            texts = (row.text for by_split in splits.values() for row in by_split[split])
            (partial / "plain").mkdir(exist_ok=True)
            write_lines(partial / "plain" / f"{name}.txt", texts)
        write_provenance(
            partial,
            {
                "corpus": "vaderSentiment 3.3.2",
                "archive_sha256": _digest(archive),
                "language": "en",
            },
        )
    return told


def _write(folder: Path, split: str, label: str, rows: Iterable[tuple[str, str]]) -> None:
    folder.mkdir(exist_ok=True)
    lines = (f"{text}\t{value}" for text, value in rows)
    write_lines(folder / f"{split}.tsv", [f"sentence\t{label}", *lines])


def _signs(rows: Iterable[RatedText]) -> list[tuple[str, str]]:
    return [(row.text, str(int(row.rating > 0))) for row in rows]


def _values(rows: Iterable[RatedText]) -> list[tuple[str, str]]:
    return [(row.text, repr(row.rating)) for row in rows]


def _digest(archive: Path) -> str:
    return hashlib.sha256(archive.read_bytes()).hexdigest()


@click.command()
@click.option(
    "--archive",
    required=True,
    type=click.Path(path_type=Path),
    help="Source archive of vaderSentiment 3.3.2, as `pip download` gets it.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New folder to write.")
@click.option("--overwrite", is_flag=True, help="Replace a folder written before.")
def main(archive: Path, out: Path, overwrite: bool) -> None:
    """Write the tasks of four rated corpora, and plain text of all of them."""
    print(table(write_corpora(archive, out, overwrite)))


if __name__ == "__main__":
    main()
