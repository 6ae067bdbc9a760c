"""S3-Router's own checkpoints are the networks that they are there, whatever their flags."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import logits, refusal, rewrite
from nano import write_corpus, write_finetuned, write_wav2vec2
from s3router_files import ENCODER, S3RouterFile

from speechprune.models.loading import load_finetuned
from speechprune.models.mask_reading import read_checkpoint_masks
from speechprune.rewriting.folding import fold
from speechprune.state_names import key_of

#: Every flag with another value than its default, and combinations that mean more than their parts.
FLAGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "its recipes": {
        "prune_rate": 0.9,
        "fix_attn": True,
        "no_prune_post_extract_proj": True,
        "trainable_proj": True,
        "init_score": "weight_rank",
    },
    "prune_rate": {"prune_rate": 0.3},
    "everything kept": {"prune_rate": 1},
    **{flag: {flag: False} for flag in ("no_prune_proj", "no_prune_extractor", "no_prune_pos")},
    **{
        flag: {flag: True}
        for flag in (
            *("no_prune_post_extract_proj", "trainable_bias", "trainable_layer_norm"),
            *("trainable_if_unpruned", "trainable_pos", "trainable_proj"),
            *("trainable_post_extract_proj", "fix_attn", "fix_fc", "co_train", "ste_sigmoid"),
            *("fix_mask", "load_mask_only", "eval_only"),
        )
    },
    "init_score": {"init_score": "weight_magnitude_with_scale", "init_score_scale": 100},
    "layerwise": {"layerwise_prune_rate": [0.4, 0.8]},
    "layerwise, all unmasked": {
        "layerwise_prune_rate": [0.4, 0.8],
        **{"no_prune_proj": False, "no_prune_pos": False, "prune_rate": 0.1},
    },
    "layerwise over fix_attn": {"layerwise_prune_rate": [0.4, 0.8], "fix_attn": True},
    "pair": {"fc_attn_prune_rate": [0.4, 0.8], "no_prune_post_extract_proj": True},
    "pair over fix_fc": {
        **{"fc_attn_prune_rate": [0.4, 0.8], "fix_fc": True},
        "no_prune_post_extract_proj": True,
    },
    "fix_attn over fix_fc": {"fix_attn": True, "fix_fc": True},
    "rows": {"linear_st_op": "linear_st_outstr"},
    "columns": {"linear_st_op": "linear_st_instr"},
    "rows everywhere": {
        "linear_st_op": "linear_st_outstr",
        **{"no_prune_proj": False, "no_prune_pos": False, "no_prune_extractor": False},
    },
    "fix_mask_before": {"fix_mask_before": 1},
    "load_mask_before": {"load_mask_before": 1, "load_mask_only": True},
    "both fixed": {"fix_mask_before": 1, "fix_mask": True},
    "frozen head": {"freeze_finetune_updates": 10},
    "of its YAMLs": {
        **{"ft_fc_only": False, "ft_attn_only": False, "use_adapter": False},
        "adapter_type": "asr",
    },
    "trained in part": {"ft_fc_only": True},
}


class Files:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pretrained = write_wav2vec2(folder / "pretrained.pt")
        self.data = write_corpus(folder / "data", train=1, valid=1)

    def write(self, **flags: Any) -> tuple[S3RouterFile, Path]:
        path = self.folder / "theirs.pt"
        return S3RouterFile(path, self.pretrained, self.data, **flags), path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("s3router"))


@pytest.mark.parametrize("name", FLAGS)
def test_masks_and_logits_are_theirs(files: Files, name: str) -> None:
    theirs, path = files.write(**FLAGS[name])
    loaded = load_finetuned(path)
    assert torch.equal(logits(loaded.model), logits(theirs.network(loaded.task)))
    masks = {key_of(name): mask for name, mask in loaded.model.mask_controller.mask_set().items()}
    assert masks.keys() == theirs.masks.keys()
    assert all(torch.equal(mask, theirs.masks[key]) for key, mask in masks.items())


def test_they_fold(files: Files, tmp_path: Path) -> None:
    """Weights under weight norm as well, one of whose norms is zero."""
    theirs, path = files.write(no_prune_pos=False, no_prune_proj=False, prune_rate=0.4)
    rewrite(path, lambda s: s["model"][f"{ENCODER}encoder.pos_conv.0.scores"][:, :, 3].zero_())
    loaded = load_finetuned(path)
    assert read_checkpoint_masks(path) == loaded.model.mask_controller.mask_set()
    expected = logits(loaded.model)
    fold(path, tmp_path / "folded.pt")
    folded = torch.load(tmp_path / "folded.pt", weights_only=True)["model"]
    assert not folded[f"{ENCODER}encoder.pos_conv.0.weight_g"][0, 0, 3]
    assert torch.equal(logits(load_finetuned(tmp_path / "folded.pt").model), expected)
    assert expected.isfinite().all()


def test_rates_of_convolutions_are_refused(files: Files) -> None:
    _, path = files.write(layerwise_prune_rate=[0.4] * 12, no_prune_extractor=False)
    told = refusal(load_finetuned, path)
    assert str(path) in told and "no_prune_extractor=false" in told


def test_adapters_are_refused(files: Files) -> None:
    _, path = files.write(use_adapter=True)
    assert "model.use_adapter=true" in refusal(load_finetuned, path)


@pytest.mark.parametrize("site", ["encoder.layers.1.fc2", "encoder.pos_conv.0", "proj"])
def test_a_mask_that_is_missing_is_not_made_up(files: Files, site: str) -> None:
    _, path = files.write(no_prune_pos=False, no_prune_proj=False)
    owner = f"w2v_encoder.{site}" if site == "proj" else f"{ENCODER}{site}"
    rewrite(path, lambda state: state["model"].pop(f"{owner}.scores"))
    for use in (load_finetuned, read_checkpoint_masks):
        told = refusal(use, path)
        assert f"{site}.weight" in told and "neither" in told


def test_the_case_that_was_found(
    files: Files, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint of ours, rewritten as S3-Router would save it."""
    ours, theirs = tmp_path / "ours.pt", tmp_path / "theirs.pt"
    flags = {"_name": "wav2vec_ctc_st", "prune_rate": 0.6, "trainable_proj": True}
    write_finetuned(ours, files.pretrained, files.data, model=flags)
    monkeypatch.setattr(sys, "argv", ["", str(ours), str(theirs)])
    runpy.run_path(str(shared_data / "cases" / "s3router_config.py"))
    expected, found = (load_finetuned(path) for path in (ours, theirs))
    assert torch.equal(logits(found.model), logits(expected.model))
    assert found.density == expected.density
