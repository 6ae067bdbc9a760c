"""Files that the first version wrote, before its rooms were rearranged, still do what they did.

The folder holds checkpoints of real runs of three updates on a nano model of 8 channels, what was
made of them (folded, without a layer, the encoder alone, the masks), and the logits and densities
that the version which wrote them computed. It let padding into the normalisation of the second
utterance, so the first is compared.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import logits
from loop import Lab

import speechprune.plugin  # noqa: F401  (its classes are safe to load)
from speechprune.masking.mask_set import MaskSet
from speechprune.models.declaration import declared
from speechprune.models.loading import load_encoder, load_finetuned
from speechprune.models.mask_reading import read_checkpoint_masks
from speechprune.rewriting.averaging import average
from speechprune.rewriting.folding import fold
from speechprune.rewriting.layer_dropping import drop_layers
from speechprune.rewriting.masks import apply_masks

FILES = Path(__file__).parent / "files_of_0_1_0"
EXPECTED: dict[str, dict[str, Any]] = torch.load(FILES / "expected.pt", weights_only=True)
#: Networks that trained on, with what a run that goes on has to be told anew.
RUNS = {
    "st": ("model.prune_rate=0.7", "model.init_score=weight_rank"),
    "rows": ("model.prune_rate=0.7", "model.linear_st_op=linear_st_outstr"),
    "positions": (
        *("model.prune_rate=0.7", "model.init_score=weight_rank", "model.no_prune_pos=false"),
    ),
    "parp": (
        *("model._name=wav2vec_ctc_parp", "model.sparsity=0.5", "model.prune_every=2"),
        "model.fix_attn=false",
    ),
    "movement": (
        *("model._name=wav2vec_ctc_parp", "model.policy=movement", "model.sparsity=0.5"),
        *("model.sparsity_end=2", "model.prune_every=1"),
    ),
    "masked": ("model._name=wav2vec_ctc_masked", "model.fix_attn=false"),
}
SMALL = ("model.mask_channel_length=2", "model.mask_channel_prob=0.5")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("old"))


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_they_load_and_compute_the_same(name: str) -> None:
    loaded = load_finetuned(FILES / f"{name}.pt")
    torch.testing.assert_close(logits(loaded.model)[:, 0], EXPECTED[name]["logits"][:, 0])
    assert loaded.density == EXPECTED[name]["density"]


def test_their_masks_are_those_of_the_mask_file() -> None:
    masks = MaskSet.load(FILES / "masks.safetensors")
    for name in ("parp", "masked"):
        assert read_checkpoint_masks(FILES / f"{name}.pt") == masks


def test_the_encoder_is_an_encoder() -> None:
    assert not any(p.requires_grad for p in load_encoder(FILES / "encoder.pt").parameters())


def test_masks_before_weight_norm_are_put_on_again(tmp_path: Path) -> None:
    """Masks of the direction, as that version chose them, are the same network elsewhere too."""
    old = FILES / "positions.pt"
    masks = read_checkpoint_masks(old)
    assert "encoder.pos_conv.0.weight_v" in masks
    fold(old, tmp_path / "folded.pt")
    apply_masks(old, masks, tmp_path / "again.pt")
    assert read_checkpoint_masks(tmp_path / "again.pt") == masks
    for name in ("folded", "again"):
        found = logits(load_finetuned(tmp_path / f"{name}.pt").model)
        torch.testing.assert_close(found[:, 0], EXPECTED["positions"]["logits"][:, 0])


def test_they_are_rewritten(tmp_path: Path) -> None:
    fold(FILES / "parp.pt", tmp_path / "folded.pt")
    folded = load_finetuned(tmp_path / "folded.pt")
    torch.testing.assert_close(logits(folded.model)[:, 0], EXPECTED["parp"]["logits"][:, 0])
    drop_layers(FILES / "parp.pt", [1], tmp_path / "short.pt")
    short = load_finetuned(tmp_path / "short.pt")
    torch.testing.assert_close(logits(short.model)[:, 0], EXPECTED["short"]["logits"][:, 0])
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(FILES / "st.pt", tmp_path / "checkpoints")
    assert average(tmp_path, by="last").averaged[0].updates == 3


@pytest.mark.parametrize("name", sorted(RUNS))
def test_their_runs_go_on(name: str, lab: Lab) -> None:
    """As the same network, whose masks stay as dense as they were."""
    folder = lab.folder / name / "checkpoints"
    folder.mkdir(parents=True)
    old = FILES / f"{name}.pt"
    shutil.copy(old, folder / "checkpoint_last.pt")
    run = lab.train(
        name, f"model.w2v_path={FILES / 'encoder.pt'}", *SMALL, *RUNS[name], updates=5
    ).succeeded()
    assert run.checkpoint()["optimizer_history"][-1]["num_updates"] == 5
    before, after = (torch.load(p, weights_only=True)["cfg"]["model"] for p in (old, run.path()))
    networks = [declared(model["_name"]).network(model) for model in (before, after)]
    assert networks[0] == {flag: networks[1][flag] for flag in networks[0]}
    density = load_finetuned(run.path()).density
    assert density == pytest.approx(EXPECTED[name]["density"], abs=1e-6)
