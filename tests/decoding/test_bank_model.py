"""Recordings heard by the tasks of a bank: in order, as each alone, and by the surest task."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import refusal, rewrite
from fairseq.data.dictionary import Dictionary
from mask_files import MASKED
from model_banks import Lab, make_sure, noise

from speechprune.decoding.bank import BankModel, confidences, load_task
from speechprune.decoding.inference import transcribe
from speechprune.decoding.labelling import classify
from speechprune.models.loading import LoadedLabeller, LoadedRecogniser, load_finetuned
from speechprune.rewriting.banking import add

TEXTS = ("es", "fr", "sure")


class Languages:
    """Three tasks that write texts, the last with a head that is sure of everything, and one that
    tells classes."""

    def __init__(self, folder: Path) -> None:
        self.lab = Lab(folder)
        attention = {**MASKED, "fix_attn": False, "prune_rate": 0.5}
        self.sources = {
            "es": self.lab.finetuned("es", MASKED, seed=1),
            "tone": self.lab.labelled("tone"),
            "fr": self.lab.finetuned("fr", attention, seed=2),
            "sure": make_sure(self.lab.finetuned("sure", MASKED, seed=3), 50.0),
        }
        for name, path in self.sources.items():
            add(self.lab.bank, name, path)
        self.loaded = {name: load_finetuned(path) for name, path in self.sources.items()}

    def alone(self, audio: np.ndarray, task: str) -> str:
        """What a task's checkpoint makes of a recording."""
        loaded = self.loaded[task]
        if isinstance(loaded, LoadedLabeller):
            (classes,) = classify(loaded, [audio])
            return "\t".join(classes or ())
        return transcribe(loaded, [audio])[0]


@pytest.fixture(scope="module")
def languages(tmp_path_factory: pytest.TempPathFactory) -> Languages:
    return Languages(tmp_path_factory.mktemp("languages"))


@pytest.fixture(scope="module")
def bank(languages: Languages) -> BankModel:
    return BankModel(languages.lab.bank)


#: Recordings of several lengths; two are too short for a frame, one of them empty.
AUDIO = [noise(length, seed) for seed, length in enumerate((8000, 12345, 100, 4000, 0, 16000))]


def test_a_mixed_batch_comes_back_in_order(languages: Languages, bank: BankModel) -> None:
    names = ("es", "fr", "tone", "sure")
    items = [(audio, names[i % 4]) for i, audio in enumerate(2 * AUDIO)]
    expected = [languages.alone(audio, name) for audio, name in items]
    assert len(set(expected)) > 6, "the premise: recordings and tasks differ"
    assert bank.transcribe(items) == expected
    assert bank.transcribe(items[::-1]) == expected[::-1]
    assert [bank.transcribe([item])[0] for item in items] == expected
    assert bank.transcribe([]) == []


def test_each_task_is_switched_to_once(bank: BankModel, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    whole = BankModel.use
    monkeypatch.setattr(BankModel, "use", lambda self, name: used.append(name) or whole(self, name))
    bank.transcribe([(AUDIO[0], name) for name in ("fr", "es", "fr", "tone", "es")])
    assert used == ["fr", "es", "tone"]


def test_texts_depend_on_no_batch(bank: BankModel, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [(audio, "fr") for audio in AUDIO]
    together, sure = bank.transcribe(items), bank.hear(AUDIO)
    for module in ("texts", "bank"):
        monkeypatch.setattr(f"speechprune.decoding.{module}.MAX_TOKENS", 1)
    assert bank.transcribe(items) == together
    alone = bank.hear(AUDIO)
    assert [(h.task, h.text) for h in alone] == [(h.task, h.text) for h in sure]
    found = [[h.confidence for h in heard] for heard in (alone, sure)]
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_classes_are_those_of_the_slots(languages: Languages, bank: BankModel) -> None:
    loaded = languages.loaded["tone"]
    assert isinstance(loaded, LoadedLabeller)
    for text in bank.transcribe([(audio, "tone") for audio in AUDIO if len(audio) > 400]):
        for slot, name in zip(loaded.slots, text.split("\t"), strict=True):
            assert name in slot.classes
    assert bank.transcribe([(AUDIO[2], "tone")]) == [""]


def test_an_unknown_task_is_refused_before_anything_is_heard(
    bank: BankModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BankModel, "use", lambda *_: pytest.fail("a task was used"))
    items = [(AUDIO[0], "es"), (AUDIO[1], "frr")]
    assert "did you mean 'fr'?" in refusal(bank.transcribe, items)


def test_auto_takes_the_task_that_is_surest(languages: Languages, bank: BankModel) -> None:
    audio = [samples for samples in AUDIO if len(samples) > 400]
    heard = bank.hear(audio)
    assert {each.task for each in heard} == {"sure"}
    assert [each.text for each in heard] == [languages.alone(each, "sure") for each in audio]
    assert bank.transcribe([(each, "auto") for each in audio]) == [each.text for each in heard]
    without = bank.hear(audio, ["es", "fr"])
    assert {each.task for each in without} <= {"es", "fr"}
    for found, sure in zip(without, heard):
        assert found.confidence < sure.confidence <= 0


def test_of_one_task_auto_is_that_task(languages: Languages, bank: BankModel) -> None:
    for name in TEXTS:
        heard = bank.hear(AUDIO, [name])
        assert {each.task for each in heard} == {name}
        assert [each.text for each in heard] == [languages.alone(a, name) for a in AUDIO]


def test_confidence_is_the_mean_of_the_best_log_probabilities(
    languages: Languages, bank: BankModel
) -> None:
    """By hand, of the checkpoint and of one recording at a time."""
    for name in ("es", "fr"):
        loaded = languages.loaded[name]
        for audio, heard in zip(AUDIO, bank.hear(AUDIO, [name])):
            if len(audio) < 400:
                assert heard == (name, "", -math.inf)
                continue
            source = torch.from_numpy(audio)[None]
            with torch.inference_mode():
                out = loaded.model(source=source, padding_mask=torch.zeros_like(source).bool())
            best = out["encoder_out"].double().softmax(-1).max(-1).values.log()
            assert heard.confidence == pytest.approx(best.mean().item(), abs=1e-5)


def test_among_equals_the_first_is_taken(languages: Languages, tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    path.write_bytes(languages.lab.bank.read_bytes())
    add(path, "twin", languages.sources["sure"])
    bank = BankModel(path)
    assert {heard.task for heard in bank.hear(AUDIO[:2])} == {"sure"}
    assert {heard.task for heard in bank.hear(AUDIO[:2], ["twin", "sure"])} == {"twin"}
    assert bank.hear([AUDIO[4]])[0].task == "es"


def test_frames_of_padding_and_what_is_no_number_do_not_count() -> None:
    scores = torch.tensor([[[0.0, 2.0]], [[3.0, 0.0]], [[0.0, 9.0]]])  # (T, B, symbols)
    padding = torch.tensor([[False, False, True]])
    best = [-math.log1p(math.exp(-difference)) for difference in (2.0, 3.0, 9.0)]
    assert confidences(scores, padding) == pytest.approx([sum(best[:2]) / 2])
    assert confidences(scores, None) == pytest.approx([sum(best) / 3])
    assert confidences(scores * math.inf, None) == [-math.inf]
    assert confidences(scores, torch.ones_like(padding)) == [-math.inf]


def test_tasks_that_write_no_text_are_refused(languages: Languages, tmp_path: Path) -> None:
    bank = BankModel(languages.lab.bank)
    assert bank.recognisers() == list(TEXTS)
    assert "'tone' tells the classes" in refusal(bank.hear, AUDIO, ["es", "tone"])
    assert "name at least one" in refusal(bank.hear, AUDIO, [])
    lab = Lab(tmp_path)
    empty = BankModel(lab.bank)
    for action in (empty.hear, lambda audio: empty.transcribe([(audio[0], "auto")])):
        assert "no task that writes texts" in refusal(action, AUDIO)
    add(lab.bank, "tone", lab.labelled("tone"))
    assert "no task that writes texts" in refusal(BankModel(lab.bank).hear, AUDIO)


def test_tasks_of_several_rates_are_not_compared(languages: Languages, tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    path.write_bytes(languages.lab.bank.read_bytes())
    slow = languages.lab.finetuned("slow", MASKED, seed=1)
    rewrite(slow, lambda state: state["cfg"]["task"].update(sample_rate=8000))
    add(path, "slow", slow)
    bank = BankModel(path)
    for action in (bank.rate, lambda: bank.hear(AUDIO)):
        message = refusal(action)
        assert "es 16000" in message and "slow 8000 Hz" in message
    assert BankModel(languages.lab.bank).rate() == 16000


def test_threads_wait_for_their_turn(bank: BankModel) -> None:
    """Each would otherwise be heard by weights that another thread is changing."""
    items = {name: [(AUDIO[0], name), (AUDIO[1], name)] for name in TEXTS}
    expected = {name: bank.transcribe(own) for name, own in items.items()}
    wrong: list[object] = []

    def work(name: str) -> None:
        try:
            for _ in range(4):
                found = bank.transcribe(items[name])
                if found != expected[name]:
                    wrong.append(found)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in TEXTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_loading_a_task_of_a_bank_or_a_checkpoint(languages: Languages, tmp_path: Path) -> None:
    path, source = languages.lab.bank, languages.sources["es"]
    audio = [AUDIO[0]]
    found, expected = load_task(path, "es"), load_task(source, None)
    assert isinstance(found, LoadedRecogniser) and isinstance(expected, LoadedRecogniser)
    assert isinstance(found.dictionary, Dictionary)
    assert transcribe(found, audio) == transcribe(expected, audio)
    assert "(es, tone, fr, sure)" in refusal(load_task, path, None)
    assert "leave out --task es" in refusal(load_task, source, "es")
    assert "does not exist" in refusal(load_task, tmp_path / "none", "es")


@pytest.mark.cuda
def test_a_gpu_hears_what_the_cpu_does(
    languages: Languages, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [(audio, name) for audio in AUDIO for name in ("es", "sure", "tone", "auto")]
    there = BankModel(languages.lab.bank)
    assert next(there.use("es").model.parameters()).is_cuda
    monkeypatch.setattr("speechprune.decoding.bank.best_device", lambda: torch.device("cpu"))
    here = BankModel(languages.lab.bank)
    pairs = list(zip(there.transcribe(items), here.transcribe(items)))
    assert sum(mine == theirs for mine, theirs in pairs) >= 0.7 * len(pairs)
