"""Heads and channels that are removed but not cut out: nothing fills them without a word."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints import logits, refusal
from loop import Lab, Run, build
from mask_files import succeed
from parp_by_hand import KEPT, checkpoint_at
from slim_by_hand import HandPlan
from slim_recording import L0, flags

from speechprune.checkpoint import read
from speechprune.masking.mask_set import MaskSet
from speechprune.models.loading import load_encoder, load_finetuned
from speechprune.rewriting.averaging import average
from speechprune.rewriting.conversion import convert
from speechprune.rewriting.encoder import export_encoder
from speechprune.rewriting.folding import fold
from speechprune.rewriting.layer_dropping import drop_layers
from speechprune.rewriting.masks import apply_masks
from speechprune.rewriting.slimming import apply
from speechprune.training.launch import completed
from speechprune.training.preflight import check_checkpoints

PLAN = HandPlan({"heads": 0.25, "channels": 0.5}, end=4, every=1)
UPDATES = 7
ADVICE = "cut them out first with `speechprune slim apply`"
OTHERS = {
    "wav2vec_ctc": (),
    "wav2vec_ctc_pruned": (),
    "wav2vec_ctc_st": (),
    "wav2vec_ctc_parp": ("optimization.max_update=100",),
    "wav2vec_ctc_policy": ("optimization.max_update=100",),
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("uncut"))


@pytest.fixture(scope="module")
def run(lab: Lab) -> Run:
    """A run with a checkpoint for each update, the last choice in the fourth."""
    return lab.train("slim", *flags(PLAN), *KEPT, updates=UPDATES).succeeded()


@pytest.fixture(scope="module")
def gated(lab: Lab) -> Run:
    return lab.train("gates", *L0, *KEPT, updates=4).succeeded()


@pytest.fixture(params=["run", "gated"])
def uncut(request: pytest.FixtureRequest) -> Run:
    found: Run = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_refuse_them(lab: Lab, uncut: Run, name: str) -> None:
    """By `speechprune train` before, and by the model itself whoever trains it."""
    settings = (f"model._name={name}", *OTHERS[name])
    start = f"checkpoint.finetune_from_model={uncut.path()}"
    cfg = completed(lab.compose(*settings, start), lab.folder)
    message = refusal(check_checkpoints, cfg)
    assert message.startswith(f"{uncut.path()} has removed heads and channels, which {name} would")
    assert message.endswith(ADVICE)
    model = build(lab.compose(*settings))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    message = refusal(model.load_state_dict, uncut.model())
    assert message.startswith("the checkpoint has removed heads") and message.endswith(ADVICE)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_fairseqs_own_command_refuses_them(lab: Lab, run: Run) -> None:
    start = f"checkpoint.finetune_from_model={run.path()}"
    refused = lab.train("filled", "model._name=wav2vec_ctc", start)
    assert refused.exit_code == 1 and not list(refused.folder.glob("**/*.pt"))
    assert "UserError: the checkpoint has removed heads and channels" in refused.output


def test_a_run_that_goes_on_is_one_of_slimming(lab: Lab, run: Run) -> None:
    start = (f"checkpoint.restore_file={run.path()}", "checkpoint.reset_optimizer=true")
    cfg = completed(lab.compose("model._name=wav2vec_ctc_pruned", *start), lab.folder)
    assert ADVICE in refusal(check_checkpoints, cfg)


def test_what_was_cut_goes_on_as_any_model(lab: Lab, run: Run, tmp_path: Path) -> None:
    small, encoder = tmp_path / "small.pt", tmp_path / "encoder.pt"
    apply(run.path(), small)
    export_encoder(small, encoder)
    begin = (f"model.w2v_path={encoder}", f"checkpoint.finetune_from_model={small}")
    more = lab.train("more", *begin, "model._name=wav2vec_ctc_pruned").succeeded()
    assert load_encoder(more.path()).encoder.layers[0].fc1.weight.shape == (32, 32)


def test_what_they_removed_is_told_before_it_is_cut_out(uncut: Run, tmp_path: Path) -> None:
    """As parameters, and as a share of what all heads and channels are made of."""
    loaded = load_finetuned(uncut.path())
    cut = apply(uncut.path(), tmp_path / "small.pt")
    assert loaded.removed == cut.parameters_before - cut.parameters > 0
    # The biases of the last projections belong to no unit.
    names = ("self_attn.", "fc1.", "fc2.weight")
    layers = loaded.model.w2v_encoder.w2v_model.encoder.layers.named_parameters()
    units = {n: p.numel() for n, p in layers if n.partition(".")[2].startswith(names)}
    whole = sum(n for name, n in units.items() if not name.endswith("out_proj.bias"))
    assert loaded.density == pytest.approx(1 - loaded.removed / whole)
    assert load_finetuned(tmp_path / "small.pt").removed == 0


# --- rewriting -----------------------------------------------------------------------------------


def test_layers_are_not_dropped_from_them(uncut: Run, tmp_path: Path) -> None:
    out = tmp_path / "short.pt"
    assert refusal(drop_layers, uncut.path(), [0], out) == (
        f"{uncut.path()} has removed heads and channels, which are numbered by layer; {ADVICE}"
    )
    assert not out.exists()


def test_masks_are_not_put_on_them(lab: Lab, uncut: Run, tmp_path: Path) -> None:
    masks, out = tmp_path / "some.masks", tmp_path / "masked.pt"
    succeed("make", lab.wav2vec2, masks, "--by", "magnitude", "--sparsity", 0.5, "--no-biases")
    message = refusal(apply_masks, uncut.path(), MaskSet.load(masks), out)
    assert message.endswith(f"which would grow again under masks; {ADVICE}")
    assert not out.exists()


def test_gates_are_not_converted(gated: Run, tmp_path: Path) -> None:
    message = refusal(convert, gated.path(), tmp_path / "converted.pt")
    assert message.endswith(f"whose gates are a part of the network; {ADVICE}")


def test_folded_they_are_plain_models(uncut: Run, tmp_path: Path) -> None:
    """With zeros where units were."""
    expected = logits(load_finetuned(uncut.path()).model)
    fold(uncut.path(), tmp_path / "folded.pt")
    found = load_finetuned(tmp_path / "folded.pt")
    assert found.cfg.model._name == "wav2vec_ctc"
    torch.testing.assert_close(logits(found.model), expected, rtol=0, atol=1e-5)


def test_their_encoders_are_not_trained_on(uncut: Run, tmp_path: Path) -> None:
    out = tmp_path / "encoder.pt"
    message = refusal(export_encoder, uncut.path(), out)
    assert message.endswith(f"which training would let grow again; {ADVICE}") and not out.exists()


# --- averages ------------------------------------------------------------------------------------


def test_an_average_has_the_units_of_the_newest(run: Run) -> None:
    """Those of before the last choice are passed over; no zero is filled."""
    made = average(run.folder, by="last")
    newest = run.model()
    kept = {key for key in newest if "_kept_" in key}
    alike = [
        update
        for update in range(1, UPDATES + 1)
        if all(torch.equal(checkpoint_at(run, update)["model"][key], newest[key]) for key in kept)
    ]
    assert [each.updates for each in made.averaged] == alike[::-1] and 4 <= len(alike) < UPDATES
    assert made.of_other_density == UPDATES - len(alike)
    state = read(made.out)["model"]
    states = [checkpoint_at(run, update)["model"] for update in alike]
    for key, value in state.items():
        if value.is_floating_point():
            mean = sum(each[key].double() for each in states) / len(states)
            torch.testing.assert_close(value.double(), mean, rtol=1e-6, atol=1e-8)
    for key in kept:
        assert torch.equal(state[key], newest[key])
    name = "w2v_encoder.w2v_model.encoder.layers.1.fc2.weight"
    assert torch.equal((state[name] == 0).all(0), newest["slim_controller.channels_kept_1"] == 0)
    apply(made.out, made.out.parent / "cut.pt")
    expected = logits(load_finetuned(made.out).model)
    found = logits(load_finetuned(made.out.parent / "cut.pt").model)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_gates_are_averaged_as_weights_are(gated: Run, tmp_path: Path) -> None:
    """The mean is a model with gates of its own, which can be cut."""
    made = average(gated.folder, tmp_path / "mean.pt", by="last")
    assert len(made.averaged) == 4
    name = "slim_controller.heads.0.scaled_log_alpha"
    states = [checkpoint_at(gated, update)["model"][name] for update in range(1, 5)]
    torch.testing.assert_close(read(made.out)["model"][name], torch.stack(states).mean(0))
    apply(made.out, tmp_path / "cut.pt")
    expected = logits(load_finetuned(made.out).model)
    found = logits(load_finetuned(tmp_path / "cut.pt").model)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
