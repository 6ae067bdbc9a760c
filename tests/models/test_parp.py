"""fp32 training of `wav2vec_ctc_parp` by fairseq's trainer, against PARP written by hand."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from loop import Lab, Run, setup
from parp_by_hand import (
    KEPT,
    Parp,
    Plan,
    assert_every_step_is_parps,
    assert_pruned,
    checkpoint_at,
    prunable,
    regrown_weights,
    saved_masks,
)
from torch import Tensor, nn
from toy import MaskedToy, SignDescent, kept_of, train_update

from speechprune.masking.policies import POLICIES

UPDATES = 6
SEED = 1  # of the new CTC head
HEAD = ("w2v_encoder.proj.weight", "w2v_encoder.proj.bias")
DETERMINISTIC = (
    *(f"model.{name}=0.0" for name in ("dropout", "attention_dropout", "activation_dropout")),
    *("model.layerdrop=0.0", "model.mask_prob=0.0", "model.mask_channel_prob=0.0"),
    *("optimization.update_freq=[2]", f"optimization.max_update={UPDATES}"),
)
#: Settings, and whether biases are pruned.
EXPERIMENTS = {
    "always": (Plan(every=1), True),
    "now-and-then": (Plan(every=3, sparsity=0.7), False),
    "always-per-tensor": (Plan(every=1, sparsity=0.3, scope="tensor"), False),
    "now-and-then-per-tensor": (Plan(every=3, scope="tensor"), True),
    "head-first": (Plan(every=3, begin=1, sparsity=0.6), True),
    "progressive": (Plan(every=2, start=0.1, sparsity=0.6, end=4, shape="cubic"), True),
}
#: Runs of fairseq's own command: what is removed grows from 10 to 60 % between updates 2 and 8.
RUNS = {
    "constant": Plan(every=3),
    "linear": Plan(every=2, begin=2, start=0.1, sparsity=0.6, end=8, shape="linear"),
    "cubic": Plan(every=2, begin=2, start=0.1, sparsity=0.6, end=8, shape="cubic"),
}
LAST = 9


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("parp"))


@pytest.fixture(scope="module", params=RUNS)
def plan(request: pytest.FixtureRequest) -> Plan:
    return RUNS[request.param]


@pytest.fixture(scope="module")
def run(lab: Lab, plan: Plan) -> Run:
    """A real run that saves at every update."""
    return lab.train(f"{plan.shape}-{plan.every}", *plan.flags, *KEPT, updates=LAST).succeeded()


def start(lab: Lab, plan: Plan, biases: bool) -> tuple[Any, Any, Parp]:
    """fairseq's trainer on our model, its task, and the reference with the same head."""
    from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecCtc
    from fairseq.trainer import Trainer

    pruned = f"model.prune_biases={str(biases).lower()}"
    cfg, task = setup(lab.compose(*plan.flags, *DETERMINISTIC, pruned))
    task.load_dataset("train")
    torch.manual_seed(SEED)
    stock = Wav2VecCtc.build_model(copy.deepcopy(cfg.model), task)
    model = task.build_model(cfg.model)
    for name in HEAD:
        stock.get_parameter(name).data.copy_(model.get_parameter(name).data)
    trainer = Trainer(cfg, task, model, task.build_criterion(cfg.criterion))
    trainer.lr_step_begin_epoch(1)
    return trainer, task, Parp(stock.train(), prunable(biases), plan)


def micro_batches(task: Any, update: int) -> list[dict[str, Any]]:
    """Two batches of three utterances of different lengths, others at each update."""
    dataset = task.dataset("train")
    chosen = [(update + index * 5) % 12 for index in range(6)]
    return [dataset.collater([dataset[index] for index in chosen[i : i + 3]]) for i in (0, 3)]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_training_follows_the_reference(lab: Lab, name: str) -> None:
    plan, biases = EXPERIMENTS[name]
    trainer, task, reference = start(lab, plan, biases)
    changes, masks = 0, {}
    for update in range(UPDATES):
        batches = micro_batches(task, update)
        lr = trainer.lr_step_update()
        trainer.train_step(copy.deepcopy(batches))
        reference.update(batches, lr)

        before = masks
        masks = plan.choose(reference.trained_weights(), update + 1)
        state = trainer.model.state_dict()  # as it would be saved
        found, trained = saved_masks(state), regrown_weights(state)
        assert list(found) == reference.names
        for key, weight in reference.trained_weights().items():
            assert torch.equal(found[key], masks[key]), (update, key)
            assert_close(trained[key], weight, (update, key))
            assert_close(state[key], torch.where(masks[key], weight, 0.0), (update, key))
        for key in HEAD:
            assert_close(state[key], reference.parameter(key), (update, key))
        changes += sum(int((before[key] ^ mask).sum()) for key, mask in masks.items() if before)
    assert changes > 100
    assert all(trained[key][~mask].any() for key, mask in masks.items() if (~mask).any())


def assert_close(found: Tensor, expected: Tensor, where: Any) -> None:
    """Equal but for the rounding of fp32."""
    torch.testing.assert_close(
        found.detach(), expected.detach(), rtol=1e-5, atol=1e-6, msg=lambda text: f"{where}: {text}"
    )


def test_pruned_weights_are_zero_once_and_grow_again(lab: Lab) -> None:
    """What the layers read in training: zeros right after a choice, none after Adam's next step."""
    plan = Plan(every=3, sparsity=0.7)
    trainer, task, reference = start(lab, plan, biases=True)
    model, zeros = trainer.model, []
    read = partial(_count_zeros, zeros, model)
    model.w2v_encoder.w2v_model.encoder.layers[0].register_forward_pre_hook(read)
    for update in range(UPDATES):
        trainer.lr_step_update()
        trainer.train_step(micro_batches(task, update))
    entries = sum(weight.numel() for weight in reference.trained_weights().values())
    right_after = [plan.selects(update) for update in range(UPDATES) for micro_batch in range(2)]
    assert len(zeros) == len(right_after)
    for count, chosen in zip(zeros, right_after):
        if chosen:
            assert count == entries - kept_of(entries, 1 - plan.sparsity)
        else:
            assert count < 0.001 * entries


def _count_zeros(counts: list[int], model: nn.Module, *unused: Any) -> None:
    owners = [model.get_submodule(name.rpartition(".")[0]) for name in prunable(biases=False)]
    tensors = [tensor for owner in owners for tensor in (owner.weight, owner.bias)]
    counts.append(sum(int((tensor == 0).sum()) for tensor in tensors))


@pytest.mark.parametrize("begin, every", [(0, 1), (0, 4), (3, 2), (5, 3)])
def test_nothing_is_pruned_again_before_the_beginning(begin: int, every: int) -> None:
    """A toy's weights are not frozen at first, so pruning too early would show."""
    model = MaskedToy(POLICIES.build("parp"), 0.5, scope="global", every=every, begin=begin)
    optimizer = SignDescent(model)
    pruned = []
    for update in range(10):
        model.train()
        model.mask_controller.set_num_updates(update)
        weights = torch.cat([weight.flatten() for weight in model.originals().values()])
        if (weights == 0).float().mean() > 0.1:
            assert (weights == 0).sum() == weights.numel() - kept_of(weights.numel(), 0.5)
            pruned.append(update)
        optimizer.lr = 0.05 / (update + 1)  # steps of one length would lead back to zero
        train_update(model, optimizer, update)
    assert pruned == [0, *range(begin or every, 10, every)]


def test_a_real_run_prunes_when_it_should_and_else_trains_without_masks(
    lab: Lab, plan: Plan, run: Run
) -> None:
    assert_every_step_is_parps(run, lab, plan.flags, plan)


def test_the_frozen_encoder_stays_the_pruned_pretrained_one(lab: Lab, plan: Plan, run: Run) -> None:
    """Until the head alone has been trained for long enough, nothing is pruned or moves."""
    pretrained = torch.load(lab.wav2vec2, weights_only=True)["model"]
    prefix = "w2v_encoder.w2v_model."
    weights = {name: pretrained[name[len(prefix) :]] for name in prunable()}
    masks = plan.choose(weights, 0)
    for update in range(1, LAST + 1):
        trained = regrown_weights(checkpoint_at(run, update)["model"])
        same = {n: torch.equal(trained[n], torch.where(masks[n], weights[n], 0.0)) for n in weights}
        matrices = [same[name] for name in prunable(biases=False)]
        assert all(same.values()) if update <= plan.begin else not all(matrices), update
    assert not any(matrices)


def test_densities_are_those_of_the_schedule(plan: Plan, run: Run) -> None:
    """In each checkpoint, and in the log: exact, over all weights and biases."""
    found, logged = [], run.records("train_inner")
    for update in range(1, LAST + 1):
        masks = saved_masks(checkpoint_at(run, update)["model"])
        entries = sum(mask.numel() for mask in masks.values())
        found.append(sum(int(mask.sum()) for mask in masks.values()))
        assert found[-1] == entries - int((1 - plan.density(update)) * entries), update
        in_training = kept_of(entries, plan.density(update - 1)) / entries
        assert float(logged[update - 1]["density"]) == pytest.approx(in_training, abs=1e-6)
    assert len(set(found)) == (1 if plan.start is None else 4)
    assert found[-1] == entries - int(plan.sparsity * entries)


def test_the_schedules_differ() -> None:
    """Halfway the linear one has removed half of the way, the cubic one seven eighths."""
    halfway = {shape: 1 - RUNS[shape].density(5) for shape in ("linear", "cubic")}
    third = {shape: 1 - RUNS[shape].density(6) for shape in ("linear", "cubic")}
    assert halfway == pytest.approx({"linear": 0.1 + 0.5 / 3, "cubic": 0.6 - 0.5 * 8 / 27})
    assert third == pytest.approx({"linear": 0.1 + 1 / 3, "cubic": 0.6 - 0.5 / 27})


def test_the_last_checkpoint_is_sparse(plan: Plan, run: Run) -> None:
    model = run.model()
    assert_pruned(model, plan, LAST)
    masks = saved_masks(model)
    assert list(masks) == prunable()
    zeros = sum(int((model[name] == 0).sum()) for name in masks)
    entries = sum(mask.numel() for mask in masks.values())
    assert zeros == int(plan.sparsity * entries)
