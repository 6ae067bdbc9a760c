"""`wav2vec_ctc_slim` in fairseq's loop, update by update, killed, and in several processes."""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from checkpoints import logits
from loop import Lab, Run
from mishaps import kill_after_update
from parp_by_hand import KEPT
from slim_by_hand import HandPlan
from slim_recording import L0, assert_follows, flags, record_steps
from states import assert_ends_equal, difference
from test_distributed import two_ranks
from test_parp_in_the_loop import PRECISIONS, without_device

from speechprune.backbones import find_backbone
from speechprune.checkpoint import read
from speechprune.checkpoint.slimming import slim_plan_in
from speechprune.models.loading import load_finetuned
from speechprune.models.sites import encoder_of_model
from speechprune.rewriting.encoder import export_encoder
from speechprune.rewriting.slimming import apply
from speechprune.slimming.criteria import CRITERIA
from speechprune.slimming.removable import kept_without, removable_units

PLAN = HandPlan({"heads": 0.5, "channels": 0.5}, begin=0, end=6, every=2)
UPDATES = 8
#: Of the nano model: parameters of a head and of a channel.
COSTS = {"heads": 8 * (3 * 33 + 32), "channels": 65}
#: Everything that draws random numbers is on, and each update has two micro-batches.
NOISY = (
    "optimization.update_freq=[2]",
    "model.layerdrop=0.3",
    "model.mask_prob=0.5",
    "model.mask_channel_prob=0.5",
)
OFTEN = (*KEPT, "dataset.validate_interval_updates=1")


class SlimLab(Lab):
    """A `Lab` whose runs can be recorded."""

    def recorded(
        self, name: str, plan: HandPlan, *overrides: str, updates: int = UPDATES
    ) -> tuple[Run, Path]:
        """A run that saved and validated at each update, and its record."""
        record = self.folder / f"{name}.steps"
        overrides = (*flags(plan), *OFTEN, *overrides)
        prepare = partial(record_steps, record)
        run = self.train(name, *overrides, updates=updates, prepare=prepare).succeeded()
        assert len(run.records("valid")) == updates
        return run, record


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> SlimLab:
    return SlimLab(tmp_path_factory.mktemp("slim-in-the-loop"))


@pytest.fixture(scope="module")
def noisy(lab: SlimLab) -> tuple[Run, Path]:
    return lab.recorded("noisy", PLAN, *NOISY)


@pytest.fixture(scope="module")
def gated(lab: SlimLab) -> Run:
    """A run with gates, saved and validated at each update."""
    return lab.train("gated", *L0, *NOISY, *OFTEN, updates=UPDATES).succeeded()


# --- beside the reference ------------------------------------------------------------------------


def test_every_update_is_that_of_the_definition(noisy: tuple[Run, Path]) -> None:
    """With two micro-batches, dropped layers and masked spans."""
    hand = assert_follows(*noisy, PLAN)
    assert [int(kept.sum()) for kept in hand.kept.values()] == [2, 2, 32, 32]
    logged = noisy[0].records("train_inner")
    assert [float(each["channels_removed"]) for each in logged] == pytest.approx(
        [0, 0, 0.3594, 0.3594, 0.4844, 0.4844, 0.5, 0.5], abs=1e-4
    )


@pytest.mark.parametrize("criterion", CRITERIA.names())
def test_every_criterion(lab: SlimLab, criterion: str) -> None:
    plan = replace(PLAN, criterion=criterion, scope="global", whole_layers=())
    assert_follows(*lab.recorded(criterion, plan), plan)


@pytest.fixture(scope="module", params=[name for name in PRECISIONS if name != "fp32"])
def half(lab: SlimLab, request: pytest.FixtureRequest) -> tuple[str, Run, Path]:
    settings = (*NOISY, *PRECISIONS[request.param])
    return request.param, *lab.recorded(request.param, PLAN, *settings)


def test_half_precision(half: tuple[str, Run, Path]) -> None:
    """Loss scales are taken off scores, and copies of weights are set to zero with them."""
    assert_follows(*half[1:], PLAN)


def test_half_precision_resumes(lab: SlimLab, half: tuple[str, Run, Path]) -> None:
    """At a choice: the optimizer's copies have the zeros that the weights have."""
    precision, whole, _ = half
    name = f"{precision}-again"
    (lab.folder / name / "checkpoints").mkdir(parents=True)
    (source,) = whole.path().parent.glob("checkpoint_*_4.pt")
    shutil.copy(source, lab.folder / name / "checkpoints" / "checkpoint_last.pt")
    settings = (*flags(PLAN), *NOISY, *PRECISIONS[precision])
    resumed = lab.train(name, *settings, updates=UPDATES, prepare=without_device).succeeded()
    assert resumed.records("train_inner")[0]["num_updates"] == "5"
    assert_ends_equal(resumed, whole, UPDATES)


def test_a_frozen_beginning(lab: SlimLab) -> None:
    """Slimming begins where the encoder begins to train."""
    plan = replace(PLAN, begin=2, end=6, every=2, criterion="snip")
    assert_follows(*lab.recorded("frozen", plan), plan)


def test_a_budget(lab: SlimLab) -> None:
    encoder = encoder_of_model(lab.build("model._name=wav2vec_ctc_pruned"))
    total = sum(parameter.numel() for parameter in encoder.parameters())
    costs = {(kind, layer): cost for kind, cost in COSTS.items() for layer in range(2)}
    plan = replace(PLAN, shares={}, keep=0.8, total=total, costs=costs, by_parameters=True)
    run, record = lab.recorded("budget", plan)
    hand = assert_follows(run, record, plan)
    left = hand.cost(hand.kept)
    gone = [costs[key] for key, kept in hand.kept.items() if not kept.all()]
    assert left <= 0.8 * total < left + min(gone)
    apply(run.path(), lab.folder / "budget.pt")
    small = encoder_of_model(load_finetuned(lab.folder / "budget.pt").model)
    assert sum(parameter.numel() for parameter in small.parameters()) == left


def test_whole_layers_lose_nothing(lab: SlimLab) -> None:
    plan = replace(PLAN, whole_layers=(0,), shape="exp")
    run, record = lab.recorded("whole-layers", plan, "model.layerdrop=0.5")
    hand = assert_follows(run, record, plan)
    assert set(hand.kept) == {("heads", 1), ("channels", 1)}


# --- resuming ------------------------------------------------------------------------------------


@pytest.mark.parametrize("saved", [3, 4], ids=["between choices", "at a choice"])
@pytest.mark.parametrize("kind", ["scores", "gates"])
def test_killed_and_resumed(
    lab: SlimLab, noisy: tuple[Run, Path], gated: Run, kind: str, saved: int
) -> None:
    """Never validated before it was killed, and still bit-equal to what was at each update."""
    settings, whole = (flags(PLAN), noisy[0]) if kind == "scores" else (L0, gated)
    settings = (*settings, *NOISY, f"checkpoint.save_interval_updates={saved}")
    settings += ("dataset.validate_interval_updates=0",)
    name = f"killed-{kind}-{saved}"
    prepare = partial(kill_after_update, saved + 1)
    killed = lab.train(name, *settings, updates=UPDATES, prepare=prepare)
    assert killed.exit_code == -signal.SIGKILL, killed.output[-3000:]
    assert killed.checkpoint()["optimizer_history"][-1]["num_updates"] == saved
    resumed = lab.train(name, *settings, updates=UPDATES).succeeded()
    assert resumed.records("train_inner")[0]["num_updates"] == str(saved + 1)
    assert_ends_equal(resumed, whole, UPDATES)


def test_two_ranks(lab: SlimLab) -> None:
    """Each drops layers of its own; both remove the same units."""
    settings = (*flags(replace(PLAN, end=2, every=1)), "model.layerdrop=0.3", "model.mask_prob=0.5")
    runs, (first, second) = two_ranks(lab, "ranks", *settings, *KEPT)
    assert difference(first["model"], second["model"]) == []
    assert difference(first["model"], runs[0].model()) == []
    assert removed_units(runs[0]) == [(2, 32), (2, 32)]


def test_two_ranks_with_gates(lab: SlimLab) -> None:
    settings = (*L0, "model.layerdrop=0.3", "model.prune_every=1")
    runs, (first, second) = two_ranks(lab, "gated-ranks", *settings)
    assert difference(first["model"], second["model"]) == []
    assert difference(first["model"], runs[0].model()) == []


def removed_units(run: Run) -> list[tuple[int, int]]:
    """How many heads and channels of each layer are removed: by what is saved of choices, which are
    just those that are zero."""
    state, found = run.model(), []
    for layer in range(2):
        prefix = f"w2v_encoder.w2v_model.encoder.layers.{layer}."
        heads = state[f"slim_controller.heads_kept_{layer}"] == 0
        channels = state[f"slim_controller.channels_kept_{layer}"] == 0
        entries = heads.repeat_interleave(8)
        for name in "qkv":
            weight = state[f"{prefix}self_attn.{name}_proj.weight"]
            assert torch.equal((weight == 0).all(1), entries)
        assert torch.equal((state[f"{prefix}self_attn.out_proj.weight"] == 0).all(0), entries)
        assert torch.equal((state[f"{prefix}fc2.weight"] == 0).all(0), channels)
        found.append((int(heads.sum()), int(channels.sum())))
    return found


# --- what comes out ------------------------------------------------------------------------------

SOURCES = ("wav2vec2", "xlsr", "data2vec", "hubert", "hubert_large")


def source(lab: Lab, name: str) -> tuple[str, ...]:
    path = getattr(lab, name)
    normalize = read(path)["cfg"]["task"]["normalize"]
    return f"model.w2v_path={path}", f"task.normalize={str(normalize).lower()}"


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_saved_can_be_cut(lab: SlimLab, name: str) -> None:
    """On each backbone: what validates, what is folded and what is cut make the same of audio."""
    plan = replace(PLAN, shares={"heads": 0.25, "channels": 0.4}, end=3, every=1)
    run = lab.train(f"cut-{name}", *flags(plan), *source(lab, name), updates=4).succeeded()
    assert removed_units(run) == [(1, 26), (1, 26)]
    assert float(run.records("train_inner")[-1]["channels_removed"]) == pytest.approx(
        26 / 64, abs=1e-4
    )
    assert_cut_alike(run, lab.folder / f"cut-{name}.pt", [(3, 38), (3, 38)])


@pytest.mark.parametrize("name", ("wav2vec2", "hubert"))
def test_what_gates_save_can_be_cut(lab: SlimLab, name: str) -> None:
    run = lab.train(f"gates-{name}", *L0, *source(lab, name), updates=4).succeeded()
    model = load_finetuned(run.path()).model
    expected = [
        (int(heads.sum()), int(channels.sum())) for heads, channels in model.slim_controller.kept()
    ]
    assert all(channels < 64 for _, channels in expected)
    assert_cut_alike(run, lab.folder / f"gates-{name}.pt", expected)


def assert_cut_alike(run: Run, out: Path, sizes: list[tuple[int, int]]) -> None:
    evaluated = logits(load_finetuned(run.path()).model)
    folded = load_finetuned(run.path()).model
    folded.fold()
    assert not any(key.startswith("slim_controller") for key in folded.state_dict())
    torch.testing.assert_close(logits(folded), evaluated, rtol=0, atol=1e-5)
    family, encoder = find_backbone(folded.backbone), folded.backbone
    units = family.units(encoder)
    kept = [kept_without(each, removable_units(each)) for each in units]
    assert [(len(each.heads), len(each.channels)) for each in kept] == sizes
    family.slim(encoder, kept)
    torch.testing.assert_close(logits(folded), evaluated, rtol=0, atol=1e-5)
    apply(run.path(), out)
    torch.testing.assert_close(logits(load_finetuned(out).model), evaluated, rtol=0, atol=1e-5)


def test_recomputing_activations_changes_nothing(
    lab: SlimLab, noisy: tuple[Run, Path], gated: Run
) -> None:
    """But for rounding, as gradients of gates are summed in another order then."""
    recompute = (*NOISY, "model.checkpoint_activations=true")
    run = lab.train("recompute", *flags(PLAN), *recompute, updates=UPDATES).succeeded()
    assert difference(run.model(), noisy[0].model()) == []
    run = lab.train("recompute-gates", *L0, *recompute, updates=UPDATES).succeeded()
    losses = [[r["loss"] for r in each.records("train_inner")] for each in (run, gated)]
    assert losses[0][:3] == losses[1][:3]
    for name, value in gated.model().items():
        torch.testing.assert_close(run.model()[name], value, rtol=0, atol=1e-3)


# --- beginnings ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dense(lab: SlimLab) -> Run:
    return lab.train(
        "dense", "model._name=wav2vec_ctc", "model.freeze_finetune_updates=0"
    ).succeeded()


SHORT = replace(PLAN, end=2, every=1)


def begun(lab: SlimLab, name: str, path: Path, *overrides: str, plan: HandPlan = SHORT) -> Run:
    """A run of slimming that begins from a finetuned checkpoint."""
    start = f"checkpoint.finetune_from_model={path}"
    return lab.train(name, *flags(plan), start, *overrides, updates=3)


def test_beginning_from_a_dense_model(lab: SlimLab, dense: Run) -> None:
    run = begun(lab, "from-dense", dense.path(), "optimization.lr=[0.0]").succeeded()
    before, after = dense.model(), run.model()
    name = "w2v_encoder.w2v_model.encoder.layers.1.fc1.weight"
    assert torch.equal(before[name], after[name])
    assert torch.equal(before["w2v_encoder.proj.weight"], after["w2v_encoder.proj.weight"])
    assert removed_units(run) == [(2, 32), (2, 32)]


@pytest.mark.parametrize("other", ["scores", "gates"])
def test_another_run_of_slimming_is_cut_first(
    lab: SlimLab, noisy: tuple[Run, Path], gated: Run, other: str
) -> None:
    """What it removed, and another choice does not, would be filled again."""
    start = gated if other == "gates" else noisy[0]
    refused = begun(lab, f"from-{other}", start.path())
    assert refused.exit_code == 1 and not refused.path().exists()
    assert (
        f"{start.path()} has removed heads and channels, which another choice would let grow "
        "again; cut them out first with `speechprune slim apply`" in refused.output
    )


def test_beginning_with_dropped_layers(lab: SlimLab) -> None:
    short = lab.train("short", "model._name=wav2vec_ctc_pruned", "model.drop_layers=[0]")
    run = begun(lab, "from-short", short.succeeded().path(), "model.drop_layers=[0]").succeeded()
    assert "slim_controller.channels_kept_1" not in run.model()
    assert int((run.model()["slim_controller.channels_kept_0"] == 0).sum()) == 32
    load_finetuned(run.path())


@pytest.mark.parametrize("settings", [flags(SHORT), L0], ids=["scores", "gates"])
def test_slimming_goes_on_with_what_was_cut(
    lab: SlimLab, noisy: tuple[Run, Path], settings: tuple[str, ...]
) -> None:
    """A share of what is left goes, and numbers of units stay those of the first model."""
    kind = "l0" if settings is L0 else "scores"
    small, encoder = lab.folder / f"small-{kind}.pt", lab.folder / f"small-encoder-{kind}.pt"
    apply(noisy[0].path(), small)
    export_encoder(small, encoder)
    run = lab.train(
        f"smaller-{kind}",
        *settings,
        f"model.w2v_path={encoder}",
        f"checkpoint.finetune_from_model={small}",
        *(("model.keep_parameters=0.8",) if settings is L0 else ()),
        updates=4,
    ).succeeded()
    apply(run.path(), lab.folder / f"smallest-{kind}.pt")
    first, last = (slim_plan_in(read(lab.folder / f"{n}-{kind}.pt")) for n in ("small", "smallest"))
    assert first is not None and last is not None
    for before, after in zip(first.kept, last.kept):
        assert set(after.channels) < set(before.channels)
        if kind == "scores":
            assert (len(after.heads), len(after.channels)) == (1, 16)
    expected = logits(load_finetuned(run.path()).model)
    found = logits(load_finetuned(lab.folder / f"smallest-{kind}.pt").model)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
