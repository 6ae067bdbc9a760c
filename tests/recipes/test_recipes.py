"""Every recipe end to end on a nano model, and what happens when its rounds are interrupted."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from forked_training import SHORT, train_forked, train_quickly, write_setting
from mishaps import kill_after_update
from nano import write_hubert
from states import difference

from speechprune.checkpoint import read
from speechprune.checkpoint.slimming import slim_plan_in
from speechprune.errors import UserError
from speechprune.masking.mask_set import MaskSet
from speechprune.models.loading import load_finetuned
from speechprune.models.mask_reading import read_mask_set
from speechprune.recipes import RECIPES, Setting, cook
from speechprune.reports.comparison import compare
from speechprune.reports.runs import read_run
from speechprune.training.run import TrainingRun


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return write_setting(tmp_path_factory.mktemp("recipes, all"))


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in forks of a process that has imported fairseq: the import outlasts the training."""
    monkeypatch.setattr(TrainingRun, "_train", train_quickly)


@pytest.fixture(scope="module")
def cooked(base: Setting) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """The summaries of all recipes, cooked in one folder, where they share rounds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingRun, "_train", train_quickly)
        yield {
            name: [json.loads(path.read_text()) for path in cook([(name, base)])]
            for name in RECIPES
        }


LABELS = {
    "dense": ["dense control"],
    "rp": ["RP"],
    "mpi": ["MPI"],
    "omp": ["OMP"],
    "imp": ["IMP"],
    "parp": ["PARP"],
    "parp-p": ["PARP-P"],
    "s3router": ["S3-Router"],
    "s3router-norms": ["S3-Router, norms"],
    "s3router-prune": ["S3-Router, pruning"],
    "transfer": ["source mask, fixed", "source mask, adjusted"],
    "joint": ["PARP, joint"],
    "dphubert": ["DPHuBERT"],
}
#: Updates in all: two rounds and a half of two updates for IMP, a dense run first for others, two
#: of distillation for DPHuBERT.
UPDATES = {"omp": 8, "imp": 10, "s3router-prune": 8, "transfer": 8, "dphubert": 12}
#: Those that end without masks.
UNMASKED = ("dense", "dphubert")


@pytest.mark.parametrize("name", ["imp", "parp-p", "s3router-prune", "rp"])
def test_recipes_prune_hubert(name: str, base: Setting, tmp_path: Path) -> None:
    setting = replace(base, model=write_hubert(tmp_path / "hubert.pt"), out=tmp_path / "out")
    (summary,) = [json.loads(path.read_text()) for path in cook([(name, setting)])]
    found = load_finetuned(summary["checkpoint"])
    assert found.cfg.model.w2v_args.model["_name"] == "hubert"
    assert found.density == pytest.approx(1.0 - setting.sparsity, abs=0.01)


def test_every_recipe_is_known_here() -> None:
    assert set(RECIPES) == set(LABELS)


@pytest.mark.parametrize("name", LABELS)
def test_recipe(cooked: dict[str, list[dict[str, Any]]], base: Setting, name: str) -> None:
    summaries = cooked[name]
    assert [summary["label"] for summary in summaries] == LABELS[name]
    for summary in summaries:
        assert summary["updates"] == UPDATES.get(name, 4)
        assert summary["final_updates"] == 4
        run = read_run(Path(summary["checkpoint"]).parent.parent)
        assert (run.label, run.final_updates, run.seed) == (summary["label"], 4, 1)
        assert summary["sparsity"] == (0.0 if name in UNMASKED else 0.5)
        if name not in UNMASKED:
            masks = read_mask_set(summary["checkpoint"])
            assert masks.density == pytest.approx(0.5, abs=1e-3)


def test_gates_are_cut_out_before_the_model_is_distilled_and_finetuned(
    cooked: dict[str, list[dict[str, Any]]], base: Setting
) -> None:
    assert cooked
    folder = base.out / "dphubert-0.5"
    plan = slim_plan_in(read(folder / "cut" / "encoder.pt"))
    assert plan is not None and not plan.removes_nothing
    for name in ("distilled", "finetuned"):
        assert slim_plan_in(read(folder / name / "checkpoints/checkpoint_last.pt")) == plan, name
    heads = [
        read(folder / name / "checkpoints/checkpoint_last.pt")["model"]["w2v_encoder.proj.weight"]
        for name in ("pruned", "distilled", "finetuned")
    ]
    assert not torch.equal(heads[1], heads[2]), "labels train the head last"
    teacher = read(base.model)["model"]["encoder.layers.0.fc2.weight"]
    learned = read(folder / "distilled" / "encoder.pt")["model"]["encoder.layers.0.fc2.weight"]
    assert learned.shape[1] == len(plan.kept[0].channels) < teacher.shape[1]


def test_fixed_masks_are_those_that_were_made(
    cooked: dict[str, list[dict[str, Any]]], base: Setting
) -> None:
    assert cooked
    for name in ("rp-0.5", "mpi-0.5", "omp-0.5", "imp-0.5"):
        made = MaskSet.load(base.out / name / "mask.safetensors")
        assert read_mask_set(base.out / name / "checkpoints/checkpoint_last.pt") == made, name
    fixed = read_mask_set(base.out / "transfer-fixed-0.5/checkpoints/checkpoint_last.pt")
    assert fixed == MaskSet.load(base.out / "source-0.5" / "mask.safetensors")
    adjusted = torch.load(
        base.out / "transfer-adjusted-0.5/checkpoints/checkpoint_last.pt", weights_only=True
    )
    assert any(v.any() for k, v in adjusted["model"].items() if k.endswith("weight_regrown"))


def test_masks_of_imp_are_nested_and_their_weights_rewound(
    cooked: dict[str, list[dict[str, Any]]], base: Setting
) -> None:
    """Each round removes more of what the last one kept; each starts from pretrained weights."""
    assert cooked
    levels = [MaskSet.load(base.out / f"imp-rounds-0.2/{s}/mask.safetensors") for s in (0.2, 0.4)]
    levels.append(MaskSet.load(base.out / "imp-0.5/mask.safetensors"))
    assert [1 - masks.density for masks in levels] == pytest.approx([0.2, 0.4, 0.5], abs=1e-3)
    for wider, narrower in zip(levels, levels[1:]):
        assert all((wider[site] | ~narrower[site]).all() for site in wider)
    pretrained = torch.load(base.model, weights_only=True)["model"]
    run = base.masked("rewound", base.out / "imp-0.5" / "mask.safetensors", updates=2)
    replace(run, overrides=(*run.overrides, "optimization.lr=[0.0]")).finish({})
    state = torch.load(run.checkpoint, weights_only=True)["model"]
    for key, weight in pretrained.items():
        if f"w2v_encoder.w2v_model.{key}" in state and key != "mask_emb":
            kept = weight * levels[-1][key] if key in levels[-1] else weight
            assert torch.equal(state[f"w2v_encoder.w2v_model.{key}"], kept), key


def test_a_finished_recipe_trains_no_more(
    cooked: dict[str, list[dict[str, Any]]], base: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cooked
    monkeypatch.setattr(TrainingRun, "_train", lambda run, *rest: pytest.fail(run.name))
    told: list[str] = []
    (path,) = cook([("imp", base)], tell=told.append)
    assert json.loads(path.read_text()) == cooked["imp"][0]
    assert told == []


def test_interrupted_between_and_within_rounds(
    base: Setting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Killed in the middle of the last round, it goes on there, and ends as if never killed."""
    often = (*SHORT, "checkpoint.save_interval_updates=1")
    setting = replace(base, out=tmp_path, overrides=often)
    first, _, last = RECIPES["omp"].plan(setting).steps
    kill = partial(kill_after_update, 3)

    def train(run: TrainingRun, environment: Mapping[str, str], lock: int) -> None:
        train_forked(kill if run.folder == last.folder else None, run)

    monkeypatch.setattr(TrainingRun, "_train", train)
    with pytest.raises(UserError, match="omp-0.5: training failed; see .*train.log"):
        cook([("omp", setting)])
    assert first.is_done and last.is_begun and not last.is_done
    assert last.updates_done in (2, 3)
    killed = last.log.stat().st_mtime - json.loads((last.folder / "part.json").read_text())["began"]
    assert killed > 0
    before = (first.folder / "train.log").stat().st_mtime_ns
    monkeypatch.setattr(TrainingRun, "_train", train_quickly)
    told: list[str] = []
    cook([("omp", setting)], tell=told.append)
    log = last.folder / "train.log"
    assert told == [
        "omp: 3 rounds, 2 trainings of 4+4 = 8 updates",
        f"round 3 of 3: omp-0.5, 4 updates, on from its last checkpoint; its log is {log}",
    ]
    (summary,) = [json.loads(path.read_text()) for path in cook([("omp", setting)])]
    assert summary["rounds"][-1]["seconds"] > killed
    assert (first.folder / "train.log").stat().st_mtime_ns == before
    whole = replace(setting, out=tmp_path / "whole")
    cook([("omp", whole)])
    final = RECIPES["omp"].plan(whole).steps[-1]
    states = [torch.load(run.checkpoint, weights_only=True)["model"] for run in (last, final)]
    assert difference(*states) == []


def test_recipes_side_by_side_share_rounds(base: Setting, tmp_path: Path) -> None:
    setting = replace(base, out=tmp_path, updates=2)
    told: list[str] = []
    pairs = [("omp", setting), ("omp", replace(setting, sparsity=0.2)), ("dense", setting)]
    written = cook(pairs, jobs=2, tell=told.append)
    assert [path.parent.name for path in written] == ["omp-0.5", "omp-0.2", "dense"]
    assert len([line for line in told if ": dense, 2 updates; its log is" in line]) == 1


def test_seeds_in_one_folder_are_compared_as_one_method(base: Setting, tmp_path: Path) -> None:
    setting = replace(base, out=tmp_path, updates=2)
    written = cook([("mpi", replace(setting, seed=seed)) for seed in (1, 2)])
    assert [path.parent.name for path in written] == ["mpi-0.5", "mpi-0.5-seed2"]
    (row,) = compare([path.parent for path in written], subset="valid").rows()
    assert (row.label, row.seeds) == ("MPI", (1, 2))


@pytest.fixture
def started(cooked: dict[str, list[dict[str, Any]]], base: Setting, tmp_path: Path) -> Setting:
    """A copy of what OMP left."""
    assert cooked
    for name in ("dense", "omp-0.5"):
        shutil.copytree(base.out / name, tmp_path / name)
    setting = replace(base, out=tmp_path)
    for run in RECIPES["omp"].plan(setting).steps:
        if isinstance(run, TrainingRun):
            (run.folder / "overrides.json").write_text(json.dumps(run._wanted))
    return setting


def test_a_missing_round_is_refused(started: Setting) -> None:
    shutil.rmtree(started.out / "dense")
    with pytest.raises(UserError, match=r"dense \(dense\) is missing, but .* was made from it"):
        cook([("omp", started)])
    assert not (started.out / "dense").exists()


def test_a_missing_checkpoint_is_refused(started: Setting) -> None:
    (started.out / "omp-0.5/checkpoints/checkpoint_last.pt").unlink()
    with pytest.raises(UserError, match="checkpoint_last.pt is missing; remove .*omp-0.5"):
        cook([("omp", started)])


def test_other_settings_are_refused(started: Setting) -> None:
    other = replace(started, updates=5, overrides=(*SHORT, "model.dropout=0.1"))
    names = "optimization.max_update=4, not 5; model.dropout=(not set), not 0.1"
    with pytest.raises(UserError, match=re.escape(f"dense was made with other settings ({names})")):
        cook([("omp", other)])
    (started.out / "dense" / "overrides.json").write_text("{")
    with pytest.raises(UserError, match="does not tell what .*dense was trained with"):
        cook([("omp", started)])


def reversed_lines(text: str) -> str:
    """The same lines, of other recordings."""
    return "\n".join(reversed(text.splitlines())) + "\n"


@pytest.mark.parametrize("done", [True, False])
def test_a_run_is_not_taken_for_one_of_other_data_or_another_model(
    base: Setting, cooked: dict[str, list[dict[str, Any]]], tmp_path: Path, done: bool
) -> None:
    """The same paths, with something else in them."""
    assert cooked
    data, model = tmp_path / "data", tmp_path / "model.pt"
    shutil.copytree(base.data or Path(), data)
    shutil.copy(base.model, model)
    setting = replace(base, out=tmp_path / "out", data=data, model=model)
    (path,) = cook([("dense", setting)])
    if not done:
        (path.parent / "done.json").unlink()
    labels = data / "train.ltr"
    before = labels.read_text()
    labels.write_text(reversed_lines(before))
    with pytest.raises(UserError, match="something else: train of task.data changed since then"):
        cook([("dense", setting)])
    labels.write_text(before)
    if done:  # nothing reads them any more
        labels.unlink()
        assert cook([("dense", setting)]) == [path]
    write_hubert(model)
    with pytest.raises(UserError, match="something else: the file that model.w2v_path names"):
        cook([("dense", setting)])


def test_what_was_missing_for_a_while_is_still_known(
    base: Setting, cooked: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    assert cooked
    data = tmp_path / "data"
    shutil.copytree(base.data or Path(), data)
    setting = replace(base, out=tmp_path / "out", data=data)
    (path,) = cook([("dense", setting)])
    (path.parent / "done.json").unlink()
    labels = data / "train.ltr"
    text = labels.read_text()
    labels.unlink()
    with pytest.raises(UserError):
        cook([("dense", setting)])
    labels.write_text(reversed_lines(text))
    with pytest.raises(UserError, match="something else: train of task.data changed since then"):
        cook([("dense", setting)])


def test_data_that_changed_after_a_training_are_not_vouched_for(
    base: Setting, cooked: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    assert cooked
    data = tmp_path / "data"
    shutil.copytree(base.data or Path(), data)
    first, second = (replace(base, out=tmp_path / name, data=data) for name in ("one", "two"))
    (before,) = cook([("dense", first)])
    labels = data / "train.ltr"
    labels.write_text(reversed_lines(labels.read_text()))
    (after,) = cook([("mpi", second)])
    warnings = compare([before.parent, after.parent], subset="valid").warnings()
    assert any("training data" in line for line in warnings), warnings


def test_a_run_of_an_earlier_version_goes_on_though_it_does_not_tell_what_it_read(
    started: Setting,
) -> None:
    path = started.out / "dense" / "overrides.json"
    noted = json.loads(path.read_text())
    path.write_text(json.dumps({key: noted[key] for key in ("config", "overrides")}))
    assert cook([("omp", started)])
    path.write_text(json.dumps({**noted, "inputs": {"data": ["train"]}}))
    with pytest.raises(UserError, match="does not tell what .*dense was trained with"):
        cook([("omp", started)])


def test_the_order_of_overrides_does_not_matter(started: Setting) -> None:
    told: list[str] = []
    again = cook([("omp", replace(started, overrides=SHORT[::-1]))], tell=told.append)
    assert again == cook([("omp", started)]) and told == []


def test_a_mask_of_another_checkpoint_is_refused(started: Setting) -> None:
    shutil.rmtree(started.out / "omp-0.5" / "checkpoints")
    for name in ("overrides.json", "done.json"):
        (started.out / "omp-0.5" / name).unlink()
    masks = MaskSet.load(started.out / "omp-0.5" / "mask.safetensors")
    other = MaskSet(dict(masks), {**masks.provenance, "checkpoint": "sha256:0"})
    other.save(started.out / "omp-0.5" / "mask.safetensors")
    with pytest.raises(
        UserError, match="mask.safetensors was made with other settings .checkpoint=sha256:0, not"
    ):
        cook([("omp", started)])


def test_other_languages_are_not_taken_for_those_that_were_pooled(
    cooked: dict[str, list[dict[str, Any]]], base: Setting
) -> None:
    assert cooked
    first, second = base.languages
    with pytest.raises(UserError, match="pooled was made with other settings .languages="):
        cook([("joint", replace(base, sparsity=0.2, languages=(second, first)))])


def test_a_run_that_failed_early_may_be_corrected(base: Setting, tmp_path: Path) -> None:
    """The reason is told, and nothing that was trained is in the way of other settings."""
    wrong = replace(base, out=tmp_path, overrides=(*SHORT, "model.dropot=0.1"))
    with pytest.raises(UserError, match=r"training failed.* see .*dense/train.log"):
        cook([("dense", wrong)])
    cook([("dense", replace(base, out=tmp_path))])


def test_a_folder_in_use_is_refused(base: Setting, tmp_path: Path) -> None:
    (run,) = RECIPES["dense"].plan(replace(base, out=tmp_path)).steps
    run.folder.mkdir()
    with open(run.folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is writing to"):
            run.finish({})
