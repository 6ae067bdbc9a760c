"""`distill_ctc` and `distill`: what they add to a loss, what they leave alone, what they refuse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nano
import pytest
import torch
from fairseq.logging import metrics
from loop import Lab, setup
from nano import write_corpus, write_data2vec, write_finetuned, write_hubert, write_wav2vec2
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from speechprune.backbones import find_backbone
from speechprune.distillation.loss import distance
from speechprune.errors import UserError
from speechprune.models.loading import load_pretrained
from speechprune.models.sites import encoder_of_model
from speechprune.rewriting.layer_dropping import drop_layers
from speechprune.training.rehearsal import rehearse

#: Without what makes a training step random.
STEADY = (
    *("model.apply_mask=false", "model.layerdrop=0"),
    *(f"model.{name}dropout=0" for name in ("", "attention_", "activation_")),
)
FAMILIES = {
    "base": write_wav2vec2,
    "xlsr": lambda path: write_wav2vec2(
        path, layer_norm_first=True, extractor_mode="layer_norm", normalize=True
    ),
    "data2vec": write_data2vec,
    "hubert": write_hubert,
}


class Bench:
    """A student, batches of one to three utterances, and criterions, as training makes them."""

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg, self.task = setup(cfg)
        self.task.load_dataset("train")
        dataset = self.task.dataset("train")
        self.batches = [
            dataset.collater([dataset[i] for i in some]) for some in ((0, 1), (2,), (3, 4, 5))
        ]
        self.model = self.task.build_model(self.cfg.model)
        self.model.set_num_updates(0)

    def criterion(self, name: str, **settings: Any) -> Any:
        cfg = OmegaConf.merge(self.cfg.criterion, {"_name": name, **settings})
        OmegaConf.set_struct(cfg, True)
        cfg.sentence_avg = self.cfg.optimization.sentence_avg
        return self.task.build_criterion(cfg)

    def gradients(self, criterion: nn.Module, batches: list[dict]) -> dict[str, Tensor]:
        """What the optimizer would get: summed gradients over the summed sample size."""
        both = nn.ModuleDict({"model": self.model, "criterion": criterion})
        both.zero_grad()
        total = 0
        for batch in batches:
            loss, sample_size, _ = criterion(self.model, batch)
            loss.backward()
            total += sample_size
        return {n: p.grad / total for n, p in both.named_parameters() if p.grad is not None}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("distill"))


def bench_of(lab: Lab, *overrides: str) -> Bench:
    steady = OmegaConf.from_dotlist([*STEADY, *overrides])
    return Bench(OmegaConf.merge(lab.compose("model._name=wav2vec_ctc"), steady))


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


def wider(path: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Path:
    """A pretrained model of other settings than the student's."""
    own = nano._encoder_settings
    monkeypatch.setattr(nano, "_encoder_settings", lambda layers: {**own(layers), **changes})
    return write_wav2vec2(path)


def test_a_finetuned_teacher_is_taken_for_its_encoder(bench: Bench, tmp_path: Path) -> None:
    path = finetuned(tmp_path / "finetuned.pt")
    criterion = bench.criterion("distill", teacher=str(path))
    source = load_pretrained(path.with_name("source.pt")).state_dict()
    encoder = criterion.distillation.teacher.encoder.state_dict()
    assert all(torch.equal(source[key], encoder[key]) for key in encoder)


class TestRefusals:
    """One line each, before anything is trained."""

    def told(self, bench: Bench, **settings: Any) -> str:
        with pytest.raises(UserError) as error:
            bench.criterion("distill_ctc", **settings).prepare(bench.model)
        assert "\n" not in str(error.value)
        return str(error.value)

    def test_no_teacher(self, bench: Bench) -> None:
        assert "criterion.teacher names no checkpoint" in self.told(bench)

    def test_a_file_that_is_not_there_or_no_checkpoint(self, bench: Bench, tmp_path: Path) -> None:
        assert "gone.pt does not exist" in self.told(bench, teacher=str(tmp_path / "gone.pt"))
        (tmp_path / "text.pt").write_text("no checkpoint")
        assert "text.pt" in self.told(bench, teacher=str(tmp_path / "text.pt"))

    def test_another_width(
        self, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = wider(tmp_path / "wide.pt", monkeypatch, encoder_embed_dim=64)
        message = self.told(bench, teacher=str(path))
        assert message.endswith(
            "wide.pt has 64 channels, but the model has 32; name a teacher of the same width"
        )

    def test_another_frame_rate(
        self, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        convolutions = "[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16, 2, 2)]"
        path = wider(tmp_path / "fast.pt", monkeypatch, conv_feature_layers=convolutions)
        message = self.told(bench, teacher=str(path))
        assert "makes 5999 frames of 960000 samples, but the model makes 2999" in message

    def test_audio_normalised_otherwise(self, bench: Bench, lab: Lab) -> None:
        message = self.told(bench, teacher=str(lab.xlsr))
        assert "normalize=true, but the model with task.normalize=false" in message

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"states": [0, 3]}, "there is no hidden state 3 in"),
            ({"states": [-1]}, "which has the states 0 to 2"),
            ({"states": [0, 2], "student_states": [0, 4]}, "no hidden state 4 in the model"),
            ({"states": [0, 2], "student_states": [0]}, "must be as many as"),
            ({"student_states": [0]}, "give both"),
            ({"distill_weight": 1.5}, "distill_weight=1.5 is out of range; use 0 to 1"),
            ({"distill_weight": float("nan")}, "distill_weight=nan is out of range"),
            ({"l1_weight": -1.0}, "criterion.l1_weight=-1.0 is out of range"),
            ({"cosine_weight": float("inf")}, "criterion.cosine_weight=inf is out of range"),
        ],
    )
    def test_settings(
        self, bench: Bench, teacher: Path, settings: dict[str, Any], message: str
    ) -> None:
        assert message in self.told(bench, teacher=str(teacher), **settings)

    def test_models_that_are_not_finetuned(self, bench: Bench, teacher: Path) -> None:
        criterion = bench.criterion("distill", teacher=str(teacher))
        with pytest.raises(UserError, match="for CTC models, not for Wav2Vec2Model"):
            criterion.prepare(encoder_of_model(bench.model))

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (["criterion.teacher=x.pt"], "set criterion._name=distill_ctc"),
            (["criterion._name=distill_ctc"], "name one as criterion.teacher"),
            (
                ["criterion._name=distill", "criterion.teacher=x.pt"],
                "best_checkpoint_metric 'wer'; known: density, distill,",
            ),
            (
                [
                    "criterion._name=distill_ctc",
                    "criterion.teacher=x.pt",
                    "criterion.distill_weight=2",
                ],
                "criterion.distill_weight=2.0 is out of range; use 0 to 1",
            ),
        ],
    )
    def test_before_a_run_is_started(self, lab: Lab, overrides: list[str], message: str) -> None:
        arguments = ["--config-name", "base_1h", f"task.data={lab.data}", "model.w2v_path=x.pt"]
        splits = ["dataset.train_subset=train", "dataset.valid_subset=valid"]
        with pytest.raises(UserError) as error:
            rehearse([*arguments, *splits, *overrides])
        assert message in str(error.value)
