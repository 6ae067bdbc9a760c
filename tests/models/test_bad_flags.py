"""Flags that cannot work are refused in one line that says what is wrong and where."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from loop import Lab
from omegaconf import OmegaConf

from speechprune.errors import UserError


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("bad-flags"))


BAD = {
    "model.prune_rate=0": "model.prune_rate",
    "model.prune_rate=1.2": "model.prune_rate",
    "model.prune_rate=-1": "model.prune_rate",
    "model.prune_rate=.nan": "model.prune_rate",
    "model.layerwise_prune_rate=[0.9]": "needs 2 values",
    "model.layerwise_prune_rate=[0.9,0.9,0.9]": "needs 2 values",
    "model.layerwise_prune_rate=[0.9,0]": "model.layerwise_prune_rate",
    "model.fc_attn_prune_rate=[0.5]": "needs 2 values",
    "model.fc_attn_prune_rate=[0.5,1.5]": "model.fc_attn_prune_rate",
    "model.init_score=weigth_rank": "'weight_rank'",
    "model.init_score=kaiming_unifrom": "'kaiming_uniform'",
    "model.init_score_scale=0": "model.init_score_scale",
    "model.linear_st_op=linear_st_rows": "model.linear_st_op",
    "model.linear_st_op=linear_st_heads": "'linear_st_head'",
    "model.fix_mask_before=3": "model.fix_mask_before",
    "model.fix_mask_before=-1": "model.fix_mask_before",
    "model.fix_fc=true": "fix_attn",
    "model.fix_mask=true model.fix_mask_before=1": "fix_mask_before",
    "model.fix_mask=true model.trainable_proj=false model.apply_mask=false": "leaves nothing",
    "model.freeze_finetune_updates=2 model.trainable_proj=false": "trainable_proj=true",
    "model.load_mask_before=1": "load_mask_only",
    "model.load_mask_only=true": "finetune_from_model",
    "task.normalize=true": "normalize",
}


@pytest.mark.parametrize("flags", BAD)
def test_bad_flags_are_refused_in_one_line(lab: Lab, flags: str) -> None:
    with pytest.raises(UserError) as refusal:
        lab.build(*flags.split(" "))
    message = str(refusal.value)
    assert BAD[flags] in message
    assert "\n" not in message


def test_a_finetuned_model_is_no_pretrained_one(lab: Lab, tmp_path: Path) -> None:
    """What is wrong, where, and what to do instead."""
    model = lab.build()
    path = tmp_path / "finetuned.pt"
    cfg = OmegaConf.to_container(lab.cfg, resolve=True, enum_to_str=True)
    cfg["model"]["w2v_args"] = torch.load(lab.wav2vec2, weights_only=True)["cfg"]
    torch.save({"args": None, "cfg": cfg, "model": model.state_dict()}, path)
    with pytest.raises(UserError, match="finetuned.*checkpoint.finetune_from_model") as refusal:
        lab.build(f"model.w2v_path={path}")
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_refused_run_fails_and_leaves_no_checkpoint(lab: Lab) -> None:
    run = lab.train("refused", "model.prune_rate=1.2")
    assert run.exit_code == 1
    assert "UserError: model.prune_rate is the share kept and must lie in (0, 1]" in run.output
    assert not list(run.folder.glob("**/*.pt"))
