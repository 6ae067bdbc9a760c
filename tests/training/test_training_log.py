"""What is read off a log: records of both of fairseq's programs, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

from speechprune.training.log import read_log


def hydra(tag: str, **values: object) -> str:
    record = json.dumps({key: str(value) for key, value in values.items()})
    return f"[2026-01-01 00:00:00,000][{tag}][INFO] - {record}"


def write(folder: Path, *lines: str, name: str = "hydra_train.log") -> Path:
    (folder / name).write_text("".join(f"{line}\n" for line in lines))
    return folder


def test_curves_are_those_of_the_records(tmp_path: Path) -> None:
    write(
        tmp_path,
        "[2026-01-01 00:00:00,000][fairseq_cli.train][INFO] - {'_name': None, 'task': {}}",
        hydra("train_inner", loss=3.5, density=0.7, num_updates=5),
        hydra("train_inner", loss=2.5, density=0.7, num_updates=10),
        hydra("dev-other", **{"dev-other_wer": 90, "dev-other_num_updates": 10}),
        hydra("train", train_loss=3.0, train_num_updates=10),
    )
    log = read_log(tmp_path)
    assert log is not None
    assert log.trained["loss"] == {5: 3.5, 10: 2.5}
    assert log.trained["density"] == {5: 0.7, 10: 0.7}
    assert log.validated["dev-other"]["wer"] == {10: 90.0} and set(log.validated) == {"dev-other"}
    assert (log.updates, log.damaged, log.not_finite) == (10, 0, 0)


def test_the_format_of_fairseq_train_is_read(tmp_path: Path) -> None:
    write(tmp_path, '2026-01-01 00:00:00 | INFO | train_inner | {"loss": "2", "num_updates": "3"}')
    log = read_log(tmp_path)
    assert log is not None and log.trained["loss"] == {3: 2.0}


def test_what_was_logged_again_after_an_interruption_counts(tmp_path: Path) -> None:
    again = [(5, 3.0), (10, 2.0), (5, 4.0), (7, 1.0)]
    write(tmp_path, *(hydra("train_inner", loss=y, num_updates=x) for x, y in again))
    log = read_log(tmp_path)
    assert log is not None and list(log.trained["loss"].items()) == [(5, 4.0), (7, 1.0), (10, 2.0)]


def test_damaged_lines_and_values_are_counted(tmp_path: Path) -> None:
    write(
        tmp_path,
        hydra("train_inner", loss=3.5, num_updates=5),
        hydra("train_inner", loss=3.5, num_updates=6)[:-4],
        hydra("train_inner", loss="nan", gnorm="inf", num_updates=7),
        hydra("train_inner", loss=1.0),
        hydra("train_inner", loss="much", num_updates=8),
    )
    log = read_log(tmp_path)
    assert log is not None
    assert (log.damaged, log.not_finite) == (2, 2)
    assert log.trained["loss"] == {5: 3.5}


def test_the_log_that_holds_records_is_taken(tmp_path: Path) -> None:
    assert read_log(tmp_path) is None
    write(tmp_path, "nothing yet")
    empty = read_log(tmp_path)
    assert empty is not None and empty.path.name == "hydra_train.log" and not empty.trained
    write(tmp_path, hydra("train_inner", loss=1, num_updates=1), name="train.log")
    full = read_log(tmp_path)
    assert full is not None and full.path.name == "train.log"
