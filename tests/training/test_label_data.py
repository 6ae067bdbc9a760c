"""What would spoil a run on labels is told in one line before anything is built."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import pytest
from checkpoints import refusal
from labelled import LabelLab, write_lines, write_tones
from loop import compose
from omegaconf import DictConfig, OmegaConf

from speechprune.training.parts import check_parts
from speechprune.training.preflight import check_checkpoints, check_data, check_settings


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> LabelLab:
    return LabelLab(tmp_path_factory.mktemp("preflight"))


def composed(lab: LabelLab, *overrides: str) -> DictConfig:
    cfg = compose(lab.arguments("unused", overrides))
    return OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))


def unknown(data: Path) -> None:
    write_lines(data / "valid.lbl", ["low\tshrot"] * 6)


def column(data: Path) -> None:
    write_lines(data / "train.lbl", ["low\tshort\textra"] * 12)


def empty(data: Path) -> None:
    write_lines(data / "train.lbl", ["low\tshort", "high\tlong"] * 6)


def single(data: Path) -> None:
    write_lines(data / "dict.lbl.txt", ["pitch\tlow\t1"])


def shorter(data: Path) -> None:
    write_lines(data / "train.lbl", ["low\tshort"] * 11)


@pytest.mark.parametrize(
    "spoil, told",
    [
        (unknown, "did you mean 'short'?"),
        (column, "3 column(s) for 2 slot(s)"),
        (empty, "no utterance of train has the class 'middle' of slot 'pitch'"),
        (single, "only the class 'low'"),
        (shorter, "train"),
    ],
)
def test_labels_that_cannot_be_learnt_are_refused(
    lab: LabelLab, tmp_path: Path, spoil: Callable[[Path], None], told: str
) -> None:
    data = write_tones(tmp_path / "data")
    assert len(check_data(composed(lab, f"task.data={data}"))) == 2
    spoil(data)
    assert told in refusal(check_data, composed(lab, f"task.data={data}"))


def test_a_long_recording_fits_if_it_is_cropped(lab: LabelLab) -> None:
    small = "dataset.max_tokens=4000"
    valid = "dataset.max_tokens_valid=20000"
    assert "dataset.max_tokens=4000" in refusal(check_data, composed(lab, small, valid))
    check_data(composed(lab, small, valid, "task.crop_seconds=0.25"))
    longer = composed(lab, small, valid, "task.crop_seconds=0.3")
    assert "dataset.max_tokens=4000" in refusal(check_data, longer)


@pytest.mark.parametrize(
    "override, told",
    [
        ("model.no_prune_proj=false", "stay whole"),
        ("task.crop_seconds=0", "task.crop_seconds=0"),
        ("checkpoint.best_checkpoint_metric=accuracy_pich", "did you mean 'accuracy_pitch'"),
        ("model._name=wav2vec_labels_parp model.policy=s3router", "wav2vec_labels_st"),
        ("checkpoint.best_checkpoint_metric=wer", "wer"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    lab: LabelLab, override: str, told: str
) -> None:
    check_settings(composed(lab, "checkpoint.best_checkpoint_metric=accuracy_length"))
    assert told in refusal(check_settings, composed(lab, *override.split()))


@pytest.mark.parametrize("part", ["model._name=wav2vec_ctc_st", "criterion._name=ctc"])
def test_parts_that_do_not_go_together_are_refused(lab: LabelLab, part: str) -> None:
    check_parts(composed(lab))
    assert f"but {part} not" in refusal(check_parts, composed(lab, part))


def test_a_checkpoint_of_another_kind_is_refused(lab: LabelLab, tmp_path: Path) -> None:
    labels = lab.label("labels", "model._name=wav2vec_labels").succeeded().path()
    data = write_tones(tmp_path / "data")
    write_lines(data / "dict.lbl.txt", ["pitch\tlow\t1", "pitch\thigh\t1"])
    own = (f"checkpoint.finetune_from_model={labels}", "model._name=wav2vec_labels")
    check_checkpoints(composed(lab, *own))
    assert "lists pitch" in refusal(check_checkpoints, composed(lab, *own, f"task.data={data}"))
    encoder = (f"checkpoint.finetune_from_model={lab.wav2vec2}", "model._name=wav2vec_labels")
    assert "model.w2v_path" in refusal(check_checkpoints, composed(lab, *encoder))
