"""`distill_ctc` and `distill`: what they add to a loss, and what they leave alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from distill_bench import FAMILIES, Bench, bench_of
from fairseq.logging import metrics
from loop import Lab
from nano import write_corpus, write_finetuned, write_wav2vec2
from torch import Tensor, nn

from speechprune.backbones import find_backbone
from speechprune.distillation.loss import distance
from speechprune.models.loading import load_pretrained
from speechprune.models.sites import encoder_of_model
from speechprune.rewriting.layer_dropping import drop_layers


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("distill"))


@pytest.fixture(scope="module")
def teacher(lab: Lab) -> Path:
    """Of other weights than the student."""
    return write_wav2vec2(lab.folder / "teacher.pt", layers=2, seed=5)


@pytest.fixture(scope="module")
def bench(lab: Lab) -> Bench:
    return bench_of(lab)


@pytest.fixture
def deep(lab: Lab) -> Path:
    return write_wav2vec2(lab.folder / "deep.pt", layers=4, seed=2)


@pytest.mark.parametrize("training", [True, False], ids=["training", "validation"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(
    lab: Lab, tmp_path: Path, family: str, training: bool
) -> None:
    """In padded batches too: both hear them alike, whatever the family makes of padding."""
    path = FAMILIES[family](tmp_path / "pretrained.pt")
    normalize = family in ("xlsr", "data2vec")
    bench = bench_of(lab, f"model.w2v_path={path}", f"task.normalize={normalize}")
    criterion = bench.criterion("distill_ctc", teacher=str(path)).train(training)
    bench.model.train(training)
    for batch in bench.batches:
        log = criterion(bench.model, batch)[2]
        assert log["distill_l1"] < 1e-5 * log["distill_frames"]
        assert log["distill_cosine"] == pytest.approx(log["distill_frames"], rel=1e-5)
        assert log["distill"] == pytest.approx(-log["distill_frames"], rel=2e-5)


def test_the_distance_is_that_of_the_models_run_by_themselves(bench: Bench, teacher: Path) -> None:
    """In validation, with the default states of two layers; of a batch without padding."""
    bench.model.eval()
    criterion = bench.criterion("distill", teacher=str(teacher)).eval()
    batch = bench.batches[1]
    loss, frames, log = criterion(bench.model, batch)
    encoder, other = encoder_of_model(bench.model), load_pretrained(teacher)
    family = find_backbone(encoder)
    with torch.no_grad():
        own, theirs = (
            family.hidden_states(model, batch["net_input"]["source"], None)[0]
            for model in (encoder, other)
        )
    expected = distance([s.transpose(0, 1) for s in own], [s.transpose(0, 1) for s in theirs], None)
    assert frames == own[0].shape[1] == log["sample_size"]
    assert log["distill_l1"] / frames == pytest.approx(expected.l1.item(), rel=1e-5)
    assert log["distill_cosine"] / frames == pytest.approx(expected.cosine.item(), rel=1e-4)
    assert loss.item() / frames == pytest.approx(expected.loss().item(), rel=1e-4)
    assert expected.l1 > 0.1


def test_parts_are_mixed_by_their_weights(bench: Bench, teacher: Path) -> None:
    bench.model.train()
    batch = bench.batches[2]
    ctc, size, of_ctc = bench.criterion("ctc")(bench.model, batch)
    mixed = bench.criterion(
        "distill_ctc", teacher=str(teacher), distill_weight=0.3, l1_weight=2.0, cosine_weight=0.5
    )
    loss, same_size, log = mixed(bench.model, batch)
    assert size == same_size == 3
    assert {key: log[key] for key in of_ctc} == of_ctc
    assert log["distill"] == pytest.approx(2 * log["distill_l1"] - 0.5 * log["distill_cosine"])
    assert loss.item() == pytest.approx(0.7 * ctc.item() + 0.3 * log["distill"], rel=1e-5)
    encoder = encoder_of_model(bench.model)
    samples = (~batch["net_input"]["padding_mask"]).sum(1).tolist()
    counts = [find_backbone(encoder).frame_count(encoder, length) for length in samples]
    assert log["distill_frames"] == sum(counts) and len(set(counts)) > 1


@pytest.mark.parametrize("sentence_avg", [True, False], ids=["sentences", "tokens"])
def test_how_batches_are_cut_does_not_weigh_the_parts(
    lab: Lab, teacher: Path, sentence_avg: bool
) -> None:
    """The gradient of several micro-batches is that of their sums over one sample size."""
    bench = bench_of(lab, f"optimization.sentence_avg={str(sentence_avg).lower()}")
    mixed = bench.criterion("distill_ctc", teacher=str(teacher), distill_weight=0.4)
    found = bench.gradients(mixed, bench.batches)
    ctc = bench.gradients(bench.criterion("ctc"), bench.batches)
    alone = bench.criterion("distill", teacher=str(teacher))
    distilled = bench.gradients(alone, bench.batches)
    sizes = [bench.criterion("ctc")(bench.model, batch)[1] for batch in bench.batches]
    frames = [alone(bench.model, batch)[1] for batch in bench.batches]
    ratio = sum(frames) / sum(sizes)
    for name, gradient in found.items():
        expected = 0.6 * ctc.get(name, torch.zeros(())) + 0.4 * ratio * distilled.get(
            name, torch.zeros(())
        )
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)
    assert any(name.startswith("criterion.") for name in found)


def test_means_are_logged_whatever_the_batches(bench: Bench, teacher: Path) -> None:
    bench.model.train()
    for name in ("distill_ctc", "distill"):
        criterion = bench.criterion(name, teacher=str(teacher))
        logs = [criterion(bench.model, batch)[2] for batch in bench.batches]
        assert type(criterion).logging_outputs_can_be_summed()
        summed = {key: sum(log[key] for log in logs) for key in logs[0]}
        values = []
        for given in (logs, [summed]):
            with metrics.aggregate(new_root=True) as aggregated:
                type(criterion).reduce_metrics(given)
            values.append(aggregated.get_smoothed_values())
        assert values[0] == values[1]
        frames = sum(log["distill_frames"] for log in logs)
        assert values[0]["distill_l1"] == round(summed["distill_l1"] / frames, 5)
        assert values[0]["distill_cosine"] == round(summed["distill_cosine"] / frames, 5)


def test_the_teacher_hears_each_batch_once_and_is_left_as_it_is(
    bench: Bench, teacher: Path
) -> None:
    criterion = bench.criterion("distill_ctc", teacher=str(teacher))
    encoder = criterion.distillation.teacher.encoder
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    calls: list[bool] = []
    encoder.feature_extractor.register_forward_hook(
        lambda *_: calls.append(torch.is_grad_enabled())
    )
    criterion.train()
    for batch in bench.batches:
        criterion(bench.model.train(), batch)[0].backward()
    criterion.eval()(bench.model.eval(), bench.batches[0])
    assert calls == [False] * 4
    assert not any(module.training for module in encoder.modules())
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    names = [f"distillation.projections.{part}" for part in ("first", "others")]
    own = {f"{name}.{tensor}" for name in names for tensor in ("weight", "bias")}
    assert set(criterion.state_dict()) == set(dict(criterion.named_parameters())) == own


def test_building_a_teacher_draws_nothing(bench: Bench, teacher: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    bench.criterion("distill", teacher=str(teacher))
    assert torch.rand(1) == expected


def test_the_teacher_runs_in_the_students_precision(lab: Lab, teacher: Path) -> None:
    bench = bench_of(lab)
    criterion = bench.criterion("distill", teacher=str(teacher)).bfloat16()
    bench.model.bfloat16()
    batch = bench.batches[0]
    source = batch["net_input"]["source"].bfloat16()
    loss, _, _ = criterion(
        bench.model, {**batch, "net_input": {**batch["net_input"], "source": source}}
    )
    loss.backward()
    assert loss.dtype == torch.float32
    weights = criterion.distillation.teacher.encoder.parameters()
    assert {weight.dtype for weight in weights} == {torch.bfloat16}
    assert criterion.distillation.projections.others.weight.grad.dtype == torch.bfloat16


def test_the_last_layers_of_a_teacher_do_not_run_in_vain(bench: Bench, deep: Path) -> None:
    criterion = bench.criterion("distill", teacher=str(deep), states=[0, 1], student_states=[0, 1])
    encoder = criterion.distillation.teacher.encoder
    assert len(find_backbone(encoder).layers(encoder)) == 1
    assert bench.criterion(
        "distill", teacher=str(deep), states=[0]
    ).distillation.teacher.states == (0,)


class TestStates:
    """Which states of the student learn."""

    def student_states(self, bench: Bench, teacher: Path, **settings: Any) -> tuple[int, ...]:
        criterion = bench.criterion("distill_ctc", teacher=str(teacher), **settings)
        criterion.prepare(bench.model)
        return criterion.distillation.student_states

    def test_of_a_shallower_model(self, bench: Bench, deep: Path) -> None:
        assert self.student_states(bench, deep) == (0, 1, 2, 2)  # for 0, 1, 3 and 4
        given = self.student_states(bench, deep, states=[1, 4], student_states=[0, 2])
        assert given == (0, 2)

    def test_of_a_model_that_has_lost_layers_in_training(self, lab: Lab, deep: Path) -> None:
        dropping = ("model._name=wav2vec_ctc_pruned", "model.drop_layers=[1]")
        bench = bench_of(lab, f"model.w2v_path={deep}", *dropping)
        assert self.student_states(bench, deep, states=[0, 1, 2, 3, 4]) == (0, 1, 1, 2, 3)

    def test_of_a_model_that_had_lost_layers_before(
        self, lab: Lab, deep: Path, tmp_path: Path
    ) -> None:
        drop_layers(deep, [0], tmp_path / "short.pt")
        bench = bench_of(
            lab, f"model.w2v_path={tmp_path / 'short.pt'}", "model._name=wav2vec_ctc_pruned"
        )
        assert self.student_states(bench, deep, states=[0, 1, 2, 4]) == (0, 0, 1, 3)


@pytest.mark.parametrize("name", ["distill_ctc", "distill"])
def test_a_batch_for_which_layerdrop_skips_all_layers(lab: Lab, teacher: Path, name: str) -> None:
    """fairseq's own loop skips them: there is no state, and nothing fails."""
    bench = bench_of(lab)
    encoder_of_model(bench.model).encoder.layerdrop = 1.0
    criterion = bench.criterion(name, teacher=str(teacher))
    loss, _, log = criterion(bench.model.train(), bench.batches[0])
    loss.backward()
    assert log["distill_frames"] == log["distill_l1"] == log["distill_cosine"] == 0
    if name == "distill":
        assert loss == 0
    with metrics.aggregate(new_root=True) as aggregated:
        type(criterion).reduce_metrics([log])
    assert "distill_l1" not in aggregated.get_smoothed_values()


def test_labels_are_not_needed(bench: Bench, teacher: Path) -> None:
    """As the task `audio_pretraining` gives batches, with padding or without."""
    criterion = bench.criterion("distill", teacher=str(teacher))
    bench.model.train()
    batch = bench.batches[0]
    expected, frames, _ = criterion(bench.model, batch)
    bare = {"id": batch["id"], "net_input": batch["net_input"]}
    assert torch.equal(criterion(bench.model, bare)[0], expected)
    source = batch["net_input"]["source"]
    cropped = {"id": batch["id"], "net_input": {"source": source}}
    assert criterion(bench.model, cropped)[1] >= frames


class Gates:
    """What another controller of a model may give."""

    def __init__(self, value: Tensor | None) -> None:
        self.value = value

    def penalty(self) -> Tensor | None:
        return self.value


@pytest.fixture
def gated(bench: Bench) -> Iterator[nn.Parameter]:
    """Gates on the student, with a penalty that is trained."""
    value = nn.Parameter(torch.tensor(3.0))
    bench.model.slim_controller = Gates(2 * value)
    yield value
    del bench.model.slim_controller


@pytest.mark.parametrize("name", ["masked_ctc", "distill_ctc", "distill"])
def test_penalties_of_all_controllers_are_added(
    bench: Bench, teacher: Path, gated: nn.Parameter, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.model.train()
    settings = {} if name == "masked_ctc" else {"teacher": str(teacher)}
    criterion = bench.criterion(name, penalty_weight=0.5, **settings)
    loss, size, log = criterion(bench.model, bench.batches[0])
    loss.backward()
    assert log["penalty"] == 6.0 * size
    assert gated.grad == 0.5 * 2 * size
    bench.model.slim_controller = Gates(None)
    without, _, log = criterion(bench.model, bench.batches[0])
    torch.testing.assert_close(loss - without, torch.tensor(3.0 * size), rtol=1e-4, atol=0)
    assert log["penalty"] == 0


def test_projections_of_a_checkpoint_are_taken_if_it_has_some(bench: Bench, teacher: Path) -> None:
    first, second = (bench.criterion("distill", teacher=str(teacher)) for _ in range(2))
    nn.init.normal_(first.distillation.projections.first.weight)
    second.load_state_dict(None, strict=True)
    identity = second.distillation.projections.first.weight
    assert torch.equal(identity, torch.eye(len(identity)))
    second.load_state_dict(first.state_dict(), strict=True)
    assert torch.equal(identity, first.distillation.projections.first.weight)


def finetuned(path: Path) -> Path:
    source = write_wav2vec2(path.with_name("source.pt"))
    return write_finetuned(path, source, write_corpus(path.parent / "data", train=1, valid=1))


def test_a_finetuned_teacher_is_taken_for_its_encoder(bench: Bench, tmp_path: Path) -> None:
    path = finetuned(tmp_path / "finetuned.pt")
    criterion = bench.criterion("distill", teacher=str(path))
    source = load_pretrained(path.with_name("source.pt")).state_dict()
    encoder = criterion.distillation.teacher.encoder.state_dict()
    assert all(torch.equal(source[key], encoder[key]) for key in encoder)
