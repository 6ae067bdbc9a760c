"""Masks in `transformers.Trainer`: they follow its updates, checkpoints and resuming."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hugging_face import HEADS, batch, evaluated, small
from torch import Tensor
from torch.utils.data import Dataset
from toy import kept_of
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from speechprune.errors import UserError
from speechprune.huggingface import MaskCallback, mask
from speechprune.masking.mask_set import MaskSet
from speechprune.masking.schedule import ProgressiveSchedule

CASES: dict[str, dict[str, Any]] = {
    "parp": {"density": 0.4, "every": 3},
    "s3router": {"density": 0.4},
    "snip": {"schedule": ProgressiveSchedule(1.0, 0.4, begin=0, end=6), "every": 2},
}


class Sentences(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {key: value[index % 2] for key, value in batch("bert", index // 2).items()}


def trainer_of(model: Any, folder: Path, *callbacks: Any, **settings: Any) -> Trainer:
    arguments: dict[str, Any] = {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_steps": 8,
        "learning_rate": 0.3,
        "logging_steps": 1,
        "save_steps": 4,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
        **settings,
    }
    data = Sentences()
    return Trainer(
        model,
        TrainingArguments(str(folder), **arguments),
        train_dataset=data,
        eval_dataset=data,
        callbacks=list(callbacks) or [MaskCallback()],
    )


def masked(policy: str, seed: int = 0) -> Any:
    model = small("bert", head=True, seed=seed)
    mask(model, policy, **CASES[policy], seed=4)
    return model


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Seeds that the trainer sets stay in the test."""
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.mark.parametrize("policy", CASES)
def test_resuming_ends_where_an_uninterrupted_run_does(policy: str, tmp_path: Path) -> None:
    whole = masked(policy)
    trainer_of(whole, tmp_path / "whole").train()

    class Interrupted(MaskCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            control.should_training_stop |= state.global_step == 4

    trainer_of(masked(policy), tmp_path / "parts", Interrupted(fold=False)).train()
    again = masked(policy, seed=1)  # other weights, which the checkpoint replaces
    trainer_of(again, tmp_path / "parts").train(str(tmp_path / "parts" / "checkpoint-4"))
    for key, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    ends = [
        MaskSet.load(tmp_path / run / "checkpoint-8" / "masks.safetensors")
        for run in ("whole", "parts")
    ]
    assert ends[0] == ends[1]
    assert ends[0] != MaskSet.load(tmp_path / "whole" / "checkpoint-4" / "masks.safetensors")


@pytest.mark.parametrize("policy", CASES)
def test_the_end_is_a_plain_model_at_the_density(policy: str, tmp_path: Path) -> None:
    model = masked(policy)
    trainer = trainer_of(model, tmp_path / "run")
    trainer.train()
    found = MaskSet.load(tmp_path / "run" / "checkpoint-8" / "masks.safetensors")
    assert found.tally.kept == sum(
        kept_of(total, 0.4)
        for total in (
            [t.total for t in found.tallies(str).values()]
            if policy == "s3router"
            else [found.tally.total]
        )
    )
    assert found.provenance["updates"] == "8"
    assert f"policy={policy}" in found.provenance["settings"]
    for name, kept in found.items():
        assert not model.base_model.get_parameter(name)[~kept].any(), name
    trainer.save_model(str(tmp_path / "end"))
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "end")
    assert torch.equal(evaluated(again), evaluated(model))
    losses = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1]["density"] == pytest.approx(0.4, abs=0.01)
    assert len({entry["density"] for entry in losses}) == (4 if policy == "snip" else 1)


def test_the_best_checkpoint_is_folded_with_its_own_masks(tmp_path: Path) -> None:
    """What the trainer loads at the end is the network that was measured, masks included."""
    model = masked("s3router")
    trainer = trainer_of(
        model,
        tmp_path,
        eval_strategy="steps",
        eval_steps=1,
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=True,  # an early one
    )
    trainer.train()
    best = trainer.state.best_model_checkpoint
    assert best is not None and not best.endswith("checkpoint-8")
    for name, kept in MaskSet.load(Path(best) / "masks.safetensors").items():
        assert not model.base_model.get_parameter(name)[~kept].any(), name
    assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.state.best_metric, abs=1e-6)


@pytest.mark.parametrize("stopped", ["early", "gone back"])
def test_a_network_that_is_too_dense_is_not_folded(stopped: str, tmp_path: Path) -> None:
    class Impatient(MaskCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            control.should_training_stop |= stopped == "early" and state.global_step == 3

    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss"}
    early = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "greater_is_better": True}
    model = masked("snip")
    trainer = trainer_of(
        model, tmp_path, Impatient(), **({} if stopped == "early" else best | early)
    )
    with pytest.raises(UserError, match=r"not the 0.4\d* that the schedule ends with") as error:
        trainer.train()
    assert "\n" not in str(error.value)
    assert any(key.endswith("weight_mask") for key in model.state_dict())


def test_resuming_with_another_sparsity_is_refused(tmp_path: Path) -> None:
    trainer_of(masked("parp"), tmp_path).train()
    other = small("bert", head=True)
    mask(other, "parp", density=0.7, every=3)
    with pytest.raises(
        UserError, match=r"masks keep 0.4\d*, but .* to keep 0.7\d* after 4 updates"
    ):
        trainer_of(other, tmp_path).train(str(tmp_path / "checkpoint-4"))


def test_whole_units_are_folded_at_the_nearest_density(tmp_path: Path) -> None:
    """Of four heads, two are the fewest that keep 40 %."""
    model = small("bert", head=True)
    how = {"granularity": "row", "init_score": "weight_rank"}
    mask(model, "s3router", density=0.4, units=True, options=how)
    trainer_of(model, tmp_path).train(None)
    query = model.base_model.encoder.layer[0].attention.self.query.weight
    heads = query.detach().reshape(HEADS, -1).abs().sum(1)
    assert int((heads > 0).sum()) == kept_of(HEADS, 0.4) > 0.4 * HEADS
    again = small("bert", head=True)
    mask(again, "s3router", density=0.4, units=True, options=how)
    trainer_of(again, tmp_path).train(str(tmp_path / "checkpoint-4"))
    assert torch.equal(again.base_model.encoder.layer[0].attention.self.query.weight, query)


def test_micro_batches_and_validation_change_nothing(tmp_path: Path) -> None:
    quiet, watched = masked("parp"), masked("parp")
    trainer_of(quiet, tmp_path / "quiet", save_strategy="no").train()
    trainer_of(
        watched, tmp_path / "watched", eval_strategy="steps", eval_steps=1, save_steps=1
    ).train()
    for key, value in quiet.state_dict().items():
        assert torch.equal(watched.state_dict()[key], value), key


def test_masks_may_stay_on(tmp_path: Path) -> None:
    model = masked("parp")
    trainer_of(model, tmp_path, MaskCallback(fold=False), save_strategy="no").train()
    assert any(key.endswith("weight_mask") for key in model.state_dict())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small("bert", head=True), "has no masks"),
        (lambda: too_long_a_schedule(), "would never be reached"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_update(
    make: Any, message: str, tmp_path: Path
) -> None:
    model = make()
    with pytest.raises(UserError, match=message) as error:
        trainer_of(model, tmp_path).train()
    assert "\n" not in str(error.value)


def too_long_a_schedule() -> Any:
    model = small("bert", head=True)
    mask(model, "movement", schedule=ProgressiveSchedule(1.0, 0.4, begin=0, end=9), every=1)
    return model
