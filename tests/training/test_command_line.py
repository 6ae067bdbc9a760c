"""fairseq-hydra-train's arguments: completed, or refused with the nearest name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import speechprune
from speechprune.errors import UserError
from speechprune.training.command_line import complete
from speechprune.training.configs import configs

ROOT = Path(__file__).resolve().parents[2]


def overrides_of(words: list[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in complete(words).arguments if "=" in word)


@pytest.mark.parametrize("name", ["base_1h", "finetuning/base_1h"])
def test_plugin_and_config_are_filled_in_with_absolute_paths(name: str) -> None:
    line = complete(["--config-name", name, "model.prune_rate=0.5"])
    assert f"common.user_dir={Path(speechprune.__file__).parent}" in line.arguments
    folder = Path(line.arguments[line.arguments.index("--config-dir") + 1])
    assert folder == ROOT / "config" / "finetuning" and line.config_name == "base_1h"


def test_what_the_user_gives_is_kept(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("model:\n  _name: wav2vec_ctc_st\n")
    plugin = ROOT / "user_dir" / "speechprune"
    line = complete([f"common.user_dir={plugin}", f"--config-dir={tmp_path}", "-cn", "own", "-m"])
    assert [w for w in line.arguments if w.startswith("common.")] == [f"common.user_dir={plugin}"]
    assert line.arguments[-4:] == ["--config-dir", str(tmp_path), "--config-name", "own"]
    assert line.sweeps


def test_overrides_may_stand_on_both_sides_of_options() -> None:
    words = ["optimization.seed=1", "--config-name", "base_1h", "common.seed=2"]
    words[0] = "checkpoint.patience=1"
    given = overrides_of(words)
    assert given["checkpoint.patience"] == "1" and given["common.seed"] == "2"


def test_paths_that_exist_are_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("more data", "best(1).pt", "train"):
        Path(name).mkdir()
    words = ["task.data=more data", "model.w2v_path=best(1).pt", "dataset.train_subset=train"]
    found = overrides_of([*words, "model.mask_file=gone.pt", "--config-name=base_1h"])
    assert found["task.data"] == f"'{tmp_path}/more data'"
    assert found["model.w2v_path"] == f"'{tmp_path}/best(1).pt'"
    assert found["dataset.train_subset"] == "train" and found["model.mask_file"] == "gone.pt"
    swept = overrides_of(["task.data=train,more data,gone", "--config-name=base_1h", "-m"])
    assert swept["task.data"] == f"{tmp_path}/train,'{tmp_path}/more data',gone"


@pytest.mark.parametrize(
    "value", ["", "''", "???", "${model.data}", "choice(a,b)", "a\\,b", "null"]
)
def test_other_values_of_paths_are_kept(value: str) -> None:
    assert overrides_of([f"task.data={value}", "--config-name=base_1h"])["task.data"] == value


def test_the_user_folder_of_a_config_is_kept(tmp_path: Path) -> None:
    plugin = ROOT / "user_dir" / "speechprune"
    for name, folder in (("own", plugin), ("none", "null")):
        text = f"common:\n  user_dir: {folder}\nmodel:\n  _name: wav2vec_ctc_st\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    assert "common.user_dir" not in overrides_of([f"--config-dir={tmp_path}", "--config-name=own"])
    filled_in = overrides_of([f"--config-dir={tmp_path}", "--config-name=none"])
    assert filled_in["common.user_dir"] == str(plugin)


@pytest.mark.parametrize(
    ("folder", "told"),
    [
        ("gone", "common.user_dir=gone does not exist"),
        ("[a,b]", "common.user_dir=[a,b] does not exist; name one folder"),
        ("{tmp}/speechprune", "has the name of another Python package (speechprune); rename the"),
    ],
)
def test_user_folders_that_cannot_be_imported(tmp_path: Path, folder: str, told: str) -> None:
    (tmp_path / "speechprune").mkdir()
    (tmp_path / "speechprune" / "__init__.py").touch()
    folder = folder.format(tmp=tmp_path)
    with pytest.raises(UserError, match=re.escape(told)):
        complete([f"common.user_dir={folder}", "--config-name=base_1h"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["model.prune_rat=0.5"], "unknown key 'model.prune_rat'; did you mean 'model.prune_rate'"),
        (["+model.prun_rate=0.5"], "did you mean 'model.prune_rate'"),
        (["model._name=wav2vec_ctc_ts"], "unknown model 'wav2vec_ctc_ts'; did you mean 'wav2v"),
        (["model._name=wav2vec_ctc,wav2vec_ctx", "-m"], "unknown model 'wav2vec_ctx'"),
        (["optimization.lrr=[1]"], "did you mean 'optimization.lr'"),
        (["criterion._name=ctcc"], "unknown criterion 'ctcc'; did you mean 'ctc'"),
        (["optimizatoin.lr=[1]"], "unknown config group 'optimizatoin'; did you mean 'optimizati"),
        (["lr_scheduler.final_lr_scal=1"], "did you mean 'lr_scheduler.final_lr_scale'"),
        (["--cfg"], "expected one argument"),
    ],
)
def test_misspelt_words_get_the_nearest_name(words: list[str], told: str) -> None:
    with pytest.raises(UserError) as error:
        complete([*words, "--config-name", "base_1h"])
    assert told in str(error.value) and "\n" not in str(error.value)


def test_a_config_must_be_named_and_exist() -> None:
    with pytest.raises(UserError, match="--config-name: .*finetuning/base_1h.*xlsr/finetune"):
        complete(["model.prune_rate=0.5"])
    with pytest.raises(UserError, match="unknown config 'base_2h'; did you mean 'base_1"):
        complete(["--config-name", "base_2h"])


@pytest.mark.parametrize("name", configs())
def test_every_key_of_our_configs_is_known(name: str) -> None:
    """An override of each key of a config passes; otherwise a stricter check would refuse them."""
    config = OmegaConf.load(ROOT / "config" / f"{name}.yaml")
    keys = [f"{g}.{k}=1" for g, section in config.items() for k in section if k != "_name"]
    complete([*(key for key in keys if not key.startswith("hydra.")), "--config-name", name])
