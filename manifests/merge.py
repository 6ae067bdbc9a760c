"""Corpora of several languages pooled into one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from speechprune.errors import UserError
from speechprune.manifests.folders import keep_sources, replacing
from speechprune.manifests.joint_dictionaries import join_dictionaries
from speechprune.manifests.label_files import (
    CLASSES,
    SPEAKERS,
    WORDS,
)
from speechprune.manifests.languages import Spans, joined, read_spans
from speechprune.manifests.operations import Sizes
from speechprune.manifests.provenance import (
    SHARED_SPEAKERS,
    origin,
    read_provenance,
    shared_speakers,
    write_provenance,
)
from speechprune.manifests.replaced_dictionary import replace_dictionary
from speechprune.manifests.rows import audio_key, split_names
from speechprune.manifests.spelling import unspell
from speechprune.manifests.verbatim import (
    Lines,
    below_one_root,
    read_all_labels,
    write_verbatim,
)


@dataclass(frozen=True)
class _Source:
    """A corpus to be pooled.

    Attributes:
        language: of every line; "" where its own spans give it line by line.
        people: what its speakers are told apart by, such as their language.
    """

    folder: Path
    language: str
    provenance: Mapping[str, Any]
    people: str

    @property
    def corpus(self) -> str:
        """What it was made of, also by way of other folders; "" where it does not say."""
        described: Any = self.provenance
        while isinstance(described, Mapping) and "corpus" not in described:
            made_of = described.get("source")
            described = made_of.get("provenance") if isinstance(made_of, Mapping) else None
        return str(described["corpus"]) if isinstance(described, Mapping) else ""

    def read(self, split: str, endings: Sequence[str]) -> tuple[Lines, Spans]:
        """A split, lines sorted by path within each language, speakers named after theirs."""
        lines = read_all_labels(self.folder, split, endings)
        spans = None
        if not self.language:
            spans = read_spans(self.provenance, self.folder, split, len(lines))
        if "languages" not in self.provenance:
            # Two corpora may each have a speaker "1". In a merged one they are renamed already.
            lines = _tell_speakers_apart(lines, self.people)
        spans = spans or [(self.language, len(lines))]
        order: list[int] = []
        for stop in accumulate(length for _, length in spans):
            order += sorted(range(len(order), stop), key=lines.paths.__getitem__)
        return lines.take(order, split), spans

    def shared_speakers(self) -> list[str]:
        """Those of the corpus, under their new names."""
        names = shared_speakers(self.provenance)
        return names if "languages" in self.provenance else [f"{self.people}/{n}" for n in names]


@dataclass
class _Recordings:
    """The corpus and split of every recording so far."""

    found: dict[str, tuple[_Source, str]] = field(default_factory=dict)

    def add(self, corpus: _Source, lines: Lines) -> None:
        """Raises UserError if another corpus, or the same split, has one of them already."""
        root, here = os.path.realpath(lines.root), (corpus, lines.name)
        for path in lines.paths:
            key = audio_key(root, path)
            # One corpus may have it in two splits: that is for `check` to judge.
            other, split = self.found.get(key, (corpus, ""))
            if other is not corpus or split == lines.name:
                raise UserError(
                    f"{key} is in split {split} of {other.folder} and in {lines.name} of "
                    f"{corpus.folder}; leave one of them out"
                )
            self.found[key] = here


def merge(
    out: Path,
    sources: Sequence[Path],
    languages: Sequence[str] = (),
    *,
    dictionary: Path | None = None,
    overwrite: bool = False,
) -> Sizes:
    """Write the manifest folder `out`: for each split of any source, that of all of them.

    Lines are in the order of the sources; speakers become `language/speaker`, or
    `language/corpus/speaker` where folders of one language say that their corpora differ; the
    labels are those that all sources have, their dictionary has the symbols, or classes, of all,
    counts summed.

    Args:
        sources: manifest folders.
        languages: one for each source; by default what its `provenance.json` says, else the
            folder's name.
        dictionary: a file to take in place of a joint dictionary.

    Raises:
        UserError: a recording is there twice, languages are unclear, a source is malformed or would
            be lost, or as `join_dictionaries`, `replace_dictionary` and `folders.replacing`.
    """
    for source in sources:
        split_names(source)  # refuses what is not a manifest folder
    keep_sources(out, sources)
    corpora = _with_languages(sources, languages)
    dictionaries = join_dictionaries([corpus.folder for corpus in corpora])
    endings, letters = dictionaries.endings, dictionaries.are_letters
    recordings = _Recordings()
    sizes: dict[str, Mapping[str, Any]] = {}
    tags: dict[str, Spans] = {}
    with replacing(out, overwrite) as partial:
        for name, holders in _holders(corpora).items():
            blocks = [corpus.read(name, endings) for corpus in holders]
            for corpus, (lines, _) in zip(holders, blocks):
                recordings.add(corpus, lines)
            pooled = _pool(name, endings, [lines for lines, _ in blocks], letters=letters)
            sizes[name] = write_verbatim(partial, pooled)
            tags[name] = joined(span for _, spans in blocks for span in spans)
        dictionaries.write(partial)
        if dictionary is not None:
            replace_dictionary(partial, dictionary)
        described: dict[str, Any] = {"operation": "merge", "languages": tags, "splits": sizes}
        described["sources"] = [origin(corpus.folder, corpus.provenance) for corpus in corpora]
        if shared := {name for corpus in corpora for name in corpus.shared_speakers()}:
            described[SHARED_SPEAKERS] = sorted(shared)
        write_provenance(partial, described)
    return sizes


def _with_languages(sources: Sequence[Path], languages: Sequence[str]) -> list[_Source]:
    if languages and len(languages) != len(sources):
        raise UserError(
            f"{len(languages)} --language for {len(sources)} folders; give one for each, in order"
        )
    for language in languages:
        if not language.strip() or not language.isprintable():
            raise UserError(f"{language!r} is not a --language; give a code such as 'es'")
    corpora = []
    unnamed: dict[str, Path] = {}
    for index, folder in enumerate(sources):
        provenance = read_provenance(folder)
        language = languages[index] if languages else str(provenance.get("language") or "")
        if not language and "languages" not in provenance:
            language = folder.resolve().name
            if language in unnamed:
                raise UserError(
                    f"{unnamed[language]} and {folder} have one name and do not say their "
                    "languages; give --language for each folder"
                )
            unnamed[language] = folder
        corpora.append(_Source(folder, language, provenance, language))
    return [_with_people(each, corpora) for each in corpora]


def _with_people(source: _Source, corpora: Sequence[_Source]) -> _Source:
    """Whose speaker "1" is another than that of another corpus in the same language."""
    same_language = {each.corpus for each in corpora if each.language == source.language}
    if source.corpus and len(same_language - {""}) > 1:
        return replace(source, people=f"{source.language}/{source.corpus}")
    return source


def _holders(corpora: Sequence[_Source]) -> dict[str, list[_Source]]:
    """The corpora that have a split, by its name; sorted."""
    holders: dict[str, list[_Source]] = {}
    for corpus in corpora:
        for name in split_names(corpus.folder):
            holders.setdefault(name, []).append(corpus)
    return dict(sorted(holders.items()))


def _pool(name: str, endings: Sequence[str], blocks: Sequence[Lines], *, letters: bool) -> Lines:
    """One block after the other, below the folder that holds the audio of all."""
    common, paths = below_one_root(blocks)
    columns = {
        ending: [line for block in blocks for line in block.columns[ending]]
        for ending in endings
        if all(ending in block.columns for block in blocks)
    }
    # Classes spell no words.
    for ending in (SPEAKERS,) if endings[0] == CLASSES else (WORDS, SPEAKERS):
        if ending not in columns and any(ending in block.columns for block in blocks):
            columns[ending] = [
                line for block in blocks for line in _column(block, ending, endings[0], letters)
            ]
    return Lines(name, common, paths, [n for block in blocks for n in block.frames], columns)


def _column(block: Lines, ending: str, labels: str, letters: bool) -> Sequence[str]:
    """The words or speakers, also of a split that has no such file."""
    if ending in block.columns:
        return block.columns[ending]
    if ending == SPEAKERS:
        return [""] * len(block)
    return [unspell(line, letters=letters) for line in block.columns[labels]]


def _tell_speakers_apart(lines: Lines, people: str) -> Lines:
    if "spk" not in lines.columns:
        return lines
    speakers = [f"{people}/{name}" if name.strip() else "" for name in lines.columns["spk"]]
    return Lines(
        lines.name, lines.root, lines.paths, lines.frames, {**lines.columns, "spk": speakers}
    )
