"""Recordings with labels: crops in training alone, draws that resume, labels that follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from checkpoints import refusal
from labelled import RATE, SLOTS, write_lines, write_tones
from omegaconf import OmegaConf

import speechprune.plugin  # noqa: F401  (registers the task)
from speechprune.tasks.audio_labels import AudioLabelsTask


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("tones") / "data")


def task_of(data: Path, **settings: Any) -> AudioLabelsTask:
    defaults = {
        "data": str(data),
        "normalize": False,
        "sample_rate": RATE,
        "balanced": False,
        "balanced_slot": None,
        "crop_seconds": None,
        "seed": 1,
        "train_subset": "train",
    }
    return AudioLabelsTask(OmegaConf.create({**defaults, **settings}))


def loaded(data: Path, split: str, **settings: Any) -> Any:
    task = task_of(data, **settings)
    task.load_dataset(split)
    return task.dataset(split)


def batches(data: Path, epoch: int, workers: int = 0, **settings: Any) -> list[dict[str, Any]]:
    """What an epoch of training is made of."""
    task = task_of(data, **settings)
    task.load_dataset("train")
    iterator = task.get_batch_iterator(
        task.dataset("train"), max_tokens=20000, seed=1, epoch=epoch, num_workers=workers
    )
    return list(iterator.next_epoch_itr(shuffle=True))


def test_labels_follow_their_recordings_into_batches(data: Path) -> None:
    dataset = loaded(data, "train")
    lines = (data / "train.lbl").read_text().splitlines()
    batch = dataset.collater([dataset[i] for i in (7, 2, 4)])
    named = [
        "\t".join(classes[n] for classes, n in zip(SLOTS.values(), row))
        for row in batch["labels"].tolist()
    ]
    assert named == [lines[i] for i in batch["id"].tolist()] == [lines[i] for i in (7, 2, 4)]
    assert batch["labels"].dtype == torch.int64


def test_only_training_crops(data: Path) -> None:
    crop = int(0.1 * RATE)
    train, valid = (loaded(data, split, crop_seconds=0.1) for split in ("train", "valid"))
    assert {len(train[i]["source"]) for i in range(len(train))} == {crop}
    assert train.num_tokens(0) == crop and max(train.sizes) == crop
    rows = (data / "valid.tsv").read_text().splitlines()[1:]
    assert [len(valid[i]["source"]) for i in range(len(valid))] == [
        int(row.split("\t")[1]) for row in rows
    ]


def test_crops_are_parts_that_seed_epoch_and_recording_choose(data: Path) -> None:
    whole, _ = soundfile.read(data / "audio" / "train-3.wav", dtype="float32")
    starts = []
    for seed, epoch in ((1, 1), (1, 1), (1, 2), (2, 1)):
        dataset = loaded(data, "train", crop_seconds=0.1, seed=seed)
        dataset.set_epoch(epoch)
        crop = dataset[3]["source"].numpy()
        (start,) = [
            s for s in range(len(whole) - len(crop) + 1) if (whole[s : s + len(crop)] == crop).all()
        ]
        starts.append(start)
    assert starts[0] == starts[1] and len(set(starts)) == 3


def test_a_crop_is_normalised_itself(data: Path) -> None:
    crop = loaded(data, "train", crop_seconds=0.1, normalize=True)[3]["source"]
    assert abs(float(crop.mean())) < 1e-5 and abs(float(crop.var(unbiased=False)) - 1) < 1e-3


def test_balanced_draws_are_of_training_and_of_the_slot(tmp_path: Path, data: Path) -> None:
    for name in ("audio", "train.tsv", "valid.tsv", "valid.lbl", "dict.lbl.txt"):
        (tmp_path / name).symlink_to(data / name)
    write_lines(tmp_path / "train.lbl", ["low\tlong"] * 9 + ["high\tshort"] * 2 + ["middle\tlong"])
    for slot, shares in ((None, [4, 4, 4]), ("length", [6, 6])):
        dataset = loaded(tmp_path, "train", balanced=True, balanced_slot=slot)
        column = 0 if slot is None else list(SLOTS).index(slot)
        drawn = dataset.labels[:, column][dataset.ordered_indices()]
        assert np.bincount(drawn).tolist() == shares
    valid = loaded(tmp_path, "valid", balanced=True)
    assert sorted(valid.ordered_indices()) == list(range(len(valid)))


@pytest.mark.parametrize("settings", [{}, {"balanced": True, "crop_seconds": 0.15}])
def test_an_epoch_is_equal_whoever_loads_it(data: Path, settings: dict[str, Any]) -> None:
    first, again, others = (
        batches(data, 2, **settings),
        batches(data, 2, workers=2, **settings),
        batches(data, 3, **settings),
    )
    assert len(first) == len(again) > 1
    for one, two in zip(first, again):
        assert torch.equal(one["id"], two["id"]) and torch.equal(one["labels"], two["labels"])
        assert torch.equal(one["net_input"]["source"], two["net_input"]["source"])
    assert [b["id"].tolist() for b in first] != [b["id"].tolist() for b in others]


def test_a_slot_that_is_unknown_or_not_balanced_is_refused(data: Path) -> None:
    told = refusal(loaded, data, "train", balanced=True, balanced_slot="pich")
    assert "did you mean 'pitch'" in told
    assert "task.balanced=true" in refusal(loaded, data, "train", balanced_slot="pitch")
