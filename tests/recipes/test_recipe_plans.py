"""What rounds a recipe has for a setting, and settings that are refused before any round."""

from __future__ import annotations

from dataclasses import replace

import pytest
from forked_training import SHORT, write_setting

from speechprune.errors import UserError
from speechprune.recipes import RECIPES, Setting, cook
from speechprune.recipes.steps import MaskMaking, Pooling
from speechprune.training.overrides import refuse_early_ends
from speechprune.training.run import TrainingRun


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return write_setting(tmp_path_factory.mktemp("recipes, all"))


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


@pytest.mark.parametrize(
    "given, updates, expected",
    [(None, 30, 30), (None, 13000, 2000), (7, 30, 7), (50, 30, 50)],
)
def test_updates_of_each_round_of_imp(
    base: Setting, given: int | None, updates: int, expected: int
) -> None:
    plan = RECIPES["imp"].plan(replace(base, round_updates=given, updates=updates))
    trained = [step.updates for step in plan.steps if isinstance(step, TrainingRun)]
    assert trained == [expected, expected, expected, updates]


def test_seeds_lie_side_by_side(base: Setting) -> None:
    """Rounds of one seed are made from rounds of the same one, below the same folder."""
    for name, recipe in RECIPES.items():
        plans = [recipe.plan(replace(base, seed=seed)).steps for seed in (1, 2)]
        for first, second in zip(*plans):
            if isinstance(first, Pooling):
                assert first == second, name
                continue
            for path, other in zip((first.makes, *first.needs), (second.makes, *second.needs)):
                if base.out not in path.parents or path == base.out / "pooled":
                    assert path == other, name
                    continue
                folder, *rest = path.relative_to(base.out).parts
                assert "seed" not in folder
                assert other == base.out.joinpath(f"{folder}-seed2", *rest), name
            if isinstance(second, TrainingRun):
                assert "common.seed=2" in second.overrides
                used = [o for o in second.overrides if str(base.out) in o and "pooled" not in o]
                assert all("-seed2/" in override for override in used), name


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


@pytest.mark.parametrize(
    "key",
    [
        "checkpoint.patience",
        "optimization.max_epoch",
        "optimization.stop_min_lr",
        "optimization.stop_time_hours",
    ],
)
def test_what_may_end_a_training_before_its_updates_is_refused(base: Setting, key: str) -> None:
    with pytest.raises(UserError, match=f"{key} may end a training .* the recipe parp counts on"):
        cook([("parp", replace(base, overrides=(*SHORT, f"{key}=1")))])
    assert not (base.out / "parp-0.5").exists()


def test_what_turns_an_early_end_off_is_not_refused() -> None:
    off = ("optimization.max_epoch=0", "checkpoint.patience=-1", "~optimization.stop_min_lr")
    refuse_early_ends([*off, "optimization.lr=[1]", "checkpoint.patiences=1"], "it")
    for override in ("checkpoint={patience:1}", "+optimization.max_epoch=${x}"):
        with pytest.raises(UserError, match="may end a training before its updates are done"):
            refuse_early_ends([*off, override], "it")


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
