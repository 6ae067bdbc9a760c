"""A manifest folder made from another, of which one split is replaced by parts of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from speechprune.errors import UserError
from speechprune.manifests.dictionary import dictionary_name
from speechprune.manifests.folders import keep_sources, replacing
from speechprune.manifests.label_files import label_endings
from speechprune.manifests.languages import Spans, read_spans, select
from speechprune.manifests.lines import read_lines, write_lines
from speechprune.manifests.provenance import (
    SHARED_SPEAKERS,
    origin,
    read_provenance,
    shared_speakers,
    write_provenance,
)
from speechprune.manifests.replaced_dictionary import replace_dictionary
from speechprune.manifests.rows import check_split_name, split_names
from speechprune.manifests.verbatim import Lines, read_all_labels, write_verbatim
from speechprune.registry import unknown_name

#: Sizes of each split written: {"utterances": ..., "hours": ...}.
Sizes = Mapping[str, Mapping[str, Any]]
#: Finds the ascending line indices of each part of a split.
Choose = Callable[[Lines], Sequence[Sequence[int]]]


def rearrange(
    source: Path,
    out: Path,
    split: str,
    names: Sequence[str],
    choose: Choose,
    described: Mapping[str, Any],
    *,
    dictionary: Path | None = None,
    overwrite: bool = False,
) -> Sizes:
    """Write the manifest folder `out`: the other splits of `source`, and parts of one of them.

    The audio stays where it is, and the dictionaries, on which checkpoints depend, as they are.

    Args:
        split: the one that parts are taken of; `choose` finds one for each of `names`.
        described: what `provenance.json` says beside the source, sizes and languages.
        dictionary: a file to take in place of that of `source`.
        overwrite: replace a manifest folder at `out`.

    Raises:
        UserError: the split does not exist, a name is taken or unfit, `source` is malformed or
            would be lost, or as `replace_dictionary`, `folders.replacing` and `choose`.
    """
    _check_names(source, split, names)
    keep_sources(out, [source])
    provenance = read_provenance(source)
    sizes: dict[str, Mapping[str, Any]] = {}
    languages: dict[str, Spans] = {}
    endings = label_endings(source)
    with replacing(out, overwrite) as partial:
        for lines, spans in _pieces(source, provenance, endings, split, names, choose):
            sizes[lines.name] = write_verbatim(partial, lines)
            if spans is not None:
                languages[lines.name] = spans
        for file in map(dictionary_name, endings):
            if file == dictionary_name(endings[0]) or (source / file).exists():
                write_lines(partial / file, read_lines(source / file))
        if dictionary is not None:
            replace_dictionary(partial, dictionary)
        kept: dict[str, Any] = {"languages": languages} if languages else {}
        if "language" in provenance:
            kept["language"] = provenance["language"]
        if shared := shared_speakers(provenance):
            kept[SHARED_SPEAKERS] = shared
        kept.update(source=origin(source, provenance), splits=sizes)
        write_provenance(partial, {**described, **kept})
    return {name: sizes[name] for name in sorted(sizes)}


def _pieces(
    source: Path,
    provenance: Mapping[str, Any],
    endings: Sequence[str],
    split: str,
    names: Sequence[str],
    choose: Choose,
) -> Iterator[tuple[Lines, Spans | None]]:
    """The parts, then the other splits: one after the other, to keep memory flat."""
    whole = read_all_labels(source, split, endings)
    spans = read_spans(provenance, source, split, len(whole))
    for name, indices in zip(names, choose(whole)):
        yield whole.take(indices, name), spans and select(spans, indices)
    del whole
    for name in split_names(source):
        if name != split:
            lines = read_all_labels(source, name, endings)
            yield lines, read_spans(provenance, source, name, len(lines))


def _check_names(source: Path, split: str, names: Sequence[str]) -> None:
    """There must be such a split, and the names must be new."""
    present = split_names(source)
    if split not in present:
        raise UserError(f"{source}: {unknown_name('split', split, present)}")
    for index, name in enumerate(names):
        check_split_name(name)
        if name in present and name != split:
            raise UserError(f"{source} has a split {name!r} already; choose another name")
        if name in names[:index]:
            raise UserError(f"two parts are called {name!r}; choose another name")
