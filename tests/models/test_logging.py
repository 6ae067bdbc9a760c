"""The log shows density and flipped connections beside the loss, and they are the real ones."""

from __future__ import annotations

import shutil

import pytest
from loop import Lab, Run
from states import masks

UPDATES = 4
KEPT = (
    "checkpoint.save_interval_updates=1",
    "checkpoint.keep_interval_updates=-1",
    "model.layerwise_prune_rate=[0.9,0.5]",
)
CRITERIONS = ("ctc", "masked_ctc")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("logging"))


@pytest.fixture(scope="module", params=CRITERIONS)
def run(lab: Lab, request: pytest.FixtureRequest) -> Run:
    """A run that keeps the checkpoint of each update."""
    criterion = f"criterion._name={request.param}"
    return lab.train(request.param, criterion, *KEPT, updates=UPDATES).succeeded()


def flips(run: Run, update: int) -> int:
    """Connections that differ between the checkpoints of an update and of the one before."""
    before, after = (
        masks(run.model("last" if n == UPDATES else f"1_{n}")) for n in (update - 1, update)
    )
    return sum(int((before[name] != after[name]).sum()) for name in before)


def test_flipped_connections_are_those_between_masks(run: Run) -> None:
    """The masks of an update are in the checkpoint of the one before; the first flip nothing."""
    logged = [float(record["flipped"]) for record in run.records("train_inner")]
    assert len(logged) == UPDATES
    assert logged[0] == 0
    assert logged[2:] == [flips(run, update) for update in range(2, UPDATES)]
    assert min(logged[1:]) > 0


def test_density_is_the_share_kept(run: Run) -> None:
    found = masks(run.model())
    kept, total = sum(m.sum() for m in found.values()), sum(m.size for m in found.values())
    logged = [float(record["density"]) for record in run.records("train_inner")]
    assert logged == pytest.approx([kept / total] * UPDATES, abs=1e-6)
    (epoch,) = run.records("train")
    assert float(epoch["train_density"]) == pytest.approx(kept / total, abs=1e-6)
    assert float(epoch["train_flipped"]) > 0


def test_a_resumed_run_logs_from_its_first_update(lab: Lab, run: Run) -> None:
    name = f"{run.folder.name}-resumed"
    checkpoints = lab.folder / name / "checkpoints"
    checkpoints.mkdir(parents=True)
    shutil.copy(run.path("1_2"), checkpoints / "checkpoint_last.pt")
    criterion = f"criterion._name={run.folder.name}"
    resumed = lab.train(name, criterion, *KEPT, updates=UPDATES).succeeded()
    for key in ("num_updates", "density", "loss"):
        logged, whole = ([r[key] for r in x.records("train_inner")] for x in (resumed, run))
        assert logged == whole[2:], key
    flipped, whole = (
        [record["flipped"] for record in x.records("train_inner")] for x in (resumed, run)
    )
    assert flipped[0] is not None and flipped[1:] == whole[3:]


def test_our_criterion_changes_neither_the_loss_nor_the_masks(lab: Lab) -> None:
    plain, ours = (lab.folder / name / "log-0" for name in CRITERIONS)
    runs = [Run(log.parent, 0, log.read_text()) for log in (plain, ours)]
    losses = [[r["loss"] for r in run.records("train_inner")] for run in runs]
    assert losses[0] == losses[1]
    first, second = (masks(run.model()) for run in runs)
    assert all((mask == second[name]).all() for name, mask in first.items())


def test_our_criterion_logs_its_penalty(lab: Lab) -> None:
    log = (lab.folder / "masked_ctc" / "log-0").read_text()
    run = Run(lab.folder / "masked_ctc", 0, log)
    assert {record["penalty"] for record in run.records("train_inner")} == {"0"}
    (validated, *_) = run.records("valid")
    assert validated["valid_penalty"] == "0" and "valid_density" in validated
