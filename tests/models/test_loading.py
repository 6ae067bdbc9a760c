"""Loading by fairseq's loop: plain checkpoints, ours and S3-Router's, load flags, missing files."""

from __future__ import annotations

import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from loop import Lab, Run
from mishaps import kill_after_update
from states import difference, keep, masks, top
from torch import Tensor

from speechprune.models.mask_reading import read_mask_set
from speechprune.rewriting.masks import apply_masks

ENCODER = "w2v_encoder.w2v_model."
HEAD = ("w2v_encoder.proj.weight", "w2v_encoder.proj.bias")
#: Each update is a checkpoint of its own.
KEPT = ("checkpoint.save_interval_updates=1", "checkpoint.keep_interval_updates=-1")
PROJECTIONS = [f"self_attn.{n}_proj" for n in ("q", "k", "v", "out")] + ["fc1", "fc2"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("loading"))


@pytest.fixture(scope="module")
def ours(lab: Lab) -> Run:
    """A finetuned checkpoint with masks on the feed-forward weights that have moved."""
    return lab.train("ours", "model.init_score=weight_rank", updates=3).succeeded()


@pytest.fixture(scope="module")
def plain(lab: Lab) -> Run:
    """Densely finetuned weights."""
    return lab.train("plain", "model._name=wav2vec_ctc", updates=3).succeeded()


@pytest.fixture(scope="module")
def s3router(lab: Lab, ours: Run) -> Path:
    """A checkpoint as S3-Router writes it: scores for every projection, no bits, only its keys."""
    state = ours.checkpoint()
    generator = torch.Generator().manual_seed(7)
    model = {k: v for k, v in state["model"].items() if not k.endswith("_mask")}
    for layer in range(2):
        for part in PROJECTIONS:
            weight = model[f"{ENCODER}encoder.layers.{layer}.{part}.weight"]
            scores = torch.randn(weight.shape, generator=generator)
            model[f"{ENCODER}encoder.layers.{layer}.{part}.scores"] = scores
    for key in ("seed", "finetune_from_model", "save_dir", "restore_file"):
        del state["cfg"]["model"][key]
    path = lab.folder / "s3router.pt"
    torch.save({**state, "model": model}, path)
    return path


def load(path: Path) -> Any:
    """The model of a checkpoint, by fairseq alone."""
    from fairseq.checkpoint_utils import load_model_ensemble_and_task

    (model,), _, _ = load_model_ensemble_and_task([str(path)])
    return model.eval()


def logits(model: Any) -> Tensor:
    source = torch.randn(2, 9000, generator=torch.Generator().manual_seed(0))
    padding = torch.zeros(2, 9000, dtype=torch.bool)
    with torch.no_grad():
        return model(source=source, padding_mask=padding)["encoder_out"]


def scores_of(model: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in model.items() if key.endswith(".scores")}


def finetune(lab: Lab, name: str, path: Path, *overrides: str, updates: int = 2) -> Run:
    source = f"checkpoint.finetune_from_model={path}"
    return lab.train(name, source, *overrides, *KEPT, updates=updates)


#: A learning rate too small to move anything: what is saved is what was loaded.
STILL = "optimization.lr=[1e-12]"


def test_finetuning_from_ours_keeps_scores_and_masks(lab: Lab, ours: Run) -> None:
    """Even when init_score names the weights, which the original then applies again."""
    run = finetune(lab, "from-ours", ours.path(), STILL, "model.init_score=weight_rank")
    before, after = ours.model(), run.succeeded().model()
    for name, mask in masks(before).items():
        assert (mask == masks(after)[name]).all(), name
        assert (mask != top(before[name], keep(mask.size, 0.9))).any(), "the premise: masks moved"
    for key, scores in scores_of(before).items():
        torch.testing.assert_close(after[key], scores, rtol=0, atol=1e-8)


def test_finetuning_from_plain_weights_starts_scores_from_them(lab: Lab, plain: Run) -> None:
    run = finetune(
        lab,
        "from-plain",
        plain.path(),
        STILL,
        "model.fix_attn=false",
        "model.init_score=weight_rank",
    )
    before, after = plain.model(), run.succeeded().model()
    found = masks(after)
    assert len(found) == 12
    pretrained = torch.load(lab.wav2vec2, weights_only=True)["model"]
    for name, mask in found.items():
        assert torch.equal(after[name], before[name])
        assert (mask == top(before[name], keep(mask.size, 0.9))).all(), name
        assert (mask != top(pretrained[name[len(ENCODER) :]], keep(mask.size, 0.9))).any(), name
    for key in HEAD:
        torch.testing.assert_close(after[key], before[key], rtol=0, atol=1e-8)


@pytest.mark.parametrize("attention", ["true", "false"])
def test_finetuning_from_s3router(lab: Lab, s3router: Path, attention: str) -> None:
    """Its scores choose the masks; those of projections without a mask here are left out."""
    run = finetune(lab, f"from-s3-{attention}", s3router, STILL, f"model.fix_attn={attention}")
    before, after = torch.load(s3router, weights_only=True)["model"], run.succeeded().model()
    found = masks(after)
    assert len(found) == (4 if attention == "true" else 12)
    assert set(scores_of(after)) == {n[: -len("weight")] + "scores" for n in found}
    for name, mask in found.items():
        scores = before[name[: -len("weight")] + "scores"]
        assert (mask == top(scores, keep(mask.size, 0.9))).all(), name


def test_s3routers_checkpoint_loads_by_itself(lab: Lab, s3router: Path) -> None:
    model = load(s3router)
    scores = torch.load(s3router, weights_only=True)["model"]
    layer = model.backbone.encoder.layers[0]
    mask = top(scores[f"{ENCODER}encoder.layers.0.fc1.scores"], keep(64 * 32, 0.9))
    assert ((layer.fc1.weight != 0).flatten().numpy() == mask).all()
    assert (layer.self_attn.q_proj.weight != 0).all()


def test_mask_only_takes_masks_and_nothing_else(lab: Lab, ours: Run) -> None:
    run = finetune(lab, "mask-only", ours.path(), STILL, "model.load_mask_only=true").succeeded()
    before, after = ours.model(), run.model()
    pretrained = torch.load(lab.wav2vec2, weights_only=True)["model"]
    for key, scores in scores_of(before).items():
        torch.testing.assert_close(after[key], scores, rtol=0, atol=1e-8)
    for name, mask in masks(before).items():
        assert (masks(after)[name] == mask).all(), name
    for key in HEAD:
        assert (after[key] - before[key]).abs().max() > 1e-4
    mask_emb = after[ENCODER + "mask_emb"]
    torch.testing.assert_close(mask_emb, pretrained["mask_emb"], rtol=0, atol=1e-8)


def test_mask_before_takes_masks_of_the_first_layers_only(lab: Lab, ours: Run) -> None:
    flags = (
        "model.load_mask_only=true",
        "model.load_mask_before=1",
        "model.init_score=weight_rank",
    )
    after = finetune(lab, "mask-before", ours.path(), STILL, *flags).succeeded().model()
    before = ours.model()
    for name, mask in masks(after).items():
        loaded = masks(before)[name]
        magnitude = top(after[name], keep(mask.size, 0.9))
        assert (loaded != magnitude).any()
        expected = loaded if ".layers.0." in name else magnitude
        assert (mask == expected).all(), name


def test_resuming_a_mask_only_run_keeps_its_own_head(lab: Lab, ours: Run) -> None:
    flags = ("model.load_mask_only=true",)
    whole = finetune(lab, "mask-only-whole", ours.path(), *flags, updates=3).succeeded()
    kill = partial(kill_after_update, 2)
    source = f"checkpoint.finetune_from_model={ours.path()}"
    lab.train("mask-only-cut", source, *flags, *KEPT, updates=3, prepare=kill)
    cut = finetune(lab, "mask-only-cut", ours.path(), *flags, updates=3).succeeded()
    assert cut.records("train_inner")[0]["num_updates"] == "2"
    assert difference(cut.model(), whole.model()) == []


def test_a_mask_only_run_loads_whole_wherever_its_source_went(lab: Lab, ours: Run) -> None:
    link = lab.folder / "link.pt"
    link.symlink_to(ours.path())
    run = finetune(lab, "mask-only-moved", link, "model.load_mask_only=true").succeeded()
    expected = logits(load(run.path()))
    link.unlink()
    assert torch.equal(logits(load(run.path())), expected)
    link.symlink_to(run.path("best"))
    assert torch.equal(logits(load(run.path())), expected)


def test_fixed_masks_of_another_density_are_refused(lab: Lab, ours: Run) -> None:
    run = finetune(lab, "denser", ours.path(), "model.fix_mask=true", "model.prune_rate=0.3")
    assert run.exit_code != 0
    assert re.search(r"masks keep 0\.9\d* and are fixed, but the flags say 0\.30", run.output)
    free = finetune(lab, "denser-free", ours.path(), "model.prune_rate=0.3").succeeded()
    for name, mask in masks(free.model()).items():
        assert mask.sum() == keep(mask.size, 0.3), name


def test_scores_of_rows_are_none_of_columns(lab: Lab) -> None:
    """Even of square weights, where both are as many."""
    flags = ("model.fix_attn=false", "model.fix_fc=true")
    rows = lab.train("rows", *flags, "model.linear_st_op=linear_st_outstr", updates=2).succeeded()
    columns = finetune(lab, "columns", rows.path(), *flags, "model.linear_st_op=linear_st_instr")
    assert columns.exit_code != 0
    assert re.search(r"shape \[32, 1\], not \[1, 32\]: set model.linear_st_op", columns.output)


def test_finetuning_from_masks_without_scores_starts_with_them(lab: Lab, ours: Run) -> None:
    applied = lab.folder / "applied.pt"
    apply_masks(ours.path(), read_mask_set(ours.path()), applied)
    run = finetune(lab, "from-applied", applied, STILL).succeeded()
    before, after = masks(ours.model()), masks(run.model())
    assert all((mask == after[name]).all() for name, mask in before.items())
    assert not any(torch.equal(run.model()[k], v) for k, v in scores_of(ours.model()).items())


def test_fixed_masks_stay_while_the_head_learns(lab: Lab, ours: Run) -> None:
    before = ours.model()
    fixed = finetune(lab, "fixed", ours.path(), "model.fix_mask=true").succeeded().model()
    for key, scores in scores_of(before).items():
        assert torch.equal(fixed[key], scores), key
    assert not torch.equal(fixed[HEAD[0]], before[HEAD[0]])
    lower = finetune(lab, "lower", ours.path(), "model.fix_mask_before=1").succeeded().model()
    for key, scores in scores_of(before).items():
        assert torch.equal(lower[key], scores) == (".layers.0." in key), key


def test_eval_only_validates_once_and_trains_nothing(lab: Lab, ours: Run) -> None:
    flags = ("model.eval_only=true", "model.init_score=weight_rank")
    run = lab.train(
        "eval-only", f"checkpoint.finetune_from_model={ours.path()}", *flags
    ).succeeded()
    (validated,) = run.records("valid")
    trained = ours.records("valid")[-1]
    for key in ("valid_loss", "valid_wer", "valid_uer"):
        assert validated[key] == trained[key]
    assert not run.records("train_inner")
    assert not list(run.folder.glob("**/*.pt"))


def test_finetuned_models_load_without_the_files_they_came_from(lab: Lab, ours: Run) -> None:
    """Neither the pretrained file nor the data folder is where training found them."""
    expected = logits(load(ours.path()))
    moved = Lab(lab.folder / "moved")
    moved.folder.mkdir()
    run = moved.train("run", "model.init_score=weight_rank", updates=3).succeeded()
    moved.wav2vec2.unlink()
    shutil.rmtree(moved.data)
    path = run.path().rename(lab.folder / "moved.pt")
    shutil.rmtree(moved.folder)
    assert torch.equal(logits(load(path)), expected)


def test_loaded_models_are_sparse_as_saved(ours: Run) -> None:
    model = load(ours.path())
    for name, mask in masks(ours.model()).items():
        weight = model.get_submodule(name[: -len(".weight")]).weight
        assert ((weight != 0).flatten().numpy() == mask).all(), name
        assert torch.equal(weight.flatten()[mask], ours.model()[name].flatten()[mask])


def test_saved_settings_are_the_given_ones_and_plain(lab: Lab, ours: Run) -> None:
    from speechprune.models.config import FinetunedConfig

    cfg = ours.checkpoint()["cfg"]
    model = cfg["model"]
    assert set(model) == set(FinetunedConfig.__dataclass_fields__) | {"_name"}
    assert {type(v) for v in leaves(cfg)} <= {str, int, float, bool, type(None)}
    cfg = lab.cfg
    for key, given in cfg.model.items():
        if key not in ("init_score", "w2v_args"):
            assert model[key] == given, key
    assert model["init_score"] == "weight_rank"
    assert model["w2v_args"]["model"]["encoder_embed_dim"] == 32


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]
