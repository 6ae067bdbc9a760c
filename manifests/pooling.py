"""The recordings of several manifest folders in one, without their labels: to pretrain on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from speechprune.errors import UserError
from speechprune.manifests.folders import keep_sources, replacing
from speechprune.manifests.label_files import SPEAKERS
from speechprune.manifests.provenance import origin, read_provenance, write_provenance
from speechprune.manifests.rows import read_column, read_rows
from speechprune.manifests.verbatim import Lines, below_one_root, write_verbatim


def pool(out: Path, sources: Mapping[Path, Collection[str]], splits: Sequence[str]) -> None:
    """Write the manifest folder `out`: for each split, the recordings of all sources, in order.

    Args:
        sources: manifest folders that have all splits and say who speaks, each with the speakers
            whose recordings are left out.
        splits: their names.

    Raises:
        UserError: nobody is left, a file is missing or malformed, or as `folders.replacing`.
    """
    keep_sources(out, list(sources))
    blocks = {source: [_read(source, name) for name in splits] for source in sources}
    sizes = {}
    with replacing(out) as partial:
        for place, name in enumerate(splits):
            kept = [_without(found[place], sources[source]) for source, found in blocks.items()]
            root, paths = below_one_root(kept)
            frames = [samples for lines in kept for samples in lines.frames]
            speakers = [who for lines in kept for who in lines.columns[SPEAKERS]]
            pooled = Lines(name, root, paths, frames, {SPEAKERS: speakers})
            sizes[name] = write_verbatim(partial, pooled)
        origins = [
            {**origin(source, read_provenance(source)), "without": sorted(without)}
            for source, without in sources.items()
        ]
        write_provenance(partial, {"operation": "pool", "splits": sizes, "sources": origins})


def _read(folder: Path, name: str) -> Lines:
    root, rows = read_rows(folder / f"{name}.tsv")
    speakers = read_column(folder, name, SPEAKERS, len(rows))
    paths, frames = [path for path, _ in rows], [samples for _, samples in rows]
    return Lines(name, root, paths, frames, {SPEAKERS: speakers})


def _without(lines: Lines, without: Collection[str]) -> Lines:
    """The lines of all others; raises UserError if there are none."""
    kept = [i for i, who in enumerate(lines.columns[SPEAKERS]) if who not in without]
    if not kept:
        raise UserError(f"no speaker of split {lines.name} is left; leave out fewer")
    return lines.take(kept, lines.name)
