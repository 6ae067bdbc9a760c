"""Layers of models of text: similarity over texts, plans by the task's error, and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from nano import write_corpus, write_finetuned, write_wav2vec2
from sentences import WORDS, write_finetuned_roberta, write_roberta, write_sentences

from speechprune.backbones import find_backbone
from speechprune.decoding.sentences import evaluate_sentences, read_labelled
from speechprune.dropping.hearing import heard_by
from speechprune.dropping.search import VerificationSettings
from speechprune.dropping.similarity import Listening, build_measures, similarity
from speechprune.layers.plan import LayerPlan
from speechprune.models.loading import load_encoder, load_finetuned
from speechprune.rewriting.layer_dropping import drop_layers
from speechprune.tools.main import commands

LAYERS = 4
PLANS = [LayerPlan(LAYERS, dropped) for dropped in ((0, 1), (0, 2), (3,), (1, 3))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained and two finetuned models, and data of text and of speech."""
    folder = tmp_path_factory.mktemp("text")
    data = write_sentences(folder / "data", {"train": 24, "valid": 40})
    write_sentences(folder / "other", words=(*WORDS[:-1], "off"))
    pretrained = write_roberta(folder / "pretrained.pt", layers=LAYERS, strength=10.0)
    write_finetuned_roberta(folder / "dense.pt", pretrained, data, "model._name=roberta_pruned")
    write_finetuned_roberta(folder / "masked.pt", pretrained, data, "model.prune_rate=0.3")
    speech = write_corpus(folder / "speech", train=2, valid=2)
    write_finetuned(folder / "ctc.pt", write_wav2vec2(folder / "wav2vec2.pt"), speech)
    return folder


def run(*arguments: object) -> Any:
    return CliRunner().invoke(commands, ["layers", *map(str, arguments)])


@pytest.mark.parametrize("name", ["pretrained", "dense", "masked"])
def test_states_are_those_of_each_text_in_a_padded_batch(folder: Path, name: str) -> None:
    """All texts at once, with padding, have the same states where they are not padded."""
    heard = heard_by(folder / f"{name}.pt", folder / "data", "train")
    encoder = load_encoder(folder / f"{name}.pt")
    alone = list(Listening(encoder, heard, range(len(heard))).states())
    texts = [heard.source(index) for index in range(len(heard))]
    assert {int(text[0]) for text in texts} == {0} and {int(text[-1]) for text in texts} == {2}
    source = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=1)
    with torch.inference_mode():
        states, padding = find_backbone(encoder).hidden_states(encoder, source, None)
    together = torch.stack(states)
    for row, text in enumerate(alone):
        assert text.shape == (LAYERS + 1, len(texts[row]), 16)
        torch.testing.assert_close(text, together[:, row][:, ~padding[row]], rtol=1e-4, atol=1e-5)


def test_a_finetuned_model_without_masks_is_as_similar_as_its_pretrained_one(folder: Path) -> None:
    measures = build_measures(["cka"], {"cka": {"mode": "T"}})
    found = [
        similarity(folder / f"{name}.pt", folder / "data", "train", measures)["cka"]
        for name in ("pretrained", "dense", "masked")
    ]
    pretrained, dense, masked = (matrix.values for matrix in found)
    assert np.array_equal(pretrained, dense) and not np.allclose(pretrained, masked)
    assert found[0].provenance["count"] == sum(
        len(heard_by(folder / "dense.pt", folder / "data", "train").source(i)) for i in range(24)
    )


@pytest.mark.parametrize("name", ["dense", "masked"])
@pytest.mark.parametrize("size", [1, 7])
def test_plans_measured_together_are_measured_as_each_alone(
    folder: Path, tmp_path: Path, name: str, size: int
) -> None:
    checkpoint, data = folder / f"{name}.pt", folder / "data"
    settings = VerificationSettings(data, "valid", batch_size=size)
    verifier = settings.verifier(checkpoint)
    rates = set()
    for measured in verifier.measure(PLANS, verifier.metric):
        drop_layers(checkpoint, measured.plan.dropped, tmp_path / "small.pt")
        loaded = load_finetuned(tmp_path / "small.pt")
        texts = read_labelled(loaded, data, "valid")
        for index, outputs in measured.outputs.items():
            source = texts[index]["net_input.src_tokens"][None]
            with torch.inference_mode():
                expected, _ = loaded.model(
                    src_tokens=source,
                    features_only=True,
                    classification_head_name="sentence_classification_head",
                )
            np.testing.assert_allclose(outputs, expected[0], rtol=1e-4, atol=1e-5)
        assert sorted(measured.outputs) == list(range(40))
        rates.add(measured.rate("error"))
        assert measured.rate("error") == evaluate_sentences(loaded, data, "valid").error
        wrong = sum(measured.errors("error", index) for index in range(40))
        assert measured.rate("error") == pytest.approx(wrong / 40)
    assert len(rates) > 1


def test_the_commands_work_one_after_another(folder: Path, tmp_path: Path) -> None:
    where = ("--data", folder / "data", "--subset")
    checkpoint, plans, best = folder / "dense.pt", tmp_path / "plans.json", tmp_path / "best.json"
    measured = run("similarity", checkpoint, *where, "train", "--out", tmp_path, "--mode", "T")
    assert measured.exit_code == 0, measured.output
    run("search", tmp_path / "svcca.safetensors", "--drop", 2, "--out", plans, "--top", 4)
    result = run("verify", checkpoint, plans, *where, "valid", "--json", "--out", best, "--race")
    verified = json.loads(result.stdout)
    rates = [row["error"] for row in verified["plans"] if not row["stopped"]]
    assert rates == sorted(rates) and verified["by"] == "error"
    assert verified["plans"][0]["examples"] == 40 and "wer" not in verified["plans"][0]
    table = run("greedy", checkpoint, *where, "valid", "--drop", 2).stdout
    assert "1 - accuracy %" in table and "WER" not in table and "utterance" not in table
    run("drop", checkpoint, best, tmp_path / "small.pt")
    assert len(load_finetuned(tmp_path / "small.pt").model.encoder.sentence_encoder.layers) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("similarity {pre} --data {speech} --subset train", "name a folder that `prepare glue`"),
        ("verify {dense} 1 --data {speech} --subset valid", "name a folder that `prepare glue`"),
        (
            "similarity {ctc} --data {text} --subset train",
            "holds texts, which no model of speech",
        ),
        (
            "verify {ctc} 1 --data {text} --subset valid",
            "holds texts, which no model of speech",
        ),
        ("similarity {dense} --data {other} --subset train", "is not the dictionary of"),
        ("verify {dense} 1 --data {other} --subset valid", "is not the dictionary of"),
        ("similarity {pre} --data {text} --subset gone", "has no split gone"),
        ("greedy {dense} --drop 1 --data {text} --subset gone", "has no split gone"),
        ("verify {dense} 1 --data {text} --subset valid --by wer", "ranked by error, not by wer"),
        ("verify {ctc} 1 --data {speech} --subset valid --by error", "ranked by cer or wer"),
        ("verify {pre} 1 --data {text} --subset valid", "is not a finetuned model"),
        ("greedy {dense} --drop 1 --data {f1} --subset valid --race", "which f1 does not count"),
        ("similarity {short} --data {text} --subset train", "reads 4 at most; shorten it"),
        ("similarity {small} --data {text} --subset train", "has 15 symbols"),
    ],
)
def test_bad_input_gets_one_line(folder: Path, tmp_path: Path, words: str, message: str) -> None:
    places = {
        **{"pre": folder / "pretrained.pt", "dense": folder / "dense.pt"},
        **{"speech": folder / "speech", "text": folder / "data", "other": folder / "other"},
        **{"ctc": folder / "ctc.pt", "f1": tmp_path / "f1"},
        **{"short": tmp_path / "short.pt", "small": tmp_path / "small.pt"},
    }
    write_roberta(places["short"], max_positions=4)
    write_roberta(places["small"], words=WORDS[:-1])
    write_sentences(places["f1"])
    task = {"name": "Q", "inputs": ["sentence"], "label": "label", "classes": ["0", "1"]}
    told = {"corpus": "text", "task": {**task, "metrics": ["f1"], "positive": "1", "scale": 1.0}}
    (places["f1"] / "provenance.json").write_text(json.dumps(told))
    before = sorted(tmp_path.iterdir())
    result = run(*words.format(**places).split())
    assert result.exit_code not in (0, None) and isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if line.startswith("speechprune: error:")]
    assert len(lines) == 1 and message in lines[0], result.output
    assert sorted(tmp_path.iterdir()) == before
