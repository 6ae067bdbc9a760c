"""Sweeps with launchers and sweepers of other packages: every job counts, in its own folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from fairseq.logging import progress_bar
from hydra.errors import MissingConfigException
from loop import Lab, Run, run_script
from omegaconf import OmegaConf
from sentences import POSITIONS, write_roberta, write_sentences
from test_train import SPEECHPRUNE, arguments, error_line, run_forked

from speechprune.config.generate import FOLDER
from speechprune.errors import UserError
from speechprune.training import sweeps
from speechprune.training.command_line import check_keys, complete
from speechprune.training.configs import configs, find_config
from speechprune.training.jobs import JOB
from speechprune.training.preflight import check_settings
from speechprune.training.refusals import words_of_hydra
from speechprune.training.sweeps import (
    Outcomes,
    check_direction,
    refuse_hidden_gpus,
    run_name,
)

FILES = sorted((FOLDER / "sweeps").glob("*.yaml"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("sweeps"))


def density(run: Run) -> float:
    """What a job was trained with."""
    share: float = run.checkpoint("last")["cfg"]["model"]["prune_rate"]
    return share


def test_jobs_of_submitit_train_side_by_side_and_one_that_fails_is_named(lab: Lab) -> None:
    """In processes that import the plugin by themselves."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    pytest.importorskip("tensorboardX")
    sweep, curves = lab.folder / "submitit", lab.folder / "curves"
    words = arguments(
        lab,
        "unused",
        f"hydra.sweep.dir={sweep}",
        f"common.tensorboard_logdir={curves}",
        "hydra/launcher=submitit_local",
        "model.prune_rate=0.5,1.5,0.25",
        "-m",
    )
    run = run_script(lab.folder / "submitit-log", words, SPEECHPRUNE)
    assert "of 3 jobs of the sweep these failed: 1; job 1: model.prune_rate" in error_line(run)
    assert [density(Run(sweep / str(job), 0, "")) for job in (0, 2)] == [0.5, 0.25]
    assert not (sweep / "1" / "checkpoints").exists()
    assert sorted(folder.name for folder in curves.iterdir()) == ["0", "2"]
    assert all(list(curves.glob(f"{job}/train/events.out.tfevents.*")) for job in (0, 2))


@pytest.mark.parametrize(("direction", "best"), [("minimize", min), ("maximize", max)])
def test_optuna_finds_the_best_of_the_returned_values(lab: Lab, direction: str, best: Any) -> None:
    """Which one is good is the metric's matter: here a loss, large ones first for the test."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    sweep = lab.folder / direction
    words = arguments(
        lab,
        "unused",
        f"hydra.sweep.dir={sweep}",
        "checkpoint.best_checkpoint_metric=loss",
        f"checkpoint.maximize_best_checkpoint_metric={str(best is max).lower()}",
        f"hydra.sweeper.direction={direction}",
        "+sweeps=optuna",
        "hydra.sweeper.n_trials=3",
        "optimization.lr=choice([0.0001],[0.01])",
        "-m",
    )
    run = run_forked(lab.folder / f"{direction}-log", words)
    assert run.exit_code == 0, run.output[-3000:]
    runs = [Run(sweep / str(job), 0, "") for job in range(3)]
    values = [trial.checkpoint("best")["extra_state"]["best"] for trial in runs]
    found: Any = OmegaConf.load(sweep / "optimization_results.yaml")
    assert len(set(values)) > 1 and found.best_value == best(values)
    winner = runs[values.index(best(values))]
    assert found.best_params["model.prune_rate"] == pytest.approx(density(winner))
    assert 0.3 <= min(map(density, runs)) < max(map(density, runs)) <= 0.9


def test_a_search_for_the_worst_is_refused_before_it_trains(lab: Lab) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    sweep = lab.folder / "worst"
    more = ("checkpoint.maximize_best_checkpoint_metric=true", "+sweeps=optuna", "-m")
    words = arguments(lab, "unused", f"hydra.sweep.dir={sweep}", *more)
    line = error_line(run_forked(lab.folder / "worst-log", words))
    assert "set hydra.sweeper.direction=maximize" in line
    assert not (sweep / "0").exists()


@pytest.mark.parametrize("maximizes", [False, True])
def test_directions(maximizes: bool) -> None:
    right, wrong = ("maximize", "minimize") if maximizes else ("minimize", "maximize")
    metric = {"maximize_best_checkpoint_metric": maximizes, "best_checkpoint_metric": "wer"}

    def check(sweeper: dict[str, Any]) -> None:
        check_direction(OmegaConf.create({"hydra": {"sweeper": sweeper}, "checkpoint": metric}))

    for sweeper in ({"direction": right}, {}, {"direction": None}):
        check(sweeper)
    with pytest.raises(UserError, match=f"wer is better: set hydra.sweeper.direction={right} "):
        check({"direction": wrong})


@pytest.mark.parametrize("at_a_time", ["null", "1"])
def test_jobs_after_one_that_failed_are_trained(lab: Lab, at_a_time: str) -> None:
    sweep = lab.folder / f"going-on-{at_a_time}"
    words = arguments(
        lab,
        "unused",
        f"hydra.sweep.dir={sweep}",
        f"hydra.sweeper.max_batch_size={at_a_time}",
        "model.prune_rate=1.5,0.5,0.25",
        "-m",
    )
    run = run_forked(lab.folder / f"going-on-log-{at_a_time}", words)
    assert "of 3 jobs of the sweep these failed: 0; job 0: model.prune_rate" in error_line(run)
    assert [density(Run(sweep / str(job), 0, "")) for job in (1, 2)] == [0.5, 0.25]


def test_a_job_does_not_go_on_from_other_settings(lab: Lab) -> None:
    """Jobs are counted from 0 again: the third one is that of other values."""
    sweep = lab.folder / "again"

    def swept(rates: str, name: str, *more: str) -> Run:
        words = arguments(lab, "unused", f"hydra.sweep.dir={sweep}", *more)
        return run_forked(lab.folder / name, [*words, f"model.prune_rate={rates}", "-m"])

    longer = ("lr_scheduler.phase_ratio=null", "lr_scheduler.decay_steps=10")
    swept("0.5,0.25", "again-1", *longer).succeeded()
    swept("0.5,0.25", "again-2", "optimization.max_update=3", *longer).succeeded()
    line = error_line(swept("0.75,0.25", "again-3", "optimization.max_update=3", *longer))
    assert "these failed: 0; job 0:" in line
    assert "has a job of model.prune_rate=0.5, and this one is of 0.75" in line
    assert "name another hydra.sweep.dir" in line
    line = error_line(swept("0.5,0.25", "again-4", *longer))
    assert "has a job of optimization.max_update=3, and this one is of 2" in line
    (sweep / "0" / "checkpoints" / JOB).unlink()
    line = error_line(swept("0.5", "again-5", "optimization.max_update=3", *longer))
    assert f"has a checkpoint, and no {JOB} that says what it was begun with: name another" in line


def test_a_job_of_other_data_is_refused(lab: Lab) -> None:
    """Such as when a language is put before those that were trained."""
    for language in ("es", "fr"):
        shutil.copytree(lab.data, lab.folder / language)

    def swept(languages: str, name: str) -> Run:
        words = arguments(lab, "unused", f"hydra.sweep.dir={lab.folder / 'languages'}")
        folders = ",".join(str(lab.folder / language) for language in languages.split())
        return run_forked(lab.folder / name, [*words, f"task.data={folders}", "-m"])

    swept("es", "languages-1").succeeded()
    line = error_line(swept("fr es", "languages-2"))
    assert "these failed: 0; job 0:" in line
    assert f"has a job of task.data={lab.folder / 'es'}, and this one is of {lab.folder}/fr" in line
    assert line.endswith("name another hydra.sweep.dir, or link what moved to where it was")


def test_a_job_from_a_pretrained_file_of_text_goes_on(lab: Lab) -> None:
    """Its checkpoints do not tell what it began from: models of text write another setting there,
    so as to go on."""
    model = write_roberta(lab.folder / "roberta.pt")

    def swept(name: str, *more: str) -> Run:
        words = [
            *("train", f"hydra.sweep.dir={lab.folder / 'text'}", "-m", "--config-name=sst-2"),
            *(f"task.data={write_sentences(lab.folder / name)}", f"task.max_positions={POSITIONS}"),
            *("dataset.num_workers=0", "optimization.max_update=2", "optimization.max_epoch=0"),
            *("lr_scheduler.warmup_updates=1", "checkpoint.reset_optimizer=true"),
            *("checkpoint.reset_dataloader=true", "checkpoint.reset_meters=true"),
            *(f"checkpoint.restore_file={model}", *more),
        ]
        return run_forked(lab.folder / f"{name}-log", words)

    swept("sentences").succeeded()
    data = f"task.data={lab.folder / 'sentences'}"
    swept("unread", data).succeeded()
    other = write_roberta(lab.folder / "other.pt")
    line = error_line(swept("unread-too", data, f"checkpoint.restore_file={other}"))
    assert f"has a job of checkpoint.restore_file={model}, and this one is of {other}" in line


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("hydra/launcher=submitit_loca", "hydra/launcher has no submitit_loca"),
        ("+sweeps=optun", "sweeps has no optun"),
    ],
)
def test_what_hydra_lacks_is_named(lab: Lab, word: str, reason: str) -> None:
    words = arguments(lab, "unused", f"hydra.sweep.dir={lab.folder / 'lacking'}", word, "-m")
    assert reason in error_line(run_forked(lab.folder / "lacking-log", words))


def test_a_launcher_of_the_extra_is_told_with_it() -> None:
    error = MissingConfigException("gone", "hydra/launcher/submitit_local", ["basic"])
    assert words_of_hydra(error) == (
        "hydra/launcher has no submitit_local; there are basic: pip install 'speechprune[sweeps]'"
    )


def test_a_sweep_is_asked_for_by_its_flag() -> None:
    with pytest.raises(UserError, match=r"\+sweeps=density is a sweep of several jobs: add -m"):
        complete(["--config-name=base_1h", "+sweeps=density"])


def test_values_and_failures_are_in_the_order_of_the_jobs() -> None:
    outcomes = Outcomes({2: 0.5, 0: 0.25, 3: UserError("late"), 1: UserError("early")})
    assert outcomes.values == [0.25, 0.5]
    with pytest.raises(UserError, match="of 4 jobs of the sweep these failed: 1, 3; job 1: early"):
        outcomes.refuse_failures()
    Outcomes({0: 1.0}).refuse_failures()
    with pytest.raises(ZeroDivisionError):
        Outcomes({0: ZeroDivisionError()}).refuse_failures()


@pytest.mark.parametrize(
    ("target", "gpus_per_node", "cpu", "gpus", "refused"),
    [
        ("x.LocalLauncher", None, False, 1, True),
        ("x.LocalLauncher", None, False, 0, False),
        ("x.LocalLauncher", None, True, 1, False),
        ("x.LocalLauncher", 1, False, 1, False),
        ("x.SlurmLauncher", None, False, 1, False),
    ],
)
def test_local_jobs_do_not_lose_the_gpus_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    gpus_per_node: int | None,
    cpu: bool,
    gpus: int,
    refused: bool,
) -> None:
    monkeypatch.setattr(sweeps.torch.cuda, "device_count", lambda: gpus)
    launcher = {"_target_": target, "gpus_per_node": gpus_per_node}
    cfg = OmegaConf.create({"hydra": {"launcher": launcher}, "common": {"cpu": cpu}})
    if not refused:
        refuse_hidden_gpus(cfg)
        return
    with pytest.raises(UserError, match="set hydra.launcher.gpus_per_node=1, or common.cpu=true"):
        refuse_hidden_gpus(cfg)


def test_runs_of_wandb_have_names_of_their_own() -> None:
    names = [run_name("sweeps/density", job, asked) for job in (0, 1) for asked in (None, "mine")]
    assert names == ["density-0", "mine-0", "density-1", "mine-1"]


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("tensorboard_logdir", "SummaryWriter"),
        ("wandb_project", "wandb"),
        ("aim_repo", "get_aim_run"),
    ],
)
def test_curves_that_nothing_would_draw_are_refused(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, key: str, name: str
) -> None:
    cfg = lab.compose(f"common.{key}=there")
    monkeypatch.setattr(progress_bar, name, None)
    with pytest.raises(UserError, match=rf"common.{key} needs (\w+), .*: pip install \1, or leave"):
        check_settings(cfg)
    monkeypatch.setattr(progress_bar, name, object())
    check_settings(cfg)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_sweeps_of_ours_search_settings_that_exist(file: Path) -> None:
    """Not by their names alone: a misspelt one is found by the same check."""
    searched: Any = OmegaConf.load(file).hydra.sweeper.params
    config: Any = OmegaConf.to_container(OmegaConf.load(find_config("base_1h")), resolve=False)
    check_keys(dict.fromkeys(searched, "0"), config)
    with pytest.raises(UserError, match="did you mean"):
        check_keys({f"{next(iter(searched))}s": "0"}, config)


def test_a_sweep_is_added_to_a_config_and_is_none_itself() -> None:
    assert FILES and not any("sweeps" in name for name in configs())
    with pytest.raises(UserError, match="unknown config 'sweeps/density'"):
        find_config("sweeps/density")
    path = "hydra.searchpath=[pkg://speechprune.config]"
    words = ["--config-name=base_1h", "+sweeps=density", "-m"]
    assert path in complete(words).arguments
    assert path not in complete([*words, "hydra.searchpath=[file:///own]"]).arguments


def test_processes_of_torchrun_do_not_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    from speechprune.training.launch import train

    for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(UserError, match="each process of torchrun would sweep by itself"):
        train(["--config-name=base_1h", "model.prune_rate=0.1,0.2", "-m"])
