"""Tags are not words: they are dropped and counted, and what only looks like one stays."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from corpora import files_of, noise

from speechprune.errors import UserError
from speechprune.manifests.corpora.kaldi import Kaldi
from speechprune.manifests.labels import characters, phones
from speechprune.manifests.preparation import prepare
from speechprune.manifests.tags import without_tags
from speechprune.tools.main import commands

# Of Kaldi's recipes, Switchboard, WSJ, TED-LIUM, Babel, SpeechDat, AMI, GigaSpeech, Earnings,
# Common Voice, Sphinx, CHAT, subtitles.
TAGS = """
    !SIL <unk> <UNK> <NOISE> <SPOKEN_NOISE> <v-noise> [noise] [NOISE] [laughter] [LAUGHTER]
    [vocalized-noise] [silence] [loud_breath] [tongue_click] [door_slam/] [/cross_talk] [phone_ring]
    {BREATH} {NOISE} {SMACK} {COUGH} <sil> <NA> <hes> <cough> <no-speech> <lipsmack> <sta> <int>
    <male-to-female> [fil] [spk] [sta] [dtmf] {vocalsound} {disfmarker} {gap} <COMMA> <QUESTIONMARK>
    <MUSIC> <crosstalk> <inaudible> [laugh] [disfluency] [unclear] [redacted] ++NOISE++ <s> </s>
    &=laughs (Laughter) (Applause) [Music] (笑) 【音乐】 （音楽） ＜unk＞ (смех) [risas] (Gelächter)
    %hesitation %HESITATION ((unintelligible)) <foreign> </foreign> <eps>
    [BREATHING] *coughs*
"""
SAID = """
    {UH} [uh] %um (uh) 50 % noise Stop !Now (loud) person(s) member[s] [hello] <b> a<b>c f(x)
    !Silencio
    the noise* 2*3*4 C++ c++ and silence (unknown) [Smith] &amp; [] () <> (()) %%
"""


def cleaned(transcript: str) -> tuple[str, Counter[str]]:
    """The words that are left, and what was dropped."""
    dropped: Counter[str] = Counter()
    return " ".join(without_tags(transcript, dropped).split()), dropped


@pytest.mark.parametrize("tag", TAGS.split())
def test_a_tag_is_dropped_and_counted(tag: str) -> None:
    assert cleaned(f"one {tag} two") == ("one two", {tag: 1})
    assert cleaned(tag) == ("", {tag: 1})


@pytest.mark.parametrize(
    "tag",
    [
        "[background noise]",
        "[clears throat]",
        "(laughter and applause)",
        '<foreign lang="English">',
    ],
)
def test_tags_of_several_words(tag: str) -> None:
    assert cleaned(f"one{tag}two") == ("one two", {tag: 1})


@pytest.mark.parametrize("text", SAID.strip().splitlines())
def test_what_was_said_stays(text: str) -> None:
    assert cleaned(text) == (" ".join(text.split()), {})


def test_words_that_were_said_laughing_stay() -> None:
    assert cleaned("[laughter-i'm] so [laughter]") == (
        "i'm so",
        {"[laughter-]": 1, "[laughter]": 1},
    )

    assert cleaned("[laughter-noise]") == ("", {"[laughter-noise]": 1})


@pytest.mark.parametrize("sign", "[<{(*+!%&")
def test_long_rows_of_signs_take_no_time(sign: str) -> None:
    before = time.process_time()
    assert cleaned(sign * 100_000) == (sign * 100_000, {})
    assert time.process_time() - before < 2.0


def test_whole_transcripts_that_say_not_to_score() -> None:
    assert cleaned(" ignore_time_segment_in_scoring\n")[0] == ""
    assert cleaned("ignore_time_segment_in_scoring is said")[0].endswith("is said")


def test_brackets_that_hold_no_known_tag_are_told(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    noise(tmp_path / "in/a.wav")
    (tmp_path / "in/wav.scp").write_text(f"a {tmp_path}/in/a.wav\n")
    told = []
    for text in ("[noise] yes", "[hullabaloo] yes"):
        (tmp_path / "in/text").write_text(f"a {text}\n")
        words = ["kaldi", "in", "--language", "en", "--out", text[1:3], "--workers", "1"]
        words = [str(tmp_path / w) if w in ("in", text[1:3]) else w for w in words]
        result = CliRunner().invoke(commands, ["prepare", *words])
        assert result.exit_code == 0, result.output
        told.append(result.output)
    assert "tags dropped: '[noise]' 1" in told[0] and "kept as words" not in told[0]
    assert "tags dropped" not in told[1] and "not known as tags were kept" in told[1]


def test_labels_of_both_kinds_have_no_tags() -> None:
    given = ["[noise] yes <unk>", "!SIL"]
    for labels, spoken in ((characters("en"), "YES"), (phones("en"), "j ɛ s")):
        made, dropped = labels.label(given)
        assert made == [spoken, ""]
        assert dropped == {"[noise]": 1, "<unk>": 1, "!SIL": 1}
    assert characters("zh").label(["你[noise]好"])[0] == ["你 好"]


def test_utterances_without_words_are_left_out_and_counted(tmp_path: Path) -> None:
    root = tmp_path / "in"
    texts = ["[noise] hello", "!SIL", "<NOISE>", "hello, [noise] <unk>"]
    for index, _ in enumerate(texts):
        noise(root / f"u{index}.wav")
    rows = [f"u{index} {root}/u{index}.wav\n" for index, _ in enumerate(texts)]
    (root / "wav.scp").write_text("".join(rows))
    (root / "text").write_text("".join(f"u{i} {text}\n" for i, text in enumerate(texts)))
    corpus = Kaldi("en").read(root)
    with pytest.raises(UserError, match="2 of 4 clips cannot be used.*transcript '!SIL'"):
        prepare(corpus, tmp_path / "out", workers=1)
    made = prepare(corpus, tmp_path / "out", workers=1, max_bad=0.5)
    assert made.tags == {"[noise]": 2, "!SIL": 1, "<NOISE>": 1, "<unk>": 1}
    assert made.dropped == {",": 1}
    assert [clip for _, clip, _ in made.excluded] == ["u1", "u2"]
    assert files_of(tmp_path / "out")["in.wrd"] == b"HELLO\nHELLO\n"
    assert prepare(corpus, tmp_path / "out", resume=True) == made
