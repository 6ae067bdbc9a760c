"""`evaluate`, `transcribe` and `tune-decoder` with language models: what is printed and refused."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from arpa import write_arpa
from click.testing import CliRunner
from nano import write_corpus, write_finetuned, write_wav2vec2

from speechprune.decoding.beam import BeamSearch
from speechprune.decoding.emissions import ModelEmissions, frame_times
from speechprune.decoding.inference import read_audio
from speechprune.errors import UserError
from speechprune.models.loading import load_recogniser
from speechprune.tools.main import commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, recordings of its letters, and a language model of their words."""
    folder = tmp_path_factory.mktemp("decoding")
    data = write_corpus(folder / "data", train=2, valid=3)
    write_finetuned(folder / "model.pt", write_wav2vec2(folder / "pretrained.pt"), data)
    write_arpa(folder / "words.arpa", (data / "valid.wrd").read_text().splitlines())
    return folder


def run(folder: Path, line: str) -> Any:
    places = {"model": folder / "model.pt", "data": folder / "data", "lm": folder / "words.arpa"}
    return CliRunner().invoke(commands, shlex.split(line.format(folder=folder, **places)))


def printed(folder: Path, line: str) -> str:
    result = run(folder, line)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


VALID = "{data}/audio/valid-0.wav {data}/audio/valid-1.wav"


def test_transcripts_are_those_of_the_search(folder: Path) -> None:
    source = ModelEmissions(load_recogniser(folder / "model.pt"))
    files = [folder / "data" / "audio" / f"valid-{index}.wav" for index in (0, 1)]
    search = BeamSearch(folder / "model.pt", source.symbols, folder / "words.arpa", nbest=3)
    found = [search(source.emissions([read_audio(file, 16000)])[0]) for file in files]
    lines = printed(folder, f"transcribe {{model}} {VALID} --lm {{lm}}").splitlines()
    assert lines == [f"{file}\t{each[0].text}" for file, each in zip(files, found)]
    lines = printed(folder, f"transcribe {{model}} {VALID} --lm {{lm}} --nbest 3").splitlines()
    assert lines == [
        f"{file}\t{one.score:.4f}\t{one.text}" for file, each in zip(files, found) for one in each
    ]
    rows = json.loads(printed(folder, f"transcribe {{model}} {VALID} --lm {{lm}} --nbest 3 --json"))
    assert [[one["text"] for one in row["nbest"]] for row in rows] == [
        [one.text for one in each] for each in found
    ]


@pytest.mark.parametrize("search", ["", "--beam 20", "--lm {lm}"])
def test_times_are_the_same_in_all_forms(folder: Path, search: str) -> None:
    line = f"transcribe {{model}} {VALID} {search} --timestamps"
    rows = json.loads(printed(folder, f"{line} json"))
    words = [word for row in rows for word in row["words"]]
    assert [row["text"] for row in rows] == [
        " ".join(word["word"] for word in row["words"]) for row in rows
    ]
    assert all(0 <= word["start"] < word["end"] < 3 for word in words)
    ctm = [entry.split(" ") for entry in printed(folder, f"{line} ctm").splitlines()]
    assert [entry[0] for entry in ctm] == [
        Path(row["file"]).stem for row in rows for _ in row["words"]
    ]
    assert [entry[4] for entry in ctm] == [word["word"] for word in words]
    for entry, word in zip(ctm, words):
        assert float(entry[2]) == pytest.approx(word["start"], abs=0.0011)
        end = float(entry[2]) + float(entry[3])
        assert end == pytest.approx(word["end"], abs=0.0021)
    srt = printed(
        folder, f"transcribe {{model}} {{data}}/audio/valid-0.wav {search} --timestamps srt"
    )
    if rows[0]["words"]:
        clock = r"00:00:0\d,\d{3}"
        assert re.match(rf"1\n{clock} --> {clock}\n{rows[0]['words'][0]['word']}", srt)


def test_greedy_text_is_the_same_with_times(folder: Path) -> None:
    plain = json.loads(printed(folder, f"transcribe {{model}} {VALID} --json"))
    timed = json.loads(printed(folder, f"transcribe {{model}} {VALID} --timestamps json"))
    assert [row["text"] for row in plain] == [row["text"] for row in timed]
    assert any(row["text"] for row in plain)


def test_frames_are_where_their_convolutions_listen(folder: Path) -> None:
    at = frame_times(ModelEmissions(load_recogniser(folder / "model.pt")))
    assert (at.rate, at.stride, at.receptive) == (16000, 320, 400)


def test_more_processes_find_the_same(folder: Path) -> None:
    line = "evaluate {model} --data {data} --subset valid --lm {lm} --json --workers "
    one, two = (json.loads(printed(folder, line + workers)) for workers in ("1", "2"))
    assert one["words"] == two["words"] and one["characters"] == two["characters"]


def test_tuning_prints_the_line_that_gives_its_error_rate(folder: Path) -> None:
    line = "tune-decoder {model} --data {data} --subset valid --lm {lm} --rounds 1 --workers 1"
    report = json.loads(printed(folder, f"{line} --json"))
    assert len(report["trials"]) == len(
        {(trial["lm_weight"], trial["word_score"]) for trial in report["trials"]}
    )
    best = report["best"]
    assert best["wer"] == min(trial["wer"] for trial in report["trials"])
    words = shlex.split(report["command"])
    assert words[:2] == ["speechprune", "evaluate"]
    evaluated = CliRunner().invoke(commands, [*words[1:], "--json"])
    assert json.loads(evaluated.stdout)["wer"] == best["wer"]
    greedy = json.loads(printed(folder, "evaluate {model} --data {data} --subset valid --json"))
    assert report["greedy"]["words"] == greedy["words"]
    table = printed(folder, line).splitlines()
    assert table[0].split() == ["lm", "weight", "word", "score", "WER", "CER"]
    assert table[-1] == report["command"]


def test_what_was_searched_stands_beside_its_error_rate(folder: Path) -> None:
    line = "evaluate {model} --data {data} --subset valid --lm {lm} --beam 30 --lm-weight 1"
    told = json.loads(printed(folder, f"{line} --json"))["decoding"]
    assert told == {
        "lm": str(folder / "words.arpa"),
        "lexicon": None,
        "beam": 30,
        "lm_weight": 1.0,
        "word_score": 0.0,
    }
    last = printed(folder, line).splitlines()[-1]
    assert last.split(None, 1) == [
        "decoding",
        f"lm {folder / 'words.arpa'}, beam 30, lm weight 1.0, word score 0.0",
    ]
    greedy = json.loads(printed(folder, "evaluate {model} --data {data} --subset valid --json"))
    assert "decoding" not in greedy


def test_a_lexicon_of_other_words_than_the_references_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    """In another case, for instance: all would be wrong."""
    lexicon = tmp_path / "lexicon.txt"
    words = (folder / "data" / "valid.wrd").read_text().split()
    lexicon.write_text("".join(f"{word.lower()} {' '.join(word)} |\n" for word in words))
    lm = write_arpa(tmp_path / "lower.arpa", [" ".join(words).lower()])
    for command in ("evaluate {model}", f"tune-decoder {{model}} --lm {lm}"):
        line = f"{command} --data {{data}} --subset valid --lexicon {lexicon}"
        result = run(folder, line)
        assert result.exit_code == 1 and result.stdout == ""
        assert "no word of valid, such as" in result.stderr
        assert "both must be written alike" in result.stderr


def test_an_oracle_makes_fewer_errors_the_more_it_may_choose_from(folder: Path) -> None:
    line = "evaluate {model} --data {data} --subset valid --lm {lm} --beam 300 --json"
    told = [json.loads(printed(folder, f"{line} --nbest {count}")) for count in (1, 5, 40)]
    assert told[0]["oracle"]["words"] == told[0]["words"]
    assert all(each["words"] == told[0]["words"] for each in told)
    errors = [each["oracle"]["wer"] for each in told]
    assert errors[0] >= errors[1] >= errors[2] and errors[0] > errors[2]
    table = printed(folder, "evaluate {model} --data {data} --subset valid --nbest 40")
    assert "(of the best of 40 transcripts)" in table
    assert "oracle" not in json.loads(printed(folder, line))


def test_scores_that_are_no_numbers_are_no_transcript(folder: Path) -> None:
    loaded = load_recogniser(folder / "model.pt")
    with torch.no_grad():
        loaded.model.w2v_encoder.proj.weight.fill_(3e38)
    with pytest.raises(
        UserError, match="model.pt is damaged, or its training diverged: its scores"
    ):
        ModelEmissions(loaded).emissions([np.ones(16000, dtype=np.float32)])


def test_a_long_recording_is_heard_in_windows(folder: Path, tmp_path: Path) -> None:
    pieces = [read_audio(folder / "data" / "audio" / f"valid-{i}.wav", 16000) for i in range(3)]
    soundfile.write(tmp_path / "long.wav", np.tile(np.concatenate(pieces), 30), 16000)
    for options in ("", "--timestamps json", "--lm {lm} --timestamps json --workers 1"):
        line = f"transcribe {{model}} {tmp_path / 'long.wav'} {options or '--json'}"
        (row,) = json.loads(printed(folder, line))
        words = row.get("words", [])
        assert len(row["text"]) > 30 or "lm" in options
        starts = [word["start"] for word in words]
        assert starts == sorted(starts)
        assert [word["word"] for word in words] == row["text"].split() or not words


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"transcribe {{model}} {VALID} --lm-weight 1", "--lm-weight is for a language model"),
        ("evaluate {model} --data {data} --subset valid --word-score 1", "--word-score is for"),
        (f"transcribe {{model}} {VALID} --workers 2", "--workers is for a beam search"),
        (f"transcribe {{model}} {VALID} --timestamps srt", "name one file"),
        (f"transcribe {{model}} {VALID} --timestamps ctm --json", "no room for --json"),
        (f"transcribe {{model}} {VALID} --timestamps ctm --nbest 2", "no room for --nbest"),
        (
            "transcribe {model} {folder}/a/x.wav {folder}/b/x.wav --timestamps ctm",
            "called x in CTM",
        ),
        (f"transcribe {{model}} {VALID} --lm {{folder}}/no.arpa", "no.arpa cannot be read"),
        (f"transcribe {{model}} {VALID} --lm {{model}}", "model.pt is neither a language model"),
        (f"transcribe {{model}} {VALID} --lexicon {{lm}}", "is not a word with its letters"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(folder: Path, line: str, reason: str) -> None:
    result = run(folder, line)
    assert result.exit_code == 1 and result.stdout == ""
    (error,) = [each for each in result.stderr.splitlines() if "error" in each]
    assert error.startswith("speechprune: error: ") and reason in error
