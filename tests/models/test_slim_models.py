"""Every way to finetune, beginning from a slim encoder and from a slim finetuned model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from checkpoints import logits, refusal
from loop import Lab, Run
from mask_files import succeed
from slim_files import with_idle_units

from speechprune.checkpoint import read
from speechprune.checkpoint.slimming import slim_plan_in
from speechprune.models.loading import load_encoder, load_finetuned
from speechprune.rewriting.averaging import average
from speechprune.rewriting.slimming import apply
from speechprune.slimming.plan import KeptUnits, SlimPlan
from speechprune.training.launch import completed
from speechprune.training.preflight import check_checkpoints

CHANNELS = tuple(range(64))
PLAN = SlimPlan(
    "wav2vec2",
    4,
    64,
    (KeptUnits((0, 2, 3), CHANNELS[10:]), KeptUnits((0, 1, 3), CHANNELS[:30] + CHANNELS[50:])),
)
STILL = "optimization.lr=[0.0]"
NAMES = ("wav2vec_ctc", "wav2vec_ctc_pruned", "wav2vec_ctc_st", "wav2vec_ctc_parp")


class SlimLab(Lab):
    """A `Lab` with a slim encoder, and one of the same shape that was finetuned."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.idle = with_idle_units(Path(shutil.copy(self.wav2vec2, folder / "idle.pt")))
        self.slim = folder / "slim.pt"
        apply(self.idle, self.slim)
        self.begin = f"model.w2v_path={self.slim}"
        self.finetuned = self.train("finetuned", self.begin, "model._name=wav2vec_ctc").succeeded()
        self.goes_on = f"checkpoint.finetune_from_model={self.finetuned.path()}"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> SlimLab:
    return SlimLab(tmp_path_factory.mktemp("slim-models"))


def assert_slim(run: Run) -> None:
    """The run's last checkpoint loads, and has kept what the slim encoder has."""
    state = read(run.path())
    assert slim_plan_in(state) == PLAN
    weight = state["model"]["w2v_encoder.w2v_model.encoder.layers.1.fc1.weight"]
    assert weight.shape == (44, 32)
    assert logits(load_finetuned(run.path()).model).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_runs_begin_from_slim_files(lab: SlimLab, name: str) -> None:
    begun = lab.train(name, lab.begin, f"model._name={name}").succeeded()
    assert_slim(begun)
    more = lab.train(f"{name}-more", lab.begin, lab.goes_on, f"model._name={name}").succeeded()
    assert_slim(more)


def test_weights_are_those_of_the_slim_model(lab: SlimLab) -> None:
    still = lab.train("still", lab.begin, lab.goes_on, STILL, "model._name=wav2vec_ctc_pruned")
    loaded = load_finetuned(still.succeeded().path()).model
    expected = logits(load_finetuned(lab.finetuned.path()).model)
    assert torch.equal(logits(loaded), expected)


def test_a_slim_model_takes_masks_of_its_own_shape(lab: SlimLab) -> None:
    masks = lab.folder / "own.masks"
    source = lab.finetuned.path()
    succeed("make", source, masks, "--by", "magnitude", "--sparsity", 0.5, "--no-biases")
    flags = (f"model.mask_file={masks}", "model._name=wav2vec_ctc_masked", "model.fix_attn=false")
    given = (*flags, "model.prune_biases=false")
    assert_slim(lab.train("masked", lab.begin, lab.goes_on, *given).succeeded())

    masked = lab.folder / "masked.pt"
    succeed("apply", source, masks, masked)
    loaded = load_finetuned(masked)
    assert 0.5 <= loaded.density < 0.51
    # Applied again, the zeros of the masks are weights.
    weight = load_encoder(masked).encoder.layers[0].fc1.weight
    assert weight.shape == (54, 32) and (weight == 0).float().mean() == 0.5


def test_masks_of_another_shape_are_refused_by_name(lab: SlimLab) -> None:
    masks = lab.folder / "whole.masks"
    succeed("make", lab.wav2vec2, masks, "--by", "magnitude", "--sparsity", 0.5, "--no-biases")
    flags = (f"model.mask_file={masks}", "model._name=wav2vec_ctc_masked", "model.fix_attn=false")
    refused = lab.train("other-masks", lab.begin, *flags, "model.prune_biases=false")
    assert refused.exit_code != 0
    advice = "heads or channels were cut out of this model, which takes masks of its own shapes"
    assert advice in refused.output and "has the shape" in refused.output


def test_a_slim_model_and_a_whole_one_do_not_mix(lab: SlimLab) -> None:
    advice = "take model.w2v_path from the same slim checkpoint"
    refused = lab.train("mixed", lab.goes_on, "model._name=wav2vec_ctc_pruned")
    assert refused.exit_code != 0 and advice in refused.output
    # fairseq's own model looks at nothing; `speechprune train` does before.
    cfg = completed(lab.compose(lab.goes_on, "model._name=wav2vec_ctc"), lab.folder)
    message = refusal(check_checkpoints, cfg)
    assert message.endswith(f"has lost heads or channels, but the model has all of them; {advice}")
    cfg = completed(lab.compose(lab.begin, lab.goes_on, "model._name=wav2vec_ctc"), lab.folder)
    check_checkpoints(cfg)


def test_dropped_layers_take_their_part_of_the_plan_along(lab: SlimLab) -> None:
    run = lab.train("short", lab.begin, "model._name=wav2vec_ctc_pruned", "model.drop_layers=[0]")
    state = read(run.succeeded().path())
    assert slim_plan_in(state) == PLAN.of_layers([1])
    load_finetuned(run.path())


def test_slim_checkpoints_of_one_run_average(lab: SlimLab) -> None:
    out = average(lab.finetuned.folder, by="last").out
    state = read(out)
    assert slim_plan_in(state) == PLAN
    load_finetuned(out)


@pytest.mark.parametrize("family", ["data2vec", "hubert", "xlsr"])
def test_other_families_are_finetuned_slim(lab: SlimLab, family: str) -> None:
    source = with_idle_units(Path(shutil.copy(getattr(lab, family), lab.folder / f"idle-{family}")))
    slim = lab.folder / f"slim-{family}.pt"
    apply(source, slim)
    begin = (f"model.w2v_path={slim}", f"task.normalize={str(family != 'hubert').lower()}")
    run = lab.train(family, *begin, "model._name=wav2vec_ctc").succeeded()
    found = slim_plan_in(read(run.path()))
    assert found is not None and found.kept == PLAN.kept
    assert logits(load_finetuned(run.path()).model).isfinite().all()
    goes_on = f"checkpoint.finetune_from_model={run.path()}"
    more = lab.train(f"{family}-more", *begin, goes_on, "model._name=wav2vec_ctc_st").succeeded()
    assert slim_plan_in(read(more.path())) == found
    load_finetuned(more.path())
