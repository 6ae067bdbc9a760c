"""What rounds a recipe has for a setting, and settings that are refused before any round."""

from __future__ import annotations

from dataclasses import replace

import pytest
from forked_training import SHORT, write_setting

from speechprune.errors import UserError
from speechprune.recipes import RECIPES, Setting, cook
from speechprune.recipes.steps import MaskMaking


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
