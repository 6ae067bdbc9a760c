"""`masked_ctc` is fairseq's `ctc` plus the policy's penalty, once however batches are cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fairseq.logging import metrics
from loop import Lab, setup
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

WEIGHT = 0.25
STEADY = [
    "model.apply_mask=false",
    "model.layerdrop=0",
    *(f"model.{name}=0" for name in ("dropout", "attention_dropout", "activation_dropout")),
]


class Bench:
    """A model with a penalty, two batches, and both criterions."""

    def __init__(self, cfg: DictConfig, sentence_avg: bool) -> None:
        merged = OmegaConf.merge(cfg, OmegaConf.from_dotlist(STEADY))
        merged.optimization.sentence_avg = sentence_avg
        self.cfg, self.task = setup(merged)
        self.task.load_dataset("train")
        dataset = self.task.dataset("train")
        self.batches = [
            dataset.collater([dataset[i] for i in pair]) for pair in ((0, 1), (2, 3, 4))
        ]
        self.model = self.task.build_model(self.cfg.model)
        self.model.set_num_updates(0)

    def criterion(self, name: str, **settings: Any) -> nn.Module:
        """The criterion called ``name`` as a recipe would configure it."""
        cfg = OmegaConf.merge(self.cfg.criterion, {"_name": name, **settings})
        OmegaConf.set_struct(cfg, True)
        cfg.sentence_avg = self.cfg.optimization.sentence_avg
        return self.task.build_criterion(cfg)

    def gradients(self, criterion: nn.Module, batches: list[dict]) -> dict[str, Tensor]:
        """What the optimizer would get: summed gradients over the summed sample size."""
        self.model.zero_grad()
        total = 0
        for batch in batches:
            loss, sample_size, _ = criterion(self.model, batch)
            loss.backward()
            total += sample_size
        named = self.model.named_parameters()
        return {n: p.grad / total for n, p in named if p.requires_grad and p.grad is not None}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("criterion"))


@pytest.fixture(params=[True, False], ids=["sentences", "tokens"])
def bench(lab: Lab, request: pytest.FixtureRequest) -> Bench:
    return Bench(lab.cfg, request.param)


def squares(scores: Tensor) -> Tensor:
    return scores.square().sum()


def penalise(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the model's policy a penalty."""
    policy = type(bench.model.mask_controller.policy)
    monkeypatch.setattr(policy, "penalty", lambda self, scores: squares(scores))


def total_squares(bench: Bench) -> Tensor:
    scores = [p for n, p in bench.model.named_parameters() if n.endswith("scores")]
    return torch.stack([squares(s) for s in scores]).sum()


def test_without_a_penalty_it_is_ctc(bench: Bench) -> None:
    ctc, ours = bench.criterion("ctc"), bench.criterion("masked_ctc")
    (batch, _) = bench.batches
    loss, size, log = ctc(bench.model, batch)
    same_loss, same_size, same_log = ours(bench.model, batch)
    assert torch.equal(loss, same_loss) and size == same_size
    assert {key: same_log[key] for key in log} == log
    expected = bench.gradients(ctc, bench.batches)
    found = bench.gradients(ours, bench.batches)
    assert list(expected) == list(found)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_the_penalty_is_added_once_per_unit_of_sample_size(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    penalise(bench, monkeypatch)
    ours = bench.criterion("masked_ctc", penalty_weight=WEIGHT)
    (batch, _) = bench.batches
    loss, size, log = bench.criterion("ctc")(bench.model, batch)
    penalised, same_size, same_log = ours(bench.model, batch)
    assert size == same_size
    penalty = total_squares(bench)
    assert penalty > 1
    torch.testing.assert_close(penalised - loss, WEIGHT * size * penalty, rtol=1e-4, atol=0)
    assert same_log["loss"] == log["loss"]


@pytest.mark.parametrize("count", [1, 2])
def test_micro_batches_do_not_multiply_the_penalty(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    batches = bench.batches[:count]
    expected = bench.gradients(bench.criterion("ctc"), batches)
    penalise(bench, monkeypatch)
    ours = bench.criterion("masked_ctc", penalty_weight=WEIGHT)
    found = bench.gradients(ours, batches)
    for name, parameter in bench.model.named_parameters():
        if name in expected:
            added = 2 * WEIGHT * parameter.detach() if name.endswith("scores") else 0.0
            torch.testing.assert_close(found[name], expected[name] + added, rtol=1e-4, atol=1e-5)


def test_penalty_and_density_are_logged_as_means(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    penalise(bench, monkeypatch)
    ours = bench.criterion("masked_ctc", penalty_weight=WEIGHT)
    logs = [ours(bench.model, batch)[2] for batch in bench.batches]
    with metrics.aggregate(new_root=True) as aggregated:
        type(ours).reduce_metrics(logs)
    values = aggregated.get_smoothed_values()
    assert values["penalty"] == pytest.approx(total_squares(bench).item(), rel=1e-4)
    density = bench.model.mask_controller.stats()["density"]
    assert values["density"] == pytest.approx(density, abs=1e-6)
    losses = sum(log["loss"] for log in logs) / sum(log["sample_size"] for log in logs)
    assert values["loss"] == pytest.approx(losses / torch.tensor(2.0).log().item(), abs=1e-3)


def test_validation_has_the_error_rates_of_ctc(bench: Bench) -> None:
    bench.model.eval()
    (batch, _) = bench.batches
    with torch.no_grad():
        log = bench.criterion("ctc")(bench.model, batch)[2]
        ours = bench.criterion("masked_ctc")(bench.model, batch)[2]
    assert {"c_errors", "w_errors"} < set(log)
    assert {key: ours[key] for key in log} == log


def test_a_model_without_masks_gets_plain_ctc(lab: Lab) -> None:
    """Recipes name one criterion; `model._name=wav2vec_ctc` must not trip over it."""
    bench = Bench(lab.compose("model._name=wav2vec_ctc"), sentence_avg=True)
    (batch, _) = bench.batches
    loss, _, log = bench.criterion("ctc")(bench.model, batch)
    same, _, same_log = bench.criterion("masked_ctc")(bench.model, batch)
    assert torch.equal(loss, same)
    assert {key: same_log[key] for key in log} == log
