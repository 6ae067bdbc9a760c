"""Layers left out in training: real runs of models that drop them, alone and with masks."""

from __future__ import annotations

import json
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import in_plain_fairseq
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig
from loop import Lab, setup
from mishaps import kill_after_update
from nano import write_data2vec, write_wav2vec2

from speechprune.checkpoint import read
from speechprune.checkpoint.layers import DROPPED, lost_layers
from speechprune.errors import UserError
from speechprune.layers.plan import LayerPlan, LayerPlans
from speechprune.models.config import WeightCtcConfig
from speechprune.models.loading import load_finetuned
from speechprune.models.wav2vec_ctc import WeightCtc
from speechprune.rewriting.encoder import export_encoder
from speechprune.rewriting.folding import fold
from speechprune.rewriting.layer_dropping import drop_layers
from speechprune.training.preflight import check_checkpoints, check_settings

DROP = "model.drop_layers=[1,2]"
PRUNED = "model._name=wav2vec_ctc_pruned"
MODELS = {
    "plain": [PRUNED],
    "masks": ["model._name=wav2vec_ctc_st", "model.prune_rate=0.7"],
    "parp": ["model._name=wav2vec_ctc_parp", "model.sparsity=0.5", "model.prune_every=1"],
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("dropped"))


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wav2vec2(tmp_path_factory.mktemp("deep") / "deep.pt", layers=5)


@pytest.fixture(scope="module", params=sorted(MODELS))
def trained(request: pytest.FixtureRequest, lab: Lab, deep: Path) -> Any:
    """A run of each model that drops two of five layers."""
    overrides = [f"model.w2v_path={deep}", *MODELS[request.param], DROP]
    name = f"dropped-{request.param}"
    return lab.train(name, *overrides, updates=2).succeeded(), overrides, request.param


def test_the_model_that_is_trained_is_the_smaller_one(lab: Lab, deep: Path) -> None:
    model = lab.build(f"model.w2v_path={deep}", PRUNED, DROP)
    pretrained = read(deep)["model"]
    assert len(model.backbone.encoder.layers) == 3
    for layer, original in enumerate((0, 3, 4)):
        key = "self_attn.q_proj.weight"
        mine = model.backbone.encoder.layers[layer].get_parameter(key)
        assert torch.equal(mine, pretrained[f"encoder.layers.{original}.{key}"])


def test_checkpoints_build_the_smaller_model_by_themselves(trained: Any) -> None:
    run, _, name = trained
    cfg = run.checkpoint()["cfg"]["model"]
    assert cfg["w2v_args"]["model"]["encoder_layers"] == 3 and cfg["drop_layers"] == [1, 2]
    model = load_finetuned(run.path()).model
    assert len(model.backbone.encoder.layers) == 3
    layers = {key.split(".")[4] for key in run.model() if ".encoder.layers." in key}
    assert layers == {"0", "1", "2"}
    if name != "plain":
        assert {site.layer for site in model.mask_controller.sites} == {0, 1, 2}


def test_a_resumed_run_equals_one_that_never_stopped(trained: Any, lab: Lab) -> None:
    _, overrides, name = trained
    overrides = [*overrides, "model.layerdrop=0.3", "checkpoint.save_interval_updates=1"]
    whole = lab.train(f"whole-{name}", *overrides, updates=4).succeeded().model()
    killed = partial(kill_after_update, 2)
    lab.train(f"killed-{name}", *overrides, updates=4, prepare=killed)
    resumed = lab.train(f"killed-{name}", *overrides, updates=4).succeeded().model()
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(tensor, resumed[key]) for key, tensor in whole.items())


def test_folded_it_is_a_plain_model_with_fewer_layers(trained: Any, tmp_path: Path) -> None:
    run, _, _ = trained
    fold(run.path(), tmp_path / "plain.pt")
    state = read(tmp_path / "plain.pt")
    assert state["cfg"]["model"]["_name"] == "wav2vec_ctc"
    assert state["cfg"]["model"]["w2v_args"]["model"]["encoder_layers"] == 3
    assert not {"drop_layers", "layer_plan"} & set(state["cfg"]["model"])
    source = torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    outputs = [
        load_finetuned(path).model(source=source, padding_mask=None)["encoder_out"]
        for path in (run.path(), tmp_path / "plain.pt")
    ]
    assert torch.equal(*outputs)
    (name, *_), _ = in_plain_fairseq(tmp_path / "plain.pt", tmp_path)
    assert name == "Wav2VecCtc"


def test_a_plan_file_says_the_same(lab: Lab, deep: Path, tmp_path: Path) -> None:
    plans = (LayerPlan(5, (1, 2), 0.9), LayerPlan(5, (0, 4), 0.1))
    LayerPlans(plans, 5).save(tmp_path / "plans.json")
    by_file = lab.build(f"model.w2v_path={deep}", PRUNED, f"model.layer_plan={tmp_path}/plans.json")
    by_list = lab.build(f"model.w2v_path={deep}", PRUNED, DROP)
    assert by_file.layer_plan.dropped == by_list.layer_plan.dropped == (1, 2)
    assert by_file.depth == 3


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_finetuned_model_loses_the_same_layers(lab: Lab, deep: Path, name: str) -> None:
    """`finetune_from_model` of the whole depth, or of the smaller one."""
    start = [f"model.w2v_path={deep}", "model._name=wav2vec_ctc"]
    whole = lab.train("whole-finetuned", *start, updates=2).succeeded()
    overrides = [f"model.w2v_path={deep}", *MODELS[name], DROP, "optimization.lr=[0.0]"]
    overrides += ["model.freeze_finetune_updates=0"]
    begun = lab.train(
        f"from-whole-{name}",
        *overrides,
        f"checkpoint.finetune_from_model={whole.path()}",
        updates=2,
    ).succeeded()
    key = "w2v_encoder.w2v_model.encoder.layers.{}.fc1.weight"
    for layer, original in enumerate((0, 3, 4)):
        mine, theirs = begun.model()[key.format(layer)], whole.model()[key.format(original)]
        kept = mine != 0  # PARP saves what it pruned
        assert kept.any() and torch.equal(mine[kept], theirs[kept])
    again = lab.train(
        f"from-small-{name}",
        *overrides,
        f"checkpoint.finetune_from_model={begun.path()}",
        updates=2,
    ).succeeded()
    assert torch.equal(again.model()[key.format(2)], begun.model()[key.format(2)])


def test_layers_of_any_family_and_layerdrop(lab: Lab, tmp_path: Path) -> None:
    data2vec = write_data2vec(tmp_path / "data2vec.pt", layers=4)
    run = lab.train(
        "data2vec-dropped",
        f"model.w2v_path={data2vec}",
        *["task.normalize=true", PRUNED, "model.drop_layers=[0,3]", "model.layerdrop=0.5"],
        *["model.checkpoint_activations=true", "distributed_training.ddp_backend=legacy_ddp"],
    ).succeeded()
    assert len(load_finetuned(run.path()).model.backbone.encoder.layers) == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([PRUNED, "model.drop_layers=[5]"], r"drop_layers=\[5\].*layers 0\.\.4"),
        ([PRUNED, "model.drop_layers=[0,1,2,3,4]"], "at least one must stay"),
        ([PRUNED, "model.drop_layers=[1,1]"], "names each layer once"),
        ([PRUNED, "model.layer_plan=/gone.json"], "/gone.json cannot be read"),
        ([PRUNED, DROP, "model.layer_plan=/gone.json"], "use one of them"),
    ],
)
def test_impossible_layers_are_refused(
    lab: Lab, deep: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        lab.build(f"model.w2v_path={deep}", *overrides)


def test_a_plan_for_another_depth_is_refused(lab: Lab, deep: Path, tmp_path: Path) -> None:
    LayerPlans((LayerPlan(12, (1, 2)),), 12).save(tmp_path / "plans.json")
    with pytest.raises(UserError, match="model of 12 layers, not of 5"):
        lab.build(f"model.w2v_path={deep}", PRUNED, f"model.layer_plan={tmp_path}/plans.json")


def test_a_checkpoint_of_another_depth_is_refused(lab: Lab, deep: Path) -> None:
    whole = lab.build(f"model.w2v_path={deep}", PRUNED)
    short = lab.build(f"model.w2v_path={deep}", PRUNED, "model.drop_layers=[0,1,2]")
    middle = lab.build(f"model.w2v_path={deep}", PRUNED, DROP)
    with pytest.raises(UserError, match="has 3 layers, but the model has 5;"):
        whole.load_state_dict(middle.state_dict())
    with pytest.raises(UserError, match="has 3 layers, but the model has 2, 5 before dropping"):
        short.load_state_dict(middle.state_dict())


def test_fairseqs_own_model_drops_nothing_and_says_so(lab: Lab) -> None:
    with pytest.raises(UserError, match="set model._name=wav2vec_ctc_pruned"):
        check_settings(lab.compose("model._name=wav2vec_ctc", DROP))


def test_masks_of_the_whole_model_fit_the_smaller_one(lab: Lab, deep: Path, tmp_path: Path) -> None:
    """A mask file made before layers were dropped."""
    from speechprune.rewriting.baseline_masks import Ranking

    masks = Ranking(deep, "global-magnitude", roles=("ffn.in", "ffn.out"), biases=True).masks(0.5)
    masks.save(tmp_path / "mask.safetensors")
    model = lab.build(
        f"model.w2v_path={deep}",
        "model._name=wav2vec_ctc_masked",
        f"model.mask_file={tmp_path}/mask.safetensors",
        DROP,
    )
    taken = model.mask_controller.mask_set()
    for layer, original in enumerate((0, 3, 4)):
        for tensor in ("fc1.weight", "fc2.bias"):
            mine = taken[f"encoder.layers.{layer}.{tensor}"]
            assert torch.equal(mine, masks[f"encoder.layers.{original}.{tensor}"])
    assert json.dumps(sorted(taken)) == json.dumps(
        sorted(
            name for name in masks if not name.startswith(("encoder.layers.3", "encoder.layers.4"))
        )
    )


def check(lab: Lab, *overrides: str) -> None:
    """The checks of `speechprune train` before it builds anything."""
    cfg, _ = setup(lab.compose(*overrides))
    check_checkpoints(cfg)


def test_other_layers_than_a_run_has_lost_are_refused(
    trained: Any, lab: Lab, deep: Path, tmp_path: Path
) -> None:
    run, overrides, name = trained
    here = f"checkpoint.save_dir={run.folder}/checkpoints"
    check(lab, *overrides, here)
    others = [*overrides[:-1], "model.drop_layers=[1,3]"]
    with pytest.raises(UserError, match=r"has lost the layers \[1, 2\], .* name \[1, 3\]"):
        check(lab, *others, here)
    if name == "plain":
        start = f"checkpoint.finetune_from_model={run.path()}"
        check(lab, *overrides, start)
        with pytest.raises(UserError, match=r"has lost the layers \[1, 2\]"):
            check(lab, *others, start)


def test_what_was_lost_is_known_by_its_first_numbers(lab: Lab, deep: Path, tmp_path: Path) -> None:
    """From file to file, in training, and as an encoder to begin with."""
    once, twice, encoder = (tmp_path / f"{name}.pt" for name in ("once", "twice", "encoder"))
    drop_layers(deep, [1], once)
    model = lab.build(f"model.w2v_path={once}", PRUNED, "model.drop_layers=[0]")  # 2, 3, 4 stay
    state = {"cfg": {"model": model.cfg}}
    assert lost_layers(state) == LayerPlan(5, (0, 1))
    here = ("optimization.lr=[0.0]",)
    run = lab.train("once", f"model.w2v_path={once}", PRUNED, "model.drop_layers=[0]", *here)
    drop_layers(run.succeeded().path(), [2], twice)
    assert lost_layers(read(twice)) == LayerPlan(5, (0, 1, 4))
    export_encoder(twice, encoder)
    assert lost_layers(read(encoder)) == LayerPlan(5, (0, 1, 4))
    upper = [
        read(path)["model"][f"encoder.layers.{n}.fc1.weight"]
        for path, n in ((encoder, 1), (deep, 3))
    ]
    assert torch.equal(*upper)
    # The same two layers in other hands.
    other = f"model.w2v_path={deep}", PRUNED, "model.drop_layers=[1,2,3]"
    with pytest.raises(UserError, match=r"has lost the layers \[0, 1, 4\]"):
        lab.build(*other, f"checkpoint.finetune_from_model={twice}")
    lab.build(*other[:2], "model.drop_layers=[0,1,4]", f"checkpoint.finetune_from_model={twice}")


def test_fairseqs_own_command_refuses_too(trained: Any, lab: Lab) -> None:
    """Without the checks of `speechprune train`."""
    run, overrides, name = trained
    result = lab.train(run.folder.name, *overrides[:-1], "model.drop_layers=[1,3]", updates=9)
    assert result.exit_code and "has lost the layers [1, 2]" in result.output
    if name == "plain":
        result = lab.train("own", "model._name=wav2vec_ctc", "model.drop_layers=[1]")
        assert result.exit_code and "wav2vec_ctc leaves no layers out" in result.output


def test_settings_of_any_kind_tell_what_was_lost(deep: Path) -> None:
    """Namespaces of 2020 and dataclasses of fairseq among them."""
    told = {DROPPED: {"layers": 5, "dropped": [1]}}
    for model in ({"w2v_args": told}, {"w2v_args": Namespace(**told)}, {"w2v_args": None}, None):
        expected = LayerPlan(5, (1,)) if model and model["w2v_args"] else None
        assert lost_layers({"cfg": {"model": model}}) == expected
    for cfg in (Wav2Vec2CtcConfig(), Namespace(), WeightCtcConfig()):
        WeightCtc.check_settings(cfg)
    with pytest.raises(UserError, match="leaves no layers out"):
        WeightCtc.check_settings(WeightCtcConfig(drop_layers=[1]))


def test_masks_have_to_be_baked_in_before_all_weights_are_trained(
    lab: Lab, deep: Path, tmp_path: Path
) -> None:
    whole = [f"model.w2v_path={deep}", "model._name=wav2vec_ctc_st"]
    run = lab.train("with-masks", *whole).succeeded()
    start = f"checkpoint.finetune_from_model={run.path()}"
    with pytest.raises(UserError, match="wav2vec_ctc_pruned does not know; bake them in"):
        check(lab, f"model.w2v_path={deep}", PRUNED, start)


def test_masks_of_rows_stay_when_weights_are_finetuned(lab: Lab, deep: Path) -> None:
    """A row's mask has one bit for each row, and a fixed mask one for each weight."""
    whole = [f"model.w2v_path={deep}", "model._name=wav2vec_ctc_st"]
    rows = lab.train("rows", *whole, "model.linear_st_op=linear_st_outstr").succeeded()
    fixed = lab.train(
        "rows-fixed",
        f"model.w2v_path={deep}",
        *["model._name=wav2vec_ctc_masked", f"model.mask_file={rows.path()}"],
        *["model.prune_biases=false", f"checkpoint.finetune_from_model={rows.path()}", DROP],
    ).succeeded()
    before, after = (load_finetuned(run.path()).model.mask_controller for run in (rows, fixed))
    masks = before.mask_set()
    for layer, original in enumerate((0, 3, 4)):
        mine = after.mask_set()[f"encoder.layers.{layer}.fc1.weight"]
        assert torch.equal(mine, masks[f"encoder.layers.{original}.fc1.weight"])
