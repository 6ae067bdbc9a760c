"""Pruned models: fixed masks, given masks, other policies, other backbones, and what is left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import logits
from loop import Lab, Run
from mask_files import succeed
from parp_by_hand import (
    KEPT,
    Optimizer,
    Plan,
    assert_pruned,
    checkpoint_at,
    prunable,
    regrown_weights,
    saved_masks,
    trained_shapes,
)
from states import difference
from torch import Tensor
from toy import kept_of

from speechprune.checkpoint import read
from speechprune.masking.mask_set import MaskSet
from speechprune.models.loading import load_finetuned
from speechprune.rewriting.folding import fold

ENCODER = "w2v_encoder.w2v_model."
FIXED = ("model._name=wav2vec_ctc_masked", "model.fix_attn=false")
PARP = Plan(every=2)
STILL = "optimization.lr=[0.0]"
#: From 0, which is the default of these policies, to 60 % at update 4.
GROWING = Plan(every=2, start=0.0, sparsity=0.6, end=4)
POLICIES = ("gradual_magnitude", "movement")
UPDATES = 5


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("pruned-models"))


@pytest.fixture(scope="module")
def pretrained(lab: Lab) -> dict[str, Tensor]:
    """What can be pruned, by name in a finetuned checkpoint, as it was pretrained."""
    weights = torch.load(lab.wav2vec2, weights_only=True)["model"]
    return {name: weights[name[len(ENCODER) :]] for name in prunable()}


@pytest.fixture(scope="module")
def drawn(pretrained: dict[str, Tensor]) -> dict[str, Tensor]:
    """Masks that no ranking would choose: half of each tensor, drawn."""
    generator = np.random.default_rng(0)
    masks = {}
    for name, weight in pretrained.items():
        places = generator.permutation(weight.numel()) < weight.numel() // 2
        masks[name] = torch.from_numpy(places).view(weight.shape)
    return masks


@pytest.fixture(scope="module")
def mask_file(lab: Lab, drawn: dict[str, Tensor]) -> Path:
    path = lab.folder / "drawn.safetensors"
    MaskSet({name[len(ENCODER) :]: mask for name, mask in drawn.items()}, {}).save(path)
    return path


@pytest.fixture(scope="module")
def parp(lab: Lab) -> Run:
    return lab.train("parp", *PARP.flags, updates=3).succeeded()


@pytest.fixture(scope="module")
def fixed(lab: Lab, mask_file: Path) -> Run:
    """A run with given masks, whose mask file is gone by now."""
    copy = lab.folder / "gone.safetensors"
    copy.write_bytes(mask_file.read_bytes())
    run = lab.train("fixed", *FIXED, f"model.mask_file={copy}", *KEPT, updates=3)
    copy.unlink()
    return run.succeeded()


def assert_fixed(run: Run, drawn: dict[str, Tensor], pretrained: dict[str, Tensor]) -> None:
    """At each update: the masks are those given, removed weights rest and the others move."""
    for update in range(1, int(run.records("train_inner")[-1]["num_updates"]) + 1):
        model = checkpoint_at(run, update)["model"]
        assert difference(saved_masks(model), drawn) == []
        assert not any(key.endswith("scores") for key in model)
    for name, weight in regrown_weights(model).items():
        mask = drawn[name]
        assert torch.equal(weight[~mask], pretrained[name][~mask]), name
        assert (weight != pretrained[name])[mask].float().mean() > 0.9, name


def test_fixed_masks_stay_and_what_they_remove_rests(
    fixed: Run, drawn: dict[str, Tensor], pretrained: dict[str, Tensor]
) -> None:
    assert_fixed(fixed, drawn, pretrained)
    assert {record["density"] for record in fixed.records("train_inner")} == {"0.5"}


def test_what_fixed_masks_remove_gets_no_gradient(
    lab: Lab, fixed: Run, mask_file: Path, drawn: dict[str, Tensor]
) -> None:
    """Adam's moments have gathered nothing there."""
    shapes = trained_shapes(lab, (*FIXED, f"model.mask_file={mask_file}"))
    moments = Optimizer(checkpoint_at(fixed, 3), shapes).moments
    for name, mask in drawn.items():
        first, second, _ = moments[name]
        assert not first[~mask].any() and not second[~mask].any(), name
        assert first[mask].any() and second[mask].any(), name


def test_resuming_does_not_need_the_mask_file(
    lab: Lab, fixed: Run, drawn: dict[str, Tensor], pretrained: dict[str, Tensor]
) -> None:
    assert not (lab.folder / "gone.safetensors").exists()
    gone = f"model.mask_file={lab.folder / 'gone.safetensors'}"
    resumed = lab.train("fixed", *FIXED, gone, *KEPT, updates=4).succeeded()
    assert [record["num_updates"] for record in resumed.records("train_inner")] == ["4"]
    assert_fixed(resumed, drawn, pretrained)


def test_resuming_without_the_optimizer_keeps_fixed_masks(
    lab: Lab, fixed: Run, drawn: dict[str, Tensor]
) -> None:
    """The count of updates begins anew, the masks do not."""
    folder = lab.folder / "reset" / "checkpoints"
    folder.mkdir(parents=True)
    shutil.copy(fixed.path(), folder / "checkpoint_last.pt")
    run = lab.train("reset", *FIXED, "checkpoint.reset_optimizer=true").succeeded()
    assert len(run.records("train_inner")) == 2
    assert difference(saved_masks(run.model()), drawn) == []


def test_masks_can_come_from_a_checkpoint(lab: Lab, parp: Run) -> None:
    model = lab.build(*FIXED, f"model.mask_file={parp.path()}")
    model.set_num_updates(0)
    assert difference(saved_masks(model.state_dict()), saved_masks(parp.model())) == []


def test_parp_starts_from_given_masks(
    lab: Lab, mask_file: Path, drawn: dict[str, Tensor], pretrained: dict[str, Tensor]
) -> None:
    """Its first update trains the weights that they keep; the next choice is its own."""
    given = f"model.mask_file={mask_file}"
    run = lab.train("given", *PARP.flags, given, STILL, *KEPT, updates=3).succeeded()
    for update in range(1, 4):
        model = checkpoint_at(run, update)["model"]
        for name, weight in regrown_weights(model).items():
            assert torch.equal(weight, torch.where(drawn[name], pretrained[name], 0.0)), name
        assert_pruned(model, PARP, update)
    for name, mask in saved_masks(lab.build(*PARP.flags, given).eval().state_dict()).items():
        assert torch.equal(mask, drawn[name]), name


def test_finetuning_starts_from_the_pruned_weights(lab: Lab, parp: Run) -> None:
    """Not from what had grown again: another run is given the network that was measured."""
    source = f"checkpoint.finetune_from_model={parp.path()}"
    flags = Plan(every=2, sparsity=0.2).flags
    run = lab.train("from-parp", *flags, source, STILL).succeeded()
    found, pruned = regrown_weights(run.model()), parp.model()
    for name, weight in found.items():
        assert torch.equal(weight, pruned[name]), name


def test_finetuning_at_the_same_sparsity_keeps_what_was_pruned(lab: Lab, parp: Run) -> None:
    """In half precision, whose fp32 copies are made from the loaded weights."""
    source = f"checkpoint.finetune_from_model={parp.path()}"
    run = lab.train("again", *PARP.flags, source, STILL, "common.bf16=true").succeeded()
    pruned = parp.model()
    for name, weight in regrown_weights(run.model()).items():
        assert torch.equal(weight, pruned[name].bfloat16().float()), name


def test_folding_leaves_a_plain_model_with_equal_output(parp: Run, tmp_path: Path) -> None:
    fold(parp.path(), tmp_path / "folded.pt")
    folded, pruned = read(tmp_path / "folded.pt"), parp.model()
    assert folded["cfg"]["model"]["_name"] == "wav2vec_ctc"
    assert not any(key.endswith(("_regrown", "_mask")) for key in folded["model"])
    assert {key for key in pruned if not key.endswith(("_regrown", "_mask"))} == set(
        folded["model"]
    )
    for name in prunable():
        assert torch.equal(folded["model"][name], pruned[name]), name
    models = [load_finetuned(path).model for path in (tmp_path / "folded.pt", parp.path())]
    assert torch.equal(logits(models[0]), logits(models[1]))
    assert logits(models[0]).abs().sum() > 0


def test_masks_command_reads_parp_checkpoints(parp: Run, tmp_path: Path) -> None:
    expected = {name[len(ENCODER) :]: mask for name, mask in saved_masks(parp.model()).items()}
    exported = tmp_path / "masks.safetensors"
    assert "24 masks, density 0.5" in succeed("export", parp.path(), exported)
    masks = MaskSet.load(exported)
    assert set(masks) == set(expected)
    assert all(torch.equal(masks[site], mask) for site, mask in expected.items())
    for path in (parp.path(), exported):
        found = json.loads(succeed("stats", path, "--json"))
        assert found["weights"] == sum(mask.numel() for mask in expected.values())
        assert found["kept"] == kept_of(found["weights"], 0.5)
        for site, mask in expected.items():
            assert found["densities"][site] == pytest.approx(mask.float().mean().item())


@pytest.fixture(scope="module", params=POLICIES)
def policy(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def growing(lab: Lab, policy: str) -> Run:
    """A run of another policy, which starts dense by itself."""
    run = lab.train(policy, *growing_flags(policy), *KEPT, updates=UPDATES)
    return run.succeeded()


def growing_flags(policy: str) -> tuple[str, ...]:
    flags = (flag for flag in GROWING.flags if "start_sparsity" not in flag)
    return (*flags, f"model.policy={policy}", "model.layerdrop=0")


def test_other_policies_go_from_dense_to_the_target(growing: Run, policy: str) -> None:
    """Counts are exact, and what is kept is what the policy ranks first."""
    counts, before = [], {}
    for update in range(1, UPDATES + 1):
        model = checkpoint_at(growing, update)["model"]
        masks = saved_masks(model)
        entries = sum(mask.numel() for mask in masks.values())
        counts.append(sum(int(mask.sum()) for mask in masks.values()))
        assert counts[-1] == kept_of(entries, GROWING.density(update)), update
        if GROWING.selects(update):
            weights = {name: weight.abs() for name, weight in regrown_weights(model).items()}
            scores = {name: scores_of(model, name) for name in masks}
            importance = scores if policy == "movement" else weights
            assert difference(masks, GROWING.rank(importance, update)) == [], update
        elif before:
            assert difference(masks, before) == [], update
        before = masks
    assert counts == [entries, *[kept_of(entries, 0.7)] * 2, *[kept_of(entries, 0.4)] * 2]


def scores_of(model: dict[str, Tensor], name: str) -> Tensor | None:
    """What a checkpoint has beside a weight or bias for its ranking."""
    owner, _, tensor = name.rpartition(".")
    return model.get(f"{owner}.scores" if tensor == "weight" else f"{owner}.{tensor}_scores")


def test_other_policies_give_no_gradient_to_what_they_removed(
    lab: Lab, growing: Run, policy: str
) -> None:
    """Adam's first moment decays there and does nothing else."""
    shapes = trained_shapes(lab, (*growing_flags(policy), f"optimization.max_update={UPDATES}"))
    removed = 0
    for update in range(1, UPDATES):
        before, after = (checkpoint_at(growing, number) for number in (update, update + 1))
        moments = [Optimizer(checkpoint, shapes).moments for checkpoint in (before, after)]
        for name, mask in saved_masks(before["model"]).items():
            decayed = moments[0][name][0] * 0.9
            assert torch.equal(moments[1][name][0][~mask], decayed[~mask]), (update, name)
            removed += int((~mask).sum())
            if mask.dim() > 1:
                gathered = moments[1][name][0][mask] != decayed[mask]
                assert gathered.float().mean() > 0.9, (update, name)
    assert removed > 0


@pytest.mark.parametrize("family", ["xlsr", "data2vec"])
def test_other_backbones_are_pruned(lab: Lab, family: str) -> None:
    pretrained = (f"model.w2v_path={getattr(lab, family)}", "task.normalize=true")
    run = lab.train(family, *Plan(every=1).flags, *pretrained).succeeded()
    assert_pruned(run.model(), Plan(every=1), 2)
    assert list(saved_masks(run.model())) == prunable()
    entries = sum(run.model()[name].numel() for name in prunable())
    zeros = sum(int((run.model()[name] == 0).sum()) for name in prunable())
    assert zeros == entries - kept_of(entries, 0.5)
    assert all(weight.any() for weight in regrown_weights(run.model()).values())
