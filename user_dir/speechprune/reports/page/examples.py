"""The first utterances of a split, as models hear them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from speechprune.manifests.split_files import split_digest
from speechprune.reports.page.contents import Contents, Examples, Transcripts
from speechprune.reports.runs import FinishedRun


def add_examples(
    contents: Contents,
    runs: Mapping[str, FinishedRun],
    checkpoints: Mapping[str, Path],
    subset: str,
    data: Path | None,
    count: int,
) -> None:
    """Transcribe the first utterances of a split by all models, greedily; other data stand apart.

    Models that write no text are left out, with a note.

    Args:
        runs: by name.
        checkpoints: other ones, by name, which are heard if there is ``data``.
        subset: the split.
        data: its folder; by default that of each run's own training.

    Raises:
        UserError: recordings are missing or damaged, or a checkpoint does not load.
    """
    heard = [(name, run.checkpoint, Path(run.task["data"])) for name, run in runs.items()]
    if data is not None:
        heard += [(name, path, data) for name, path in checkpoints.items()]
    groups: dict[str, tuple[Path, list[Transcripts], dict[str, list[str]]]] = {}
    for name, path, folder in tqdm(heard, unit="model", desc="transcribing", disable=None):
        try:
            data_digest, references, texts = _heard(path, folder, subset, count)
        except _Textless as reason:
            contents.note("examples", f"{name} is left out: {reason}")
            continue
        key = f"{data_digest} {references}"
        group = groups.setdefault(key, (folder, references, {}))
        group[2][name] = texts
    for folder, references, found in groups.values():
        utterances = [
            Transcripts(
                each.utterance, each.reference, {name: texts[n] for name, texts in found.items()}
            )
            for n, each in enumerate(references)
        ]
        contents.examples.append(Examples(f"{subset} of {folder}", utterances))


class _Textless(Exception):
    """The reason why a model writes no text."""


def _heard(
    path: Path, folder: Path, subset: str, count: int
) -> tuple[str, list[Transcripts], list[str]]:
    """The digest of the split; its utterances, without transcripts; and the text that a model finds
    in each."""
    from speechprune.decoding.inference import read_audio, read_references, sample_rate
    from speechprune.decoding.texts import texts_of
    from speechprune.models.loading import LoadedRecogniser, load_finetuned

    loaded = load_finetuned(path, folder)
    if not isinstance(loaded, LoadedRecogniser):
        raise _Textless("it does not write text")
    split = read_references(loaded, folder, subset)
    first = split.utterances[:count]
    audio = [read_audio(split.root / each.path, sample_rate(loaded)) for each in first]
    references = [Transcripts(each.path, each.text, {}) for each in first]
    return split_digest(folder, subset, loaded.labels), references, texts_of(loaded, audio)
