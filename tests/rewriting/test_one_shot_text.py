"""Heads and channels of models of text removed at once, by sentences, and refitted on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import refusal
from sentences import write_roberta, write_sentences, write_values
from text_loop import CONFIG, TextLab

from speechprune.checkpoint.file import PROVENANCE, read
from speechprune.decoding.sentences import read_sentences
from speechprune.models.loading import load_encoder, load_finetuned
from speechprune.reports.slimming import find_units
from speechprune.rewriting.calibration import Draw
from speechprune.rewriting.one_shot import prune
from speechprune.rewriting.sentence_calibration import SentenceCalibration
from speechprune.rewriting.unit_scores import scores_of_batches
from speechprune.slimming.choice import BudgetChoice, ShareChoice
from speechprune.slimming.criteria import CRITERIA

HALF = ShareChoice(0.5, 0.5)
HEAD = "sentence_classification_head"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> TextLab:
    return TextLab(tmp_path_factory.mktemp("one-shot-text"))


@pytest.fixture(scope="module")
def finetuned(lab: TextLab) -> Path:
    """It trained its output layer alone, and gives gradients of its encoder all the same."""
    flags = ("model._name=roberta_pruned", "model.freeze_finetune_updates=100")
    return lab.train("finetuned", *flags, updates=3, config=CONFIG).succeeded().path()


@pytest.fixture(scope="module")
def of_values(lab: TextLab) -> tuple[Path, Path]:
    """A model of values, and the folder that it was trained on."""
    folder = write_values(lab.folder / "values")
    run = lab.train(
        "values",
        *("model._name=roberta_pruned", f"task.data={folder}"),
        *("criterion.regression_target=true", "criterion.report_pearson_and_spearman=true"),
        *("checkpoint.best_checkpoint_metric=pearson", "task.num_classes=1"),
        config=CONFIG,
    ).succeeded()
    return run.path(), folder


def gradients_by_hand(loaded: Any, items: list[Any]) -> dict[str, torch.Tensor]:
    """Of the mean loss of some sentences, each alone, through the whole model's `forward`."""
    model = loaded.model.requires_grad_(True)
    model.zero_grad()
    model.cfg.freeze_finetune_updates = 0
    for item in items:
        tokens = item["net_input.src_tokens"][None]
        outputs, _ = model(src_tokens=tokens, classification_head_name=HEAD)
        if loaded.classes is None:
            loss = (outputs[0, 0] - item["target"][0]).square()
        else:
            loss = -outputs.log_softmax(-1)[0, int(item["target"])]
        (loss / len(items)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("max_tokens", [1, 40, None])
@pytest.mark.parametrize("kind", ["classes", "values"])
def test_scores_are_those_of_autograd_by_hand(
    lab: TextLab,
    finetuned: Path,
    of_values: tuple[Path, Path],
    kind: str,
    max_tokens: int | None,
) -> None:
    path, folder = (finetuned, lab.data) if kind == "classes" else of_values
    loaded: Any = load_finetuned(path)
    draw = Draw(folder, "train", batches=2, batch_size=6, max_tokens=max_tokens, seed=3)
    drawn = SentenceCalibration(draw, path, loaded)
    batches = drawn.batches(torch.device("cpu"), lambda symbols: symbols <= 32)
    found = scores_of_batches(loaded, CRITERIA.build("snip_momentum"), batches)
    everything = read_sentences(loaded, folder, "train")
    order = np.random.default_rng(3).permutation(64)[:12]
    weights = {name: p.detach() for name, p in loaded.model.named_parameters()}
    fc2 = "encoder.sentence_encoder.layers.1.fc2.weight"
    channels = torch.zeros(32)
    for batch in (order[:6], order[6:]):
        gradients = gradients_by_hand(loaded, [everything[int(index)] for index in batch])
        channels = 0.9 * channels + (weights[fc2] * gradients[fc2]).abs().mean(0)
    assert channels.any()
    torch.testing.assert_close(found[1].channels, channels, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("kind", ["pretrained", "finetuned"])
def test_repair_brings_an_encoder_nearer(
    lab: TextLab, finetuned: Path, tmp_path: Path, kind: str
) -> None:
    path = lab.roberta if kind == "pretrained" else finetuned
    draw, features = Draw(lab.data, "train"), {}
    texts = read_sentences(load_finetuned(finetuned), lab.data, "valid")
    plain = prune(path, tmp_path / "plain.pt", HALF, criterion="magnitude")
    mended = prune(
        path, tmp_path / "mended.pt", HALF, criterion="magnitude", draw=draw, repaired=True
    )
    assert plain.calibration == {} and mended.calibration == {"sentences": 64}
    assert mended.slim.layers == plain.slim.layers
    assert mended.errors is not None
    for layer in mended.errors:
        for block in (layer.attention, layer.feed_forward):
            assert block.after < 0.5 * block.before
    for name, file in (("whole", path), *((n, tmp_path / f"{n}.pt") for n in ("plain", "mended"))):
        encoder: Any = load_encoder(file)
        with torch.inference_mode():
            heard = [
                encoder(src_tokens=texts[i]["net_input.src_tokens"][None], features_only=True)[0][0]
                for i in range(len(texts))
            ]
        features[name] = torch.cat(heard)
    distances = {
        name: float((features[name] - features["whole"]).norm()) for name in ("plain", "mended")
    }
    assert distances["mended"] < 0.5 * distances["plain"]
    noted = read(tmp_path / "mended.pt")[PROVENANCE]["pruned_by"]
    assert noted["calibration"]["sentences"] == 64 and noted["repaired"]


def test_budgets_of_multiply_adds_are_those_of_the_longest_text(
    finetuned: Path, lab: TextLab, tmp_path: Path
) -> None:
    amount = BudgetChoice(0.6, True, 1, "multiply_adds")
    report = prune(finetuned, tmp_path / "out.pt", amount, draw=Draw(lab.data, "train"))
    assert report.criterion == "snip_momentum"
    assert 0.55 < report.after.multiply_adds / report.before.multiply_adds <= 0.6
    assert report.describe()["symbols"] == 32 and "seconds" not in report.describe()
    found = find_units(tmp_path / "out.pt")
    assert found.encoder == report.after and "for 32 symbols of text" in found.in_words()


def test_refusals(finetuned: Path, lab: TextLab, tmp_path: Path) -> None:
    """Each of one line, with no file."""
    out, draw = tmp_path / "out.pt", Draw(lab.data, "train")
    other = write_sentences(tmp_path / "other", words=("good", "bad", "a", "film"))
    pretrained, nowhere = lab.roberta, Draw(lab.data, "nowhere")
    shorter = write_roberta(tmp_path / "short.pt", max_positions=3)
    for path, options, complaint in (
        (pretrained, {"criterion": "snip", "draw": draw}, "needs the gradient of a loss"),
        (finetuned, {"criterion": "snip"}, "snip needs labelled sentences"),
        (finetuned, {"repaired": True}, "--repair needs sentences"),
        (finetuned, {"criterion": "magnitude", "draw": draw}, "nothing would read the sentences"),
        (finetuned, {"draw": nowhere}, "no split nowhere"),
        (pretrained, {"draw": nowhere, "repaired": True}, "no split nowhere"),
        (finetuned, {"draw": Draw(other, "train")}, "is not the dictionary of"),
        (pretrained, {"draw": Draw(other, "train"), "repaired": True}, "symbols"),
        (shorter, {"draw": draw, "repaired": True}, "symbols"),
    ):
        assert complaint in refusal(prune, path, out, HALF, **options)
        assert not out.exists()
    assert "does not take seconds, but symbols" in refusal(find_units, finetuned, seconds=3.0)
    assert "40 symbols of text are more than" in refusal(find_units, finetuned, symbols=40)
