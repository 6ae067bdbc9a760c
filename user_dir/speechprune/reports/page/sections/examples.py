"""Transcripts with their errors marked: by signs and lines, and by colour besides."""

from __future__ import annotations

from collections.abc import Sequence

from speechprune.decoding.edits import Aligned, align
from speechprune.decoding.scoring import count_word_errors
from speechprune.reports.page.contents import Contents, Examples, Transcripts
from speechprune.reports.page.markup import Child, Markup, element, joined, name_of, paragraph

TITLE = "Transcripts"


def section(contents: Contents) -> Markup:
    """The first utterances of a split, as each model hears them."""
    if not contents.examples:
        return paragraph(
            "Nothing was transcribed: --subset SPLIT transcribes the first utterances of a split."
        )
    key = paragraph(
        "Marked are words that are ",
        _marked(Aligned("said", "herd")),
        " (said, then what was heard in its place), ",
        _marked(Aligned("missed", None)),
        " and ",
        _marked(Aligned(None, "added")),
        ".",
    )
    return joined([key, *map(_examples, contents.examples)])


def _examples(examples: Examples) -> Markup:
    return joined(
        [
            element("h3", name_of(examples.where)),
            element("ol", [_utterance(each) for each in examples.transcripts], class_="examples"),
        ]
    )


def _utterance(found: Transcripts) -> Markup:
    lines = [_line(["said"], joined([found.reference]))]
    for name, text in found.found.items():
        errors = count_word_errors(found.reference, text).errors
        how = "all right" if not errors else f"{errors} {'error' if errors == 1 else 'errors'}"
        aligned = align(found.reference.split(), text.split())
        title: list[Child] = [name_of(name), " ", element("small", how)]
        lines.append(_line(title, joined(_with_spaces(aligned))))
    return element(
        "li", paragraph(name_of(found.utterance), class_="utterance"), element("dl", lines)
    )


def _line(title: Sequence[Child], words: Markup) -> Markup:
    return element("div", element("dt", title), element("dd", words, dir="auto"))


def _with_spaces(aligned: Sequence[Aligned]) -> list[Markup | str]:
    """Marked words with a space between each two."""
    words: list[Markup | str] = []
    for number, each in enumerate(aligned):
        words += [" "] if number else []
        words.append(_marked(each))
    return words


def _marked(word: Aligned) -> Markup:
    """A word, or an error with its sign."""
    if word.is_right:
        return joined([word.reference or ""])
    if word.hypothesis is None:
        return element("del", _sign("−"), word.reference or "", title="missed", class_="missed")
    if word.reference is None:
        return element("ins", _sign("+"), word.hypothesis, title="added", class_="added")
    return element(
        "span",
        element("del", word.reference),
        "→",
        element("ins", word.hypothesis),
        title="taken for another word",
        class_="swap",
    )


def _sign(sign: str) -> Markup:
    """A sign that the line through or under a word leaves alone."""
    return element("span", sign, class_="sign")
