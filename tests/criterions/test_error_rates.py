"""What validation measures in training is what `evaluate` prints, to the digit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.criterions.ctc import CtcCriterion, CtcCriterionConfig
from fairseq.logging import metrics
from nano import write_corpus, write_finetuned, write_wav2vec2
from omegaconf import OmegaConf

from speechprune.decoding.inference import evaluate, padded, read_references
from speechprune.models.loading import LoadedModel, load_finetuned
from speechprune.tools.evaluate import report, table

#: Outputs do not depend on the batch.
LAYER_NORM = {"layer_norm_first": True, "extractor_mode": "layer_norm", "normalize": True}
PHONES = {"A": "t\u0283", "B": "a", "C": "e\u02d0", "D": "n", "E": "\u014b"}


def labels(folder: Path, lines: list[str], symbols: list[str]) -> None:
    """Other labels for the split `valid`, and their dictionary."""
    (folder / "valid.ltr").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    text = "".join(f"{symbol} 1\n" for symbol in symbols)
    (folder / "dict.ltr.txt").write_text(text, encoding="utf-8")


def letters(folder: Path) -> None:
    """As the corpus has them."""


def single_words(folder: Path) -> None:
    """One word each, two of them without an end."""
    labels(folder, ["B E", "A D |", "C", "E E |"], [*"|ABCDE"])


def strange_letters(folder: Path) -> None:
    """Some that the dictionary lacks, one of them of two characters; and an empty line."""
    labels(folder, ["B \u00c4 |", "A e\u030a D | B |", "", "E <unk> |"], [*"|ABCDE"])


def phones(folder: Path) -> None:
    """Units of one or two characters, one of them unknown."""
    lines = (folder / "valid.ltr").read_text().replace(" |", "").splitlines()
    spelt = [" ".join(PHONES[letter] for letter in line.split()) for line in lines]
    labels(folder, [*spelt[:3], spelt[3] + " x\u02b0"], [*PHONES.values(), "o"])


def one_unit(folder: Path) -> None:
    """Labels of a single unit, such as `yes` and `no`, do not spell a word."""
    labels(folder, ["no", "yes", "no", "yes yes"], ["yes", "no", "a", "b", "c", "d"])


KINDS = (letters, single_words, strange_letters, phones, one_unit)


def trained_rates(loaded: LoadedModel, data: Path, name: str, batch: int) -> dict[str, float]:
    """What fairseq logs of a validation on `valid`, in batches of ``batch``."""
    task = loaded.task
    task.cfg.data = str(data)
    task.load_dataset("valid")
    dataset = task.dataset("valid")
    cfg = OmegaConf.create({"_name": name, "post_process": "letter", "sentence_avg": True})
    criterion: Any = task.build_criterion(cfg).eval()
    numbers = range(len(dataset))
    with metrics.aggregate(new_root=True) as aggregated, torch.no_grad():
        for first in range(0, len(dataset), batch):
            sample = dataset.collater([dataset[i] for i in numbers[first : first + batch]])
            _, _, log = task.valid_step(sample, loaded.model, criterion)
            criterion.reduce_metrics([log])
    return aggregated.get_smoothed_values()


def model_of(folder: Path, kind: Any) -> tuple[LoadedModel, Path]:
    data = write_corpus(folder / "data", train=1, valid=4)
    kind(data)
    source = write_wav2vec2(folder / "pretrained.pt", **LAYER_NORM)
    return load_finetuned(write_finetuned(folder / "finetuned.pt", source, data)), data


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("criterion", ["ctc", "masked_ctc"])
def test_training_and_evaluation_agree(tmp_path: Path, kind: Any, criterion: str) -> None:
    loaded, data = model_of(tmp_path, kind)
    found = evaluate(loaded, read_references(loaded, data, "valid"))
    assert found.words.errors > 0 and found.words.errors != found.words.utterances
    rates = trained_rates(loaded, data, criterion, batch=3)
    assert rates["wer"] == rates["raw_wer"] == round(100 * found.words.rate, 3)
    assert rates["uer"] == round(100 * found.characters.rate, 3)


def test_words_are_those_of_fairseq(tmp_path: Path) -> None:
    """An independent count, where fairseq's is what one wants."""
    loaded, data = model_of(tmp_path, letters)
    ours = trained_rates(loaded, data, "ctc", batch=2)
    dataset = loaded.task.dataset("valid")
    config = CtcCriterionConfig(sentence_avg=True, post_process="letter")
    sample = dataset.collater([dataset[i] for i in range(4)])
    with torch.no_grad():
        log = CtcCriterion(config, loaded.task).eval()(loaded.model, sample)[2]
    assert ours["wer"] == round(100 * log["w_errors"] / log["w_total"], 3)


def test_units_have_one_rate_by_its_name(tmp_path: Path) -> None:
    loaded, data = model_of(tmp_path, phones)
    found = evaluate(loaded, read_references(loaded, data, "valid"))
    units = sum(len(line.split()) for line in (data / "valid.ltr").read_text().splitlines())
    assert found.words == found.characters and found.words.reference_length == units
    assert table(found).startswith(f"UER         {100 * found.words.rate:.2f} %")
    assert "WER" not in table(found) and f"in {units} units)" in table(found)
    assert report(found)["units"] and report(found)["wer"] == report(found)["cer"]


def test_other_transcripts_are_left_to_fairseq(tmp_path: Path) -> None:
    """`criterion.post_process` as typed counts: word pieces are joined to words."""
    loaded, data = model_of(tmp_path, phones)
    task = loaded.task
    task.cfg.data = str(data)
    task.load_dataset("valid")
    dataset = task.dataset("valid")
    sample = dataset.collater([dataset[i] for i in range(4)])
    config = CtcCriterionConfig(sentence_avg=True, post_process="none")
    with torch.no_grad():
        ours, theirs = (
            criterion(config, task).eval()(loaded.model, sample)[2]
            for criterion in (CRITERION_REGISTRY["ctc"], CtcCriterion)
        )
    assert ours == theirs


def test_nothing_is_heard_in_an_utterance_too_short_for_a_frame(tmp_path: Path) -> None:
    """Beside a longer one, as in training's validation; `evaluate` leaves it out of its batches."""
    loaded, _ = model_of(tmp_path, letters)
    audio = [np.ones(8000, dtype=np.float32), np.ones(300, dtype=np.float32)]
    with torch.no_grad():
        output = loaded.model(**padded(loaded, audio))
        blanks = loaded.model.get_logits(output)[:, 1].argmax(1)
    assert output["padding_mask"].all(1).tolist() == [False, True]
    assert not blanks.any()
