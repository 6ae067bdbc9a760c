"""GateController: gates on a model, the share that they remove, folding and resuming."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from slim_toy import EVEN, HEAD_SIZE, WIDTH, SlimToy, slim_toy_batch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from speechprune.errors import UserError
from speechprune.slimming.gate_controller import GateController
from speechprune.slimming.gates import HardConcrete

UNEVEN = ((4, 20), (1, 9), (3, 5))
TARGET = 0.5


def gated(
    shape: tuple[tuple[int, int], ...] = EVEN,
    target: float = TARGET,
    reentrant: bool | None = None,
    **options: Any,
) -> SlimToy:
    """A toy with gates, as `controller` of it."""
    model = SlimToy(shape, reentrant=reentrant)
    model.controller = GateController(model, model.units(), target, model.size(), **options)
    return model


def gates_of(model: SlimToy) -> list[HardConcrete]:
    return [gate for gate in model.modules() if isinstance(gate, HardConcrete)]


def spread(model: SlimToy, seed: int = 0) -> SlimToy:
    """Give the gates a log_alpha far enough apart that some units go and some stay."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for gate in gates_of(model):
            log_alpha = torch.empty(gate.units).normal_(-1.0, 2.0, generator=generator)
            gate.scaled_log_alpha.copy_(log_alpha / gate.rate)
    return model


def train(
    model: SlimToy, optimizer: torch.optim.Optimizer, updates: range, teacher: SlimToy
) -> None:
    """Distil, with the generator seeded by update as fairseq has it."""
    model.train()
    for update in updates:
        torch.manual_seed(1000 + update)
        model.controller.set_num_updates(update)
        batch = slim_toy_batch(update)
        loss = (model(batch) - teacher(batch).detach()).square().mean()
        optimizer.zero_grad()
        (loss + model.controller.penalty()).backward()
        optimizer.step()


def cut_size(kept: list[tuple[Tensor, Tensor]]) -> int:
    """Parameters of the layers without the units that go, counted row by row."""
    size = 0
    for heads, channels in kept:
        h, f = int(heads.sum()), int(channels.sum())
        inner = h * HEAD_SIZE
        size += 3 * (WIDTH + 1) * inner + WIDTH * inner + WIDTH
        size += (WIDTH + 1) * f + WIDTH * f + WIDTH
    return size


def test_training_reaches_the_target_share() -> None:
    teacher = SlimToy()
    model = gated(warmup=100)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    train(model, optimizer, range(600), teacher)
    stats = model.controller.stats()
    assert stats["target"] == TARGET
    assert stats["share_removed"] == pytest.approx(TARGET, abs=0.01)
    assert stats["lambda2"] > 0.0
    model.eval()
    removed = 1 - cut_size(model.controller.kept()) / model.size()
    # Half a unit of each group is lost or won by rounding.
    assert removed == pytest.approx(TARGET, abs=0.06)


def test_expected_share_is_the_mean_share_of_drawn_gates() -> None:
    model = spread(gated(UNEVEN, 0.2))
    torch.manual_seed(0)
    shares = []
    for _ in range(3000):
        for gate in gates_of(model):
            gate.draw()
        open_units = [
            (heads() > 0, channels() > 0)
            for heads, channels in zip(model.controller.heads, model.controller.channels)
        ]
        shares.append(1 - cut_size(open_units) / model.size())
    found = torch.tensor(shares)
    expected = model.controller.stats()["share_removed"]
    assert abs(float(found.mean()) - expected) < 4 * float(found.std()) / 3000**0.5


def test_target_follows_the_update_and_a_second_call_changes_nothing() -> None:
    model = gated(warmup=10)
    for update, target in ((0, 0.0), (5, 0.25), (5, 0.25), (20, 0.5)):
        model.controller.set_num_updates(update)
        assert model.controller.stats()["target"] == target


def test_penalty_is_of_training_alone_and_reaches_all_gates() -> None:
    model = gated(warmup=0)
    with torch.no_grad():
        model.controller.lagrangian.scaled_multipliers.copy_(torch.tensor([-0.01, 0.02]))
    penalty = model.controller.penalty()
    stats = model.controller.stats()
    excess = stats["share_removed"] - TARGET
    assert penalty.dtype == torch.float32
    assert penalty.item() == pytest.approx(-1.0 * excess + 2.0 * excess**2, rel=1e-5)
    penalty.backward()
    assert all(gate.scaled_log_alpha.grad.abs().min() > 0 for gate in gates_of(model))
    assert model.eval().controller.penalty() is None


def test_values_scale_heads_and_channels() -> None:
    """The gated toy against one whose next weights are multiplied by hand."""
    model = spread(gated(UNEVEN, 0.2)).train()
    torch.manual_seed(0)
    found = model(slim_toy_batch())
    by_hand = SlimToy(UNEVEN)
    with torch.no_grad():
        for layer, heads, channels in zip(
            by_hand.layers, model.controller.heads, model.controller.channels
        ):
            for head, value in enumerate(heads()):
                layer.out.weight[:, head * HEAD_SIZE : (head + 1) * HEAD_SIZE] *= value
            for channel, value in enumerate(channels()):
                layer.second.weight[:, channel] *= value
    assert torch.allclose(found, by_hand(slim_toy_batch()), atol=1e-6)


@pytest.mark.parametrize("kinds", [("heads",), ("channels",), ("heads", "channels")])
@pytest.mark.parametrize("shape", [EVEN, UNEVEN])
def test_folding_keeps_the_output_and_leaves_nothing(
    shape: tuple[tuple[int, int], ...], kinds: tuple[str, ...]
) -> None:
    model = spread(gated(shape, 0.05, kinds=kinds)).eval()
    before = model(slim_toy_batch())
    kept = model.controller.kept()
    values = {
        "heads": [gate().tolist() for gate in model.controller.heads],
        "channels": [gate().tolist() for gate in model.controller.channels],
    }
    folded = model.controller.fold()
    assert torch.allclose(model(slim_toy_batch()), before, atol=1e-6)
    plain = SlimToy(shape)
    assert list(model.state_dict()) == list(plain.state_dict())
    model.train()
    assert torch.allclose(model(slim_toy_batch()), before, atol=1e-6)
    assert model.controller.penalty() is None and model.controller.stats() == {}
    gone = 0
    for layer, (heads, channels), again in zip(model.layers, kept, folded):
        assert torch.equal(heads, again[0]) and torch.equal(channels, again[1])
        of_heads = layer.out.weight.unflatten(1, (-1, HEAD_SIZE)).abs().sum((0, 2))
        assert torch.equal(of_heads > 0, heads)
        assert torch.equal(layer.second.weight.abs().sum(0) > 0, channels)
        gone += int((~heads).sum() + (~channels).sum())
    assert gone > 0
    for kind, masks in (("heads", 0), ("channels", 1)):
        if kind in kinds:
            found = [[value > 0 for value in group] for group in values[kind]]
            assert found == [pair[masks].tolist() for pair in kept]
        else:
            assert values[kind] == [] and all(pair[masks].all() for pair in kept)


def test_each_layer_keeps_one_head_and_one_channel() -> None:
    model = gated(UNEVEN, 0.2)
    with torch.no_grad():
        for gate in gates_of(model):
            gate.scaled_log_alpha.fill_(-1.0)
    for heads, channels in model.controller.kept():
        assert heads.tolist() == [True] + [False] * (len(heads) - 1)
        assert channels.tolist() == [True] + [False] * (len(channels) - 1)


def test_masked_weights_are_not_folded_and_stay() -> None:
    model = spread(gated()).eval()
    parametrize.register_parametrization(model.layers[1].second, "weight", nn.Identity())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError, match="fold the masks first"):
        model.controller.fold()
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_gates_that_are_no_numbers_are_not_read() -> None:
    model = gated()
    with torch.no_grad():
        model.controller.channels[1].scaled_log_alpha[3] = torch.nan
    with pytest.raises(FloatingPointError, match="gates of channels"):
        model.controller.kept()


def test_a_forward_draws_once_and_evaluation_never() -> None:
    model = gated()
    torch.manual_seed(0)
    first = model(slim_toy_batch())
    second = model(slim_toy_batch())
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(model(slim_toy_batch()), first)
    model.eval()
    state = torch.get_rng_state()
    assert torch.equal(model(slim_toy_batch()), model(slim_toy_batch()))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_computes_the_same_gates_again(reentrant: bool) -> None:
    gradients = []
    for setting in (None, reentrant):
        model = gated(reentrant=setting)
        with torch.no_grad():
            for gate in gates_of(model):
                gate.scaled_log_alpha.zero_()
        torch.manual_seed(0)
        batch = slim_toy_batch().requires_grad_()
        (model(batch).square().mean() + model.controller.penalty()).backward()
        gradients.append({name: value.grad for name, value in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name
    assert all(gate.scaled_log_alpha.grad.any() for gate in gates_of(model))


def test_resuming_continues_to_the_bit(tmp_path: Path) -> None:
    teacher = SlimToy()
    straight = gated(warmup=8)
    optimizer = torch.optim.Adam(straight.parameters(), lr=1e-3)
    train(straight, optimizer, range(5), teacher)
    torch.save([straight.state_dict(), optimizer.state_dict()], tmp_path / "last.pt")
    train(straight, optimizer, range(5, 10), teacher)

    resumed = gated(warmup=8, seed=7)
    again = torch.optim.Adam(resumed.parameters(), lr=1e-3)
    model_state, optimizer_state = torch.load(tmp_path / "last.pt")
    resumed.load_state_dict(model_state)
    again.load_state_dict(optimizer_state)
    train(resumed, again, range(5, 10), teacher)
    for key, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    assert straight.controller.stats() == resumed.controller.stats()


def test_names_of_saved_tensors() -> None:
    def names(**options: Any) -> set[str]:
        return {key for key in gated(**options).state_dict() if key.startswith("controller.")}

    shared = "controller.lagrangian.scaled_multipliers"
    heads = {f"controller.heads.{layer}.scaled_log_alpha" for layer in (0, 1)}
    channels = {f"controller.channels.{layer}.scaled_log_alpha" for layer in (0, 1)}
    assert names() == {shared} | heads | channels
    assert names(kinds=["heads"], target=0.1) == {shared} | heads


def test_a_copy_has_gates_of_its_own() -> None:
    model = spread(gated())
    torch.manual_seed(0)
    model(slim_toy_batch()).sum().backward()
    twin = copy.deepcopy(model)
    model.eval()
    twin.eval()
    before = model(slim_toy_batch())
    assert torch.equal(twin(slim_toy_batch()), before)
    twin.controller.fold()
    assert torch.allclose(twin(slim_toy_batch()), before, atol=1e-6)
    assert torch.equal(model(slim_toy_batch()), before)
    model.controller.fold()
    assert torch.allclose(model(slim_toy_batch()), before, atol=1e-6)


@pytest.mark.parametrize("dtype,tolerance", [(torch.float16, 0.01), (torch.bfloat16, 0.08)])
def test_half_precision(dtype: torch.dtype, tolerance: float) -> None:
    model = spread(gated(warmup=0)).to(dtype)
    batch = slim_toy_batch(dtype=dtype)
    found = model(batch)
    penalty = model.controller.penalty()
    assert found.dtype == dtype and penalty.dtype == torch.float32
    (found.float().square().mean() + penalty).backward()
    assert all(gate.scaled_log_alpha.grad.isfinite().all() for gate in gates_of(model))
    model.eval()
    before = model(batch)
    kept = model.controller.fold()
    assert torch.allclose(model(batch).float(), before.float(), atol=tolerance)
    for layer, (_, channels) in zip(model.layers, kept):
        assert not layer.second.weight[:, ~channels].any()


def test_costs_can_be_other_than_parameters() -> None:
    """Costs of one head and nothing else: the share is that of the heads."""
    costs = {
        (kind, layer): cost
        for kind, cost in (("heads", 10.0), ("channels", 0.0))
        for layer in range(2)
    }
    model = spread(gated(costs=costs, target=0.01))
    total = model.size()
    expected = sum(10.0 * float(4 - gate.expected()) / total for gate in model.controller.heads)
    assert model.controller.stats()["share_removed"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"target": 0.99}, r"at most 0\.\d+ of the model"),
        ({"target": 0.5, "kinds": ["heads"]}, "at most"),
        ({"target": 1.0}, "share to remove"),
        ({"kinds": ["head"]}, "'head'"),
        ({"kinds": []}, "nothing to put gates on"),
        ({"shape": ()}, "nothing to put gates on"),
        ({"warmup": -1}, "updates, not -1"),
        ({"rate": 0.0}, "rate"),
    ],
)
def test_impossible_settings_are_refused_and_leave_no_hook(
    options: dict[str, Any], message: str
) -> None:
    settings = {"shape": EVEN, "target": 0.5, **options}
    model = SlimToy(settings.pop("shape"))
    target = settings.pop("target")
    with pytest.raises(UserError, match=message) as refused:
        GateController(model, model.units(), target, max(model.size(), 1), **settings)
    assert "\n" not in str(refused.value)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.cuda
def test_a_checkpoint_loads_on_another_device() -> None:
    model = spread(gated()).eval()
    there = gated(seed=5).cuda().eval()
    there.load_state_dict(model.state_dict())
    expected = model(slim_toy_batch())
    assert torch.allclose(there(slim_toy_batch().cuda()).cpu(), expected, atol=1e-5)
    assert all(
        torch.equal(ours, theirs.cpu())
        for one, other in zip(model.controller.kept(), there.controller.kept())
        for ours, theirs in zip(one, other)
    )
    there.train()
    torch.manual_seed(0)
    assert there(slim_toy_batch().cuda()).isfinite().all()
    assert there.controller.penalty().device.type == "cuda"
