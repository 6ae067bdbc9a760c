"""`speechprune evaluate`: fairseq's error counts, every utterance, whatever the batches."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from bars import watch
from click.testing import CliRunner
from fairseq.criterions.ctc import CtcCriterion, CtcCriterionConfig
from fairseq.data.dictionary import Dictionary
from nano import write_corpus, write_data2vec, write_finetuned, write_hubert, write_wav2vec2

from speechprune.decoding import inference
from speechprune.decoding.inference import (
    batches,
    check_references,
    evaluate,
    read_audio,
    transcribe,
)
from speechprune.errors import UserError
from speechprune.files import digest
from speechprune.manifests.manifest import read_split
from speechprune.models.loading import LoadedModel, load_finetuned
from speechprune.rewriting.folding import fold
from speechprune.tools.evaluate import command

PRE_NORM = {"layer_norm_first": True, "extractor_mode": "layer_norm", "normalize": True}
WRITERS: dict[str, Callable[..., Path]] = {
    "base": write_wav2vec2,
    "pre_norm": partial(write_wav2vec2, **PRE_NORM),
    "data2vec": write_data2vec,
    "hubert": write_hubert,
}
MASKS = {"_name": "wav2vec_ctc_st", "prune_rate": 0.3, "trainable_proj": True}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("data"), train=1, valid=7)


def write_model(folder: Path, data: Path, model: dict[str, Any], **shape: Any) -> Path:
    source = write_wav2vec2(folder / "pretrained.pt", **shape)
    return write_finetuned(folder / "finetuned.pt", source, data, model=model)


def fairseq_word_counts(loaded: LoadedModel, data: Path) -> tuple[int, int]:
    """Word errors and words of `valid` as fairseq's criterion counts them, in one batch."""
    task = loaded.task
    task.cfg.data = str(data)
    task.load_dataset("valid")
    dataset = task.dataset("valid")
    sample = dataset.collater([dataset[i] for i in range(len(dataset))])
    config = CtcCriterionConfig(zero_infinity=True, sentence_avg=True, post_process="letter")
    with torch.no_grad():
        log = CtcCriterion(config, task).eval()(loaded.model.eval(), sample)[2]
    return log["wv_errors"], log["w_total"]


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Fairseq's own news aside, which are captured where an earlier test asked for them."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def run(*arguments: object) -> Any:
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=True)


@pytest.mark.parametrize("shape", [{}, PRE_NORM], ids=["base", "pre_norm"])
def test_errors_are_those_that_fairseq_counts(
    tmp_path: Path, data: Path, shape: dict[str, Any]
) -> None:
    path = write_model(tmp_path, data, {}, **shape)
    counts = evaluate(load_finetuned(path), read_split(data, "valid")).words
    errors, words = fairseq_word_counts(load_finetuned(path), data)
    assert (counts.errors, counts.reference_length) == (errors, words)
    assert counts.utterances == 7
    assert counts.substitutions > 0


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 3}, {"max_tokens": 1}])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_error_rates_depend_on_no_batch(
    tmp_path: Path, data: Path, write: Callable[..., Path], options: dict[str, int]
) -> None:
    path = write_finetuned(tmp_path / "finetuned.pt", write(tmp_path / "pretrained.pt"), data)
    loaded = load_finetuned(path)
    split = read_split(data, "valid")
    together, alone = evaluate(loaded, split), evaluate(loaded, split, **options)
    assert together.characters.substitutions > 0
    assert (together.words, together.characters) == (alone.words, alone.characters)


def test_decoding_is_seen_to_go_on(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, split = load_finetuned(write_model(tmp_path, data, {})), read_split(data, "valid")
    silent = evaluate(loaded, split, batch_size=3)
    bars = watch(inference, monkeypatch)
    assert evaluate(loaded, split, batch_size=3).characters == silent.characters
    assert [(bar.desc, bar.n, bar.total) for bar in bars] == [("decoding", 7, 7)]


def test_batches_hold_every_utterance_once_within_both_limits() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        frames = generator.integers(1, 100, size=generator.integers(1, 30)).tolist()
        size = int(generator.integers(1, 6))
        tokens = int(generator.integers(1, 300))
        found = list(batches(frames, tokens, size))
        assert sorted(i for batch in found for i in batch) == list(range(len(frames)))
        for batch in found:
            assert len(batch) == 1 or max(frames[i] for i in batch) * len(batch) <= tokens
            assert len(batch) <= size


def test_an_utterance_without_a_frame_has_no_text(tmp_path: Path, data: Path) -> None:
    loaded = load_finetuned(write_model(tmp_path, data, {}))
    long = read_audio(data / "audio" / "valid-0.wav", 16000)
    alone = transcribe(loaded, [long])
    assert transcribe(loaded, [long[:100], long, long[:0]]) == ["", *alone, ""]


def test_scores_that_are_not_numbers_are_refused(tmp_path: Path, data: Path) -> None:
    """The best of them would be the blank, and every text silently empty."""
    loaded = load_finetuned(write_model(tmp_path, data, {}))
    audio = [np.zeros(16000, dtype=np.float32), np.zeros(8000, dtype=np.float32)]
    transcribe(loaded, audio)
    with torch.no_grad():
        loaded.model.w2v_encoder.proj.bias[-1] = torch.nan
    with pytest.raises(UserError, match="finetuned.pt is damaged, or its training diverged"):
        transcribe(loaded, audio)


def test_masked_and_folded_models_report_the_same_network(tmp_path: Path, data: Path) -> None:
    path = write_model(tmp_path, data, MASKS)
    fold(path, tmp_path / "folded.pt")
    found = []
    for checkpoint in (path, tmp_path / "folded.pt"):
        ran = run(checkpoint, "--data", data, "--subset", "valid", "--json")
        assert ran.exit_code == 0, ran.output
        found.append(json.loads(ran.stdout))
    for report in found:
        assert report.pop("seconds_of_audio_per_second") > 0
        assert report.pop("checkpoint_digest") == digest(report.pop("checkpoint"))
    masked, folded = found
    assert masked == folded
    assert masked["density"] == pytest.approx(0.3, abs=1e-3)
    plain = load_finetuned(tmp_path / "folded.pt").model
    assert masked["parameters"] == sum(p.numel() for p in plain.parameters())
    frames = [u.frames for u in read_split(data, "valid").utterances]
    assert masked["audio_seconds"] == pytest.approx(sum(frames) / 16000)
    words = masked["words"]
    errors = words["substitutions"] + words["deletions"] + words["insertions"]
    assert masked["wer"] == errors / words["reference_length"]


def test_table_shows_what_json_says(tmp_path: Path, data: Path) -> None:
    path = write_model(tmp_path, data, {})
    arguments = [path, "--data", data, "--subset", "valid", "--batch-size", 1]
    shown, printed = (run(*arguments, *flag).stdout for flag in ([], ["--json"]))
    found = json.loads(printed)
    assert f"WER         {100 * found['wer']:.2f} %" in shown
    assert f"{found['words']['deletions']} deletions" in shown
    assert f"{found['parameters']:,}" in shown
    assert "density     1.0000" in shown


def test_texts_in_another_alphabet(
    tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Symbols that the model cannot write are told; if it can write none, nothing is compared."""
    loaded = load_finetuned(write_model(tmp_path, data, {}))
    split = read_split(data, "valid")
    evaluate(loaded, split)
    assert not warnings_in(caplog)
    texts = ["AE\u00c4", *(u.text for u in split.utterances[1:])]
    some = [u._replace(text=text) for u, text in zip(split.utterances, texts)]
    evaluate(loaded, replace(split, utterances=tuple(some)))
    symbols = sum(len(text.replace(" ", "")) for text in texts)
    assert f"1 of {symbols} symbols in the texts of valid, such as '\u00c4'" in caplog.text
    for text, told in (("ab b", "such as 'b', is known"), ("", "no utterance of valid has a text")):
        strange = tuple(u._replace(text=text) for u in split.utterances)
        with pytest.raises(UserError, match=told):
            evaluate(loaded, replace(split, utterances=strange))


def test_symbols_of_several_letters_are_not_compared(
    tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody could tell AH0 from A, H and 0 in a word."""
    loaded = load_finetuned(write_model(tmp_path, data, {}))
    dictionary = Dictionary()
    for symbol in ("|", "AH0", "OW1"):
        dictionary.add_symbol(symbol)
    check_references(replace(loaded, dictionary=dictionary), read_split(data, "valid"))
    assert not warnings_in(caplog)


def test_bad_corpora_get_one_line(tmp_path: Path, data: Path) -> None:
    path = write_model(tmp_path, data, {})
    broken = write_corpus(tmp_path / "broken", train=2, valid=2)
    (broken / "audio" / "valid-1.wav").unlink()
    soundfile.write(broken / "audio" / "train-0.wav", np.zeros(8000), 8000)
    short = write_corpus(tmp_path / "short", train=2, valid=2)
    (short / "valid.ltr").write_text("A |\n")
    for folder, subset, named in (
        (data, "no-such-subset", "no-such-subset"),
        (tmp_path / "no-such-folder", "valid", "no-such-folder"),
        (broken, "valid", "valid-1.wav"),
        (broken, "train", "8000"),
        (short, "valid", "valid.ltr"),
    ):
        ran = run(path, "--data", folder, "--subset", subset)
        assert isinstance(ran.exception, UserError), (folder, ran.exception)
        assert named in str(ran.exception)
        assert "\n" not in str(ran.exception)
        assert ran.stdout == ""


@pytest.mark.cuda
def test_a_cuda_device_is_used(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_finetuned(write_model(tmp_path, data, MASKS, **PRE_NORM))
    split = read_split(data, "valid")
    found = evaluate(loaded, split)
    assert found.device == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert abs(evaluate(loaded, split).characters.errors - found.characters.errors) <= 3
