"""`wav2vec_ctc_policy` in fairseq's loop: any policy, weights trained or frozen, and resumed."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from checkpoints import refusal
from fairseq.trainer import Trainer
from loop import Lab, Run, build
from mishaps import kill_after_update
from states import difference
from test_distributed import two_ranks

from speechprune.errors import UserError
from speechprune.masking.mask_set import MaskSet
from speechprune.masking.masked_site import masked_weight, original_weight
from speechprune.masking.policies import POLICIES
from speechprune.models.declaration import declared
from speechprune.models.loading import load_finetuned
from speechprune.models.mask_reading import read_checkpoint_masks
from speechprune.models.names import POLICY
from speechprune.state_names import encoder_tensors

BASE = (f"model._name={POLICY}", "model.fix_attn=false", "model.sparsity=0.5")
NOISY = (
    *("model.prune_every=2", "optimization.update_freq=[2]", "model.layerdrop=0.3"),
    *("model.mask_prob=0.5", "model.mask_channel_prob=0.5"),
)
UPDATES = 6
#: What policies ask of other settings; half of the connections are gone by update 4.
SETTINGS = {
    "gradual_magnitude": ("model.sparsity_end=4",),
    "movement": ("model.sparsity_end=4",),
    "snip": ("model.sparsity_end=4",),
    "s3router": ("model.policy_options={init_score:weight_rank}",),
    "n_m": ("model.policy_options={n:1,m:2}",),
}
CASES = [
    (name, trains)
    for name in POLICIES.names()
    for trains in (None, not POLICIES.get(name).trains_weights)
    if trains is not False or not POLICIES.get(name).needs_trained_weights
]


def flags(policy: str, trains: bool | None) -> tuple[str, ...]:
    chosen = () if trains is None else (f"model.train_weights={str(trains).lower()}",)
    return (*BASE, *NOISY, f"model.policy={policy}", *SETTINGS.get(policy, ()), *chosen)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("policies"))


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def trained(lab: Lab, request: pytest.FixtureRequest) -> tuple[str, bool | None, Run]:
    policy, trains = request.param
    often = ("checkpoint.save_interval_updates=1", "dataset.validate_interval_updates=1")
    name = f"{policy}-{trains}"
    return policy, trains, lab.train(name, *flags(*request.param), *often, updates=UPDATES)


def test_it_trains_to_its_sparsity(trained: tuple[str, bool | None, Run], lab: Lab) -> None:
    """At exactly the density, and frozen weights stay bit for bit."""
    policy, trains, run = trained
    run.succeeded()
    tally = read_checkpoint_masks(run.path()).tally
    pattern = POLICIES.build(policy).pattern
    assert tally.kept == (tally.total // 2 if pattern else tally.total - tally.total // 2)
    weights = encoder_tensors(run.model())
    pretrained = torch.load(lab.wav2vec2, weights_only=True)["model"]
    name = "encoder.layers.1.fc1.weight"
    moves = POLICIES.get(policy).trains_weights if trains is None else trains
    assert torch.equal(weights[name], pretrained[name]) == (not moves)
    for key in ("encoder.layers.1.final_layer_norm.weight", "encoder.layers.0.fc1.bias"):
        assert torch.equal(weights[key], pretrained[key]) == (not moves), key


def test_validating_saving_and_a_kill_change_nothing(
    trained: tuple[str, bool | None, Run], lab: Lab
) -> None:
    """A run killed between two choices of masks, never validated before, ends bit-equal."""
    policy, trains, often = trained
    settings = (*flags(policy, trains), "checkpoint.save_interval_updates=3")
    settings += ("dataset.validate_interval_updates=0",)
    name = f"{policy}-{trains}-killed"
    killed = lab.train(name, *settings, updates=UPDATES, prepare=partial(kill_after_update, 4))
    assert killed.exit_code == -signal.SIGKILL, killed.output[-3000:]
    assert killed.checkpoint()["optimizer_history"][-1]["num_updates"] == 3
    resumed = lab.train(name, *settings, updates=UPDATES).succeeded()
    expected, found = often.succeeded().checkpoint(), resumed.checkpoint()
    assert difference(expected["model"], found["model"]) == []
    assert difference(expected["last_optimizer_state"], found["last_optimizer_state"]) == []


@pytest.mark.parametrize("policy", ["random", "snip"])
def test_two_processes_choose_equal_masks(policy: str, lab: Lab) -> None:
    settings = (*BASE, f"model.policy={policy}", "model.prune_every=1")
    settings += ("model.sparsity_end=2", "model.prune_every=2") if policy == "snip" else ()
    _, (first, second) = two_ranks(
        lab, f"ranks-{policy}", *settings, "model.layerdrop=0.3", hash_seeds=[1, 2]
    )
    if policy == "snip":
        gathered = [value for key, value in first["model"].items() if key.endswith("_observed")]
        assert any(bool(value.any()) for value in gathered)
    masks = [key for key in first["model"] if key.endswith("_mask")]
    assert len(masks) == 24
    assert difference(first["model"], second["model"]) == []


@pytest.mark.parametrize("trains", [True, False])
def test_snip_gathers_the_gradients_of_an_update(trains: bool, lab: Lab) -> None:
    """|W G| with G summed over the micro-batches of an update, each update divided by its mean."""
    policy = ("model.policy=snip", "model.sparsity_end=100", "model.prune_every=50")
    steady = ("model.apply_mask=false", "model.layerdrop=0", "model.prune_biases=false")
    quiet = tuple(f"model.{n}=0" for n in ("dropout", "attention_dropout", "activation_dropout"))
    choice = f"model.train_weights={str(trains).lower()}"
    settings = (*BASE, *policy, *steady, *quiet, choice, "optimization.max_update=200")
    cfg = lab.compose(*settings)
    plain_cfg = lab.compose(*steady[:2], *quiet, "model._name=wav2vec_ctc_pruned")
    model, plain = build(cfg), build(plain_cfg)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k in plain.state_dict()})
    sites = model.mask_controller.sites
    expected = {site.name: torch.zeros_like(original_weight(site)) for site in sites}
    for update in range(2):
        model.train()
        plain.train()
        plain.zero_grad()
        for batch in range(3):
            model.set_num_updates(update)
            audio = torch.randn(2, 4000, generator=torch.Generator().manual_seed(batch + update))
            padding = torch.zeros(audio.shape, dtype=torch.bool)
            for each in (model, plain):
                output = each(source=audio, padding_mask=padding)["encoder_out"]
                output.square().mean().backward()
        model.mask_controller.observe()
        weights = dict(plain.named_parameters())
        scores = {
            name: (weights[f"w2v_encoder.w2v_model.{name}"] * grad.grad).abs().detach()
            for name in expected
            for grad in [weights[f"w2v_encoder.w2v_model.{name}"]]
        }
        mean = torch.cat([score.flatten() for score in scores.values()]).mean()
        for name, score in scores.items():
            expected[name] += score / mean
    for site in sites:
        found = masked_weight(site).observed
        torch.testing.assert_close(found, expected[site.name], rtol=1e-3, atol=1e-4)
    assert all(original_weight(site).grad is None for site in sites) != trains


def test_what_was_gathered_in_a_skipped_step_does_not_count(lab: Lab) -> None:
    settings = (*BASE, "model.policy=snip", "model.sparsity_end=100", "optimization.max_update=200")
    model = build(lab.compose(*settings))
    audio = torch.randn(2, 4000)
    model.train()
    model.set_num_updates(0)
    padding = torch.zeros(audio.shape, dtype=torch.bool)
    (model(source=audio, padding_mask=padding)["encoder_out"].mean() * float("inf")).backward()
    model.train()  # fairseq skips the step, and begins another with the same number
    assert all(masked_weight(site).pending is None for site in model.mask_controller.sites)
    model.set_num_updates(0)
    model(source=audio, padding_mask=padding)["encoder_out"].mean().backward()
    model.mask_controller.observe()
    observed = [masked_weight(site).observed for site in model.mask_controller.sites]
    assert all(tensor.isfinite().all() for tensor in observed)


def test_gradients_are_gathered_whatever_step_a_task_takes() -> None:
    """Before the step, which a task may override, the trainer clips them; it knows its model under
    whatever processes wrap it in."""
    gathered: list[str] = []
    controller = SimpleNamespace(observe=lambda: gathered.append("gradients"))
    optimizer = SimpleNamespace(clip_grad_norm=lambda most, aggregate_norm_fn: most)
    model = SimpleNamespace(mask_controller=controller)
    trainer: Any = SimpleNamespace(
        model=SimpleNamespace(module=SimpleNamespace(module=model)),
        get_model=lambda: model,
        optimizer=optimizer,
        is_fsdp=False,
    )
    assert Trainer.clip_grad_norm(trainer, 2.0) == 2.0
    assert gathered == ["gradients"]


def test_random_masks_are_redrawn(lab: Lab) -> None:
    """At each choice of masks, by the run's seed."""
    settings = (*BASE, "model.policy=random", "model.prune_every=1")
    found = {}
    for seed, updates in ((1, 2), (1, 3), (2, 2)):
        run = lab.train(
            f"random-{seed}-{updates}", *settings, f"common.seed={seed}", updates=updates
        ).succeeded()
        found[seed, updates] = read_checkpoint_masks(run.path())
    assert found[1, 2] != found[1, 3] and found[1, 2] != found[2, 2]
    name = "encoder.layers.0.fc1.weight"
    kept = (found[1, 2][name] & found[1, 3][name]).float().mean()
    assert kept == pytest.approx(0.25, abs=0.05)  # as chance has it


def test_n_of_m_keeps_its_pattern_through_folding(lab: Lab, tmp_path: Path) -> None:
    settings = (*BASE[:2], "model.policy=n_m", "model.policy_options={n:1,m:4}")
    run = lab.train("pattern", *settings, "model.sparsity=0.75").succeeded()
    masks = read_checkpoint_masks(run.path())
    assert len(masks) == 12  # no biases
    for name, mask in masks.items():
        assert (mask.reshape(-1, 4).sum(1) == 1).all(), name
    from speechprune.rewriting.folding import fold

    fold(run.path(), tmp_path / "folded.pt")
    weight = encoder_tensors(torch.load(tmp_path / "folded.pt", weights_only=True)["model"])
    assert (weight["encoder.layers.0.fc2.weight"].reshape(-1, 4).count_nonzero(1) <= 1).all()


def test_given_masks_have_the_pattern_of_the_policy(lab: Lab, tmp_path: Path) -> None:
    settings = (*BASE, "model.policy=n_m", "model.prune_biases=false", "optimization.max_update=9")
    build(lab.compose(*settings, f"model.mask_file={_masks(lab, tmp_path, 'n_m')}"))
    other = f"model.mask_file={_masks(lab, tmp_path, 'random')}"
    message = refusal(build, lab.compose(*settings, other))
    assert "does not keep 2 of every 4 weights of encoder.layers.0." in message


def _masks(lab: Lab, folder: Path, policy: str) -> Path:
    flags = (*BASE, f"model.policy={policy}", "model.prune_biases=false")
    model = build(lab.compose(*flags, "optimization.max_update=9"))
    model.mask_controller.set_num_updates(0)
    path = folder / f"{policy}.safetensors"
    model.mask_controller.mask_set().save(path)
    return path


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        ({"policy": "random"}, "random"),
        ({"policy": "random", "train_weights": True}, "random"),
        ({"policy": "snip", "train_weights": False}, "snip, weights frozen"),
        ({"policy": "n_m", "policy_options": {"n": 1, "m": 4}}, "n_m, m=4, n=1"),
        (
            {"policy": "s3router", "policy_options": {"sigmoid": True}, "train_weights": True},
            "s3router, sigmoid=True, weights trained",
        ),
    ],
)
def test_reports_tell_settings_of_a_policy_apart(settings: dict[str, Any], label: str) -> None:
    """Runs of equal labels count as one method with several seeds."""
    assert declared(POLICY).label_of({"_name": POLICY, **settings}) == label


def test_an_unset_flag_is_the_network_of_its_value() -> None:
    unset = {"policy": "s3router", "train_weights": None, "prune_biases": None}
    said = {"policy": "s3router", "train_weights": False, "prune_biases": False}
    assert declared(POLICY).network(unset) == declared(POLICY).network(said) == said


def test_scores_start_in_agreement_with_given_masks(lab: Lab, tmp_path: Path) -> None:
    path = _masks(lab, tmp_path, "random")
    settings = (*BASE, "model.policy=s3router", "model.prune_scope=tensor", "model.prune_every=1")
    settings += ("optimization.max_update=9",)
    model = build(lab.compose(*settings, f"model.mask_file={path}"))
    given = MaskSet.load(path)
    for site in model.mask_controller.sites:
        scores, mask = masked_weight(site).scores.abs(), given[site.name]
        assert scores[mask].min() > scores[~mask].max(), site.name


def test_masks_without_scores_are_refused(lab: Lab, tmp_path: Path) -> None:
    """By a policy that ranks by scores: it would choose other masks."""
    flags = (*BASE, "model.policy=random", "model.prune_biases=false", "optimization.max_update=9")
    state = build(lab.compose(*flags)).state_dict()
    routers = build(lab.compose(*BASE, "model.policy=s3router", "optimization.max_update=9"))
    message = refusal(routers.load_state_dict, state)
    assert "masks but no scores, by which model.policy=s3router chooses them" in message
    routers.load_state_dict(build(lab.compose("model._name=wav2vec_ctc_pruned")).state_dict())


def test_s3_router_is_a_policy_like_others(lab: Lab) -> None:
    """With its own settings it is `wav2vec_ctc_st`, update by update."""
    shared = ("model.trainable_proj=true", "model.fix_attn=true")
    ours = lab.train(
        "as-policy",
        *(f"model._name={POLICY}", "model.policy=s3router", *shared),
        "model.policy_options={init_score:weight_rank}",
        *("model.sparsity=0.1", "model.prune_every=1", "model.prune_scope=tensor"),
        updates=3,
    ).succeeded()
    theirs = lab.train("as-st", "model.init_score=weight_rank", *shared, updates=3).succeeded()
    assert difference(ours.model(), theirs.model()) == []


def test_frozen_runs_are_loaded_labelled_and_compared(lab: Lab) -> None:
    from speechprune.reports.runs import read_run

    settings = (*BASE, "model.policy=random", "model.train_weights=false")
    run = lab.train("frozen", *settings).succeeded()
    assert load_finetuned(run.path()).density == pytest.approx(0.5, abs=1e-3)
    assert not any("regrown" in key for key in run.model())
    found = read_run(run.folder)
    assert (found.label, found.sparsity) == ("random, weights frozen", 0.5)
    assert not found.is_dense_control


@pytest.mark.parametrize(
    "settings, message",
    [
        (("model.policy=rndom",), "unknown mask policy 'rndom'; did you mean 'random'?"),
        (
            ("model.policy=n_m", "model.policy_options={k:2}"),
            "unknown option of mask policy 'n_m' 'k'; known: m, n",
        ),
        (
            ("model.policy=n_m", "model.policy_options={n:two}"),
            "option 'n' of mask policy 'n_m' must be a whole number, not 'two'",
        ),
        (
            ("model.policy=n_m", "model.policy_options={n:4}"),
            "cannot keep n=4 of every m=4 weights",
        ),
        (
            ("model.policy=n_m", "model.policy_options={n:1}"),
            "keeps 1 of every 4 weights from the first update on; set model.sparsity=0.75",
        ),
        (
            ("model.policy=n_m", "model.policy_options={n:1,m:2}", "model.start_sparsity=0.1"),
            "leave out model.start_sparsity",
        ),
        (
            ("model.policy=parp", "model.train_weights=false"),
            "model.policy=parp follows the weights as they are trained, but model.train_weights",
        ),
        (("model.policy=snip", "model.start_sparsity=0.1"), "set model.start_sparsity=0"),
        (
            ("model.policy=s3router", "model.policy_options={granularity:rows}"),
            "'granularity' of mask policy 's3router' must be weight or row or column, not 'rows'",
        ),
    ],
)
def test_bad_settings_are_refused(settings: tuple[str, ...], message: str, lab: Lab) -> None:
    settings = (*BASE, "optimization.max_update=100", *settings)
    with pytest.raises(UserError) as refused:
        build(lab.compose(*settings))
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_rows_that_do_not_divide_into_groups_are_refused(lab: Lab) -> None:
    settings = (
        *BASE,
        "model.policy=n_m",
        "model.policy_options={n:1,m:5}",
        "model.sparsity=0.8",
    )
    cfg = lab.compose(*settings)
    cfg.optimization.max_update = 100
    assert "has rows of 32 entries, which do not divide into groups of 5" in refusal(build, cfg)
