"""The five published command lines, run by the console script on nano models.

Beyond the lines as written there are only paths, what a CPU needs, and limits that make them quick.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from loop import NANO, ON_CPU, ROOT, USER_DIR, Lab, Run, run_script
from nano import LETTERS
from states import keep, masks, top
from test_configs import COMMANDS

ENCODER = "w2v_encoder.w2v_model."
FEED_FORWARD = ("fc1", "fc2")
ATTENTION = tuple(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out"))
SYMBOLS = 4 + 1 + len(LETTERS)  # fairseq's own four, "|" and the letters
UPDATES = 2
LEARNING_RATE = 0.00005


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return lab_of_commands(tmp_path_factory.mktemp("commands"))


def lab_of_commands(folder: Path) -> Lab:
    """A lab whose corpus has the subsets that the lines name."""
    lab = Lab(folder)
    for subset, names in (
        ("train", ("train-1h", "zh_TW-train")),
        ("valid", ("test-clean", "zh_TW-test")),
    ):
        for name in names:
            for suffix in ("tsv", "ltr", "wrd"):
                shutil.copy(lab.data / f"{subset}.{suffix}", lab.data / f"{name}.{suffix}")
    return lab


def run(
    lab: Lab, command: str, w2v_path: Path, *more: str, updates: int = UPDATES, name: str = ""
) -> Run:
    config, overrides = COMMANDS[command]
    folder, config_name = config.split("/")
    name = name or command
    arguments = [
        *overrides,
        f"hydra.run.dir={lab.folder / name}",
        f"task.data={lab.data}",
        f"model.w2v_path={w2v_path}",
        f"common.user_dir={USER_DIR}",
        "distributed_training.distributed_init_method=null",
        f"optimization.max_update={updates}",
        *ON_CPU,
        *NANO,
        *more,
        f"--config-dir={ROOT / 'config' / folder}",
        f"--config-name={config_name}",
    ]
    return run_script(lab.folder / name, arguments)


@pytest.fixture(scope="module")
def base(lab: Lab) -> Run:
    return run(lab, "base", lab.wav2vec2)


@pytest.fixture(scope="module")
def data2vec(lab: Lab) -> Run:
    return run(lab, "data2vec", lab.data2vec)


@pytest.fixture(scope="module")
def xlsr(lab: Lab) -> Run:
    return run(lab, "xlsr", lab.xlsr)


@pytest.fixture(scope="module")
def weights(lab: Lab) -> Run:
    return run(lab, "weights", lab.wav2vec2, updates=6)


@pytest.fixture(scope="module")
def prune(lab: Lab, weights: Run) -> Run:
    best = weights.path("best")
    return run(lab, "prune", lab.wav2vec2, f"checkpoint.finetune_from_model={best}")


def masked(parts: tuple[str, ...]) -> set[str]:
    return {f"{ENCODER}encoder.layers.{i}.{part}.weight" for i in range(2) for part in parts}


def assert_trains_and_validates(
    run: Run, updates: int = UPDATES, subset: str = "test-clean"
) -> None:
    run.succeeded()
    assert [record["num_updates"] for record in run.records("train_inner")] == [
        str(n + 1) for n in range(updates)
    ]
    (validated,) = run.records(subset)
    assert validated[f"{subset}_num_updates"] == str(updates)
    assert float(validated[f"{subset}_loss"]) > 0
    best = run.checkpoint("best")
    assert best["optimizer_history"][-1]["num_updates"] == updates
    assert best["model"]["w2v_encoder.proj.weight"].shape == (SYMBOLS, 32)


def assert_masked(run: Run, parts: tuple[str, ...], density: float) -> None:
    """The masks are on ``parts`` only, exact, and those of the saved scores."""
    model = run.model("best")
    found = masks(model)
    assert set(found) == masked(parts)
    for name, mask in found.items():
        kept = keep(mask.size, density)
        assert mask.sum() == kept, name
        assert (mask == top(model[name[: -len("weight")] + "scores"], kept)).all(), name


def trained_shapes(run: Run) -> list[tuple[int, ...]]:
    """Shapes of what the optimizer moved."""
    moments = run.checkpoint("best")["last_optimizer_state"]["state"].values()
    return sorted(tuple(m["exp_avg"].shape) for m in moments if m["exp_avg"].any())


FEED_FORWARD_SCORES = [(64, 32), (32, 64)] * 2
HEAD = [(SYMBOLS, 32), (SYMBOLS,)]
MASK_EMB = [(32,)]


def assert_frozen(run: Run, pretrained: Path) -> None:
    """Every pretrained tensor but mask_emb is in the checkpoint, bit for bit."""
    model = run.model("best")
    state = torch.load(pretrained, weights_only=True)["model"]
    encoder = {k: v for k, v in state.items() if ENCODER + k in model and k != "mask_emb"}
    assert {f"encoder.layers.1.{p}.weight" for p in FEED_FORWARD + ATTENTION} <= set(encoder)
    assert "encoder.pos_conv.0.bias" in encoder or "encoder.pos_conv.0.0.bias" in encoder
    for key, tensor in encoder.items():
        assert torch.equal(model[ENCODER + key], tensor), key


def test_masks_on_wav2vec2(base: Run, lab: Lab) -> None:
    assert_trains_and_validates(base)
    assert_masked(base, FEED_FORWARD, 0.9)
    assert_frozen(base, lab.wav2vec2)
    assert trained_shapes(base) == sorted(FEED_FORWARD_SCORES + HEAD + MASK_EMB)


def test_first_masks_are_magnitude_masks(base: Run) -> None:
    """init_score=weight_rank: two updates at the written rate flip next to nothing of it."""
    model = base.succeeded().model("best")
    for name, mask in masks(model).items():
        magnitude = top(model[name], keep(mask.size, 0.9))
        assert (mask != magnitude).mean() < 0.01, name
    assert float(base.records("train_inner")[0]["flipped"]) == 0


def test_masks_on_data2vec(data2vec: Run, lab: Lab) -> None:
    assert_trains_and_validates(data2vec)
    assert_masked(data2vec, FEED_FORWARD, 0.9)
    assert_frozen(data2vec, lab.data2vec)
    assert trained_shapes(data2vec) == sorted(FEED_FORWARD_SCORES + HEAD + MASK_EMB)
    cfg = data2vec.checkpoint("best")["cfg"]
    assert cfg["model"]["w2v_args"]["model"]["_name"] == "data2vec_audio"
    assert cfg["model"]["normalize"] and cfg["task"]["normalize"]


def test_scores_start_uniform_unless_told_otherwise(data2vec: Run) -> None:
    model = data2vec.succeeded().model("best")
    for name in masks(model):
        scores = model[name[: -len("weight")] + "scores"]
        bound = scores.shape[1] ** -0.5
        assert scores.abs().max() <= bound + 2 * UPDATES * LEARNING_RATE
        assert 0.2 < scores[0].std() / bound < 1.0
        correlation = torch.corrcoef(
            torch.stack([scores.abs().view(-1), model[name].abs().view(-1)])
        )
        assert abs(correlation[0, 1]) < 0.15


def test_masks_on_a_pre_norm_model_with_recomputation(xlsr: Run, lab: Lab) -> None:
    assert_trains_and_validates(xlsr, subset="zh_TW-test")
    assert_masked(xlsr, FEED_FORWARD, 0.94)
    assert_frozen(xlsr, lab.xlsr)
    assert trained_shapes(xlsr) == sorted(FEED_FORWARD_SCORES + HEAD + MASK_EMB)
    best = xlsr.checkpoint("best")
    assert best["cfg"]["model"]["w2v_args"]["model"]["layer_norm_first"]
    assert best["cfg"]["model"]["checkpoint_activations"]
    error_rate = float(xlsr.records("zh_TW-test")[-1]["zh_TW-test_uer"])
    assert best["extra_state"]["best"] == pytest.approx(error_rate, abs=1e-3)


def test_plain_weights(weights: Run, lab: Lab) -> None:
    assert_trains_and_validates(weights, updates=6)
    model = weights.model("best")
    assert not masks(model) and not any("scores" in key for key in model)
    pretrained = torch.load(lab.wav2vec2, weights_only=True)["model"]
    for name in masked(FEED_FORWARD + ATTENTION):
        assert not torch.equal(model[name], pretrained[name[len(ENCODER) :]]), name


def test_masks_on_finetuned_weights(prune: Run, weights: Run) -> None:
    assert_trains_and_validates(prune)
    assert_masked(prune, FEED_FORWARD + ATTENTION, 0.3)
    model, finetuned = prune.model("best"), weights.model("best")
    trained = {ENCODER + "mask_emb", "w2v_encoder.proj.weight", "w2v_encoder.proj.bias"}
    for key in set(finetuned) - trained:
        assert torch.equal(model[key], finetuned[key]), key
    assert_head_continues(model, finetuned)


def assert_head_continues(model: dict, finetuned: dict) -> None:
    step = model["w2v_encoder.proj.weight"] - finetuned["w2v_encoder.proj.weight"]
    assert 0 < step.abs().max() <= 1.1 * UPDATES * LEARNING_RATE


def test_scores_start_from_the_finetuned_weights(prune: Run, weights: Run, lab: Lab) -> None:
    model, finetuned = prune.succeeded().model("best"), weights.model("best")
    pretrained = torch.load(lab.wav2vec2, weights_only=True)["model"]
    bound = 1.1 * UPDATES * LEARNING_RATE
    for name in masked(FEED_FORWARD + ATTENTION):
        scores = model[name[: -len("weight")] + "scores"]
        assert (scores - finetuned[name]).abs().max() <= bound, name
        assert (scores - pretrained[name[len(ENCODER) :]]).abs().max() > bound, name
