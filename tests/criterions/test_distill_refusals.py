"""`distill_ctc` and `distill` refuse in one line, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nano
import pytest
from distill_bench import Bench, bench_of
from loop import Lab
from nano import write_wav2vec2

from speechprune.errors import UserError
from speechprune.models.sites import encoder_of_model
from speechprune.training.rehearsal import rehearse


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


def wider(path: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Path:
    """A pretrained model of other settings than the student's."""
    own = nano._encoder_settings
    monkeypatch.setattr(nano, "_encoder_settings", lambda layers: {**own(layers), **changes})
    return write_wav2vec2(path)


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
