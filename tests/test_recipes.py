"""Every recipe end to end on a nano model, and what happens when its rounds are interrupted."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from loop import PRELOAD, Prepare
from mishaps import kill_after_update
from nano import write_corpus, write_wav2vec2
from states import difference

from speechprune.checkpoint.masks import read_mask_set
from speechprune.errors import UserError
from speechprune.finished_runs import read_run
from speechprune.masking.mask_set import MaskSet
from speechprune.recipes import RECIPES, Setting, cook
from speechprune.recipes.steps import MaskMaking
from speechprune.training.run import TrainingRun

SHORT = ("model.mask_length=2", "dataset.max_tokens=100000", "model.prune_every=1")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("recipes, all")
    return Setting(
        out=folder / "out",
        data=write_corpus(folder / "data"),
        model=write_wav2vec2(folder / "it's.pt"),
        config="demo/nano",
        sparsity=0.5,
        updates=4,
        overrides=SHORT,
        round_updates=2,
        step=0.2,
        source=write_corpus(folder / "source", seed=5),
        languages=(folder / "data", folder / "source"),
    )


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in forks of a process that has imported fairseq: the import outlasts the training."""
    monkeypatch.setattr(TrainingRun, "_train", train_quickly)


def train_quickly(run: TrainingRun, environment: Mapping[str, str], lock: int) -> None:
    train_forked(None, run)


def train_forked(prepare: Prepare | None, run: TrainingRun) -> None:
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    arguments = ["--config-name", run.config, *run.all_overrides]
    process = context.Process(target=_train, args=(run.folder / "train.log", arguments, prepare))
    process.start()
    process.join()
    if process.exitcode:
        raise UserError(f"{run.name}: training failed; see {run.folder / 'train.log'}")


def _train(log: Path, arguments: list[str], prepare: Prepare | None) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    sys.argv = ["speechprune"]
    from speechprune.training import train

    if prepare is not None:
        prepare()
    train(arguments)


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
    "s3router-prune": ["S3-Router, pruning"],
    "transfer": ["source mask, fixed", "source mask, adjusted"],
    "joint": ["PARP, joint"],
}
#: Updates in all: two rounds and a half of two updates for IMP, a dense run first for others.
UPDATES = {"omp": 8, "imp": 10, "s3router-prune": 8, "transfer": 8}


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
        if name != "dense":
            masks = read_mask_set(summary["checkpoint"])
            assert masks.density == pytest.approx(0.5, abs=1e-3)


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


def test_progressive_parp_starts_at_half_the_target(base: Setting) -> None:
    (run,) = RECIPES["parp-p"].plan(base).steps
    assert "model.start_sparsity=0.25" in run.overrides
    (run,) = RECIPES["parp-p"].plan(replace(base, start_sparsity=0.1)).steps
    assert "model.start_sparsity=0.1" in run.overrides


@pytest.mark.parametrize(
    "sparsity, step, levels",
    [
        (0.1, 0.1, [0.1]),
        (0.35, 0.1, [0.1, 0.2, 0.3, 0.35]),
        (0.9, 0.1, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]),
        (0.05, 0.2, [0.05]),
    ],
)
def test_rounds_of_imp(base: Setting, sparsity: float, step: float, levels: list[float]) -> None:
    plan = RECIPES["imp"].plan(replace(base, sparsity=sparsity, step=step))
    made = [step for step in plan.steps if isinstance(step, MaskMaking)]
    assert [mask.sparsity for mask in made] == pytest.approx(levels)
    for before, mask, after in zip(plan.steps, plan.steps[1:], plan.steps[2:]):
        if isinstance(mask, MaskMaking):
            assert mask.source == before.checkpoint and mask.target in after.needs


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
    before = (first.folder / "train.log").stat().st_mtime_ns
    monkeypatch.setattr(TrainingRun, "_train", train_quickly)
    told: list[str] = []
    cook([("omp", setting)], tell=told.append)
    assert told == ["round 3 of 3: omp-0.5"]
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
    assert len([line for line in told if line.endswith(": dense")]) == 1


@pytest.fixture
def started(cooked: dict[str, list[dict[str, Any]]], base: Setting, tmp_path: Path) -> Setting:
    """A copy of what OMP left."""
    assert cooked
    for name in ("dense", "omp-0.5"):
        shutil.copytree(base.out / name, tmp_path / name)
    setting = replace(base, out=tmp_path)
    for run in RECIPES["omp"].plan(setting).steps:
        if isinstance(run, TrainingRun):
            (run.folder / "overrides.json").write_text(run._wanted)
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
    with pytest.raises(UserError, match="is a run with other settings"):
        cook([("omp", replace(started, updates=5))])


def test_a_mask_of_another_checkpoint_is_refused(started: Setting) -> None:
    shutil.rmtree(started.out / "omp-0.5" / "checkpoints")
    for name in ("overrides.json", "done.json"):
        (started.out / "omp-0.5" / name).unlink()
    masks = MaskSet.load(started.out / "omp-0.5" / "mask.safetensors")
    other = MaskSet(dict(masks), {**masks.provenance, "checkpoint": "sha256:0"})
    other.save(started.out / "omp-0.5" / "mask.safetensors")
    with pytest.raises(UserError, match="is another mask"):
        cook([("omp", started)])


def test_other_languages_are_not_taken_for_those_that_were_pooled(
    cooked: dict[str, list[dict[str, Any]]], base: Setting
) -> None:
    assert cooked
    first, second = base.languages
    with pytest.raises(UserError, match="pools other languages"):
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
        with pytest.raises(UserError, match="another process is training in"):
            run.finish({})


@pytest.mark.parametrize(
    "name, override, advice",
    [
        ("parp", "model.sparsity=0.9", "use --sparsity"),
        ("omp", "checkpoint.save_dir=elsewhere", "leave it out"),
        ("parp-p", "hydra.run.dir=elsewhere", "use --out"),
        ("s3router", "model.prune_rate=0.3", "leave it out"),
        ("omp", "model.mask_file=x", "leave it out"),
    ],
)
def test_what_a_recipe_sets_is_refused(
    base: Setting, name: str, override: str, advice: str
) -> None:
    with pytest.raises(UserError, match=f"is set by the recipe {name} itself; {advice}"):
        cook([(name, replace(base, overrides=(*SHORT, override)))])


@pytest.mark.parametrize("name, frozen", [("imp", 2), ("omp", 4), ("transfer", 4)])
def test_a_mask_of_weights_that_never_moved_is_refused(
    base: Setting, name: str, frozen: int
) -> None:
    overrides = (*SHORT, f"model.freeze_finetune_updates={frozen}")
    with pytest.raises(UserError, match="its mask would be that of the pretrained weights"):
        cook([(name, replace(base, overrides=overrides))])


def test_masks_are_of_the_tensors_and_the_ranking_that_overrides_choose(base: Setting) -> None:
    overrides = (*SHORT, "model.prune_biases=false", "model.fix_attn=true")
    _, mask, _ = RECIPES["omp"].plan(replace(base, overrides=overrides)).steps
    assert (mask.by, mask.biases, mask.roles) == ("global-magnitude", False, ("ffn.in", "ffn.out"))
    tensor = replace(base, overrides=(*SHORT, "model.prune_scope=tensor"))
    assert RECIPES["rp"].plan(tensor).steps[0].by == "random"
    with pytest.raises(UserError, match="recipes prune the encoder"):
        RECIPES["rp"].plan(replace(base, overrides=("model.no_prune_proj=false",)))


@pytest.mark.parametrize("changes", [{"start_sparsity": 0.6}, {"start_sparsity": -0.1}])
def test_impossible_starts_are_refused(base: Setting, changes: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"must lie in \[0, 0.5\], the target"):
        replace(base, **changes)


@pytest.mark.parametrize("changes", [{"sparsity": 1.0}, {"sparsity": -0.1}, {"step": 0.0}])
def test_impossible_shares_are_refused(base: Setting, changes: dict[str, float]) -> None:
    with pytest.raises(UserError, match="share removed"):
        replace(base, **changes)
