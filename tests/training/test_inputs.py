"""What tells apart what trainings read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from speechprune.manifests.split_files import split_digest
from speechprune.training.configs import configs
from speechprune.training.inputs import by_name, inputs_of

#: Those that configs name.
SPLITS = ("train", "valid", "dev_other")


def write_manifests(folder: Path, what: str) -> None:
    for split in SPLITS:
        for ending in ("tsv", "ltr", "lbl", "km", "phn"):
            (folder / f"{split}.{ending}").write_text(f"{what} {split} {ending}")


def write_texts(folder: Path, what: str) -> None:
    (folder / "input0").mkdir(exist_ok=True)
    (folder / "label").mkdir(exist_ok=True)
    for split in SPLITS:
        for path in (folder / "input0" / split, folder / "label" / split):
            for ending in ("bin", "idx"):
                path.with_suffix(f".{ending}").write_text(f"{what} {split}")


def write_plain_text(folder: Path, what: str) -> None:
    for split in SPLITS:
        for ending in ("bin", "idx"):
            (folder / f"{split}.{ending}").write_text(f"{what} {split} {ending}")


def writer(config: str) -> Callable[[Path, str], None]:
    if config.startswith("glue/"):
        return write_texts
    return write_plain_text if config.endswith("_text") else write_manifests


@pytest.mark.parametrize("config", configs())
def test_every_config_tells_its_data_apart(config: str, tmp_path: Path) -> None:
    overrides = [f"task.data={tmp_path}"]
    assert inputs_of(config, [])["data"] == {}
    writer(config)(tmp_path, "before")
    before = inputs_of(config, overrides)
    assert list(before["data"]) in (["train", "valid"], ["train", "dev_other"])
    assert inputs_of(config, overrides) == before
    writer(config)(tmp_path, "after")
    after = inputs_of(config, overrides)
    assert all(after["data"][split] != told for split, told in before["data"].items())


def test_labels_are_those_of_the_overrides(tmp_path: Path) -> None:
    write_manifests(tmp_path, "before")
    found = []
    for labels in ("ltr", "phn", "[phn]", "[phn, km]"):
        overrides = [f"task.data={tmp_path}", f"task.labels={labels}"]
        found.append(inputs_of("demo/nano", overrides)["data"]["train"])
    assert found[1] == found[2] == split_digest(tmp_path, "train", "phn")
    assert len(set(found)) == 3


def test_files_are_told_apart_wherever_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "it's.pt").write_bytes(b"a")
    paths = ["~/it\\'s.pt", f"{tmp_path}/it\\'s.pt"]
    found = [inputs_of("demo/nano", [f"model.w2v_path='{path}'"])["files"] for path in paths]
    assert found[0] == found[1] and list(found[0]) == ["model.w2v_path"]
    (tmp_path / "it's.pt").write_bytes(b"b")
    assert inputs_of("demo/nano", [f"model.w2v_path='{paths[0]}'"])["files"] != found[0]


def test_settings_of_the_config_count_unless_they_are_replaced_or_do_not_matter() -> None:
    names = by_name(inputs_of("demo/nano", ["model.dropout=0.5"]))
    assert "model.final_dropout of the config" in names
    assert "model.dropout of the config" not in names
    assert "common.log_interval of the config" not in names
