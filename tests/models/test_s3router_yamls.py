"""S3-Router's own YAMLs compose, with the keys that nothing here reads."""

from __future__ import annotations

import logging

import pytest
from loop import Lab, build, compose
from omegaconf import DictConfig
from omegaconf.errors import ConfigKeyError

from speechprune.errors import UserError
from speechprune.training.command_line import complete
from speechprune.training.launch import completed

#: Its base_1h.yaml, but for comments and blank lines.
BASE_1H = """# @package _group_
common: {fp16: true, log_format: json, log_interval: 200}
checkpoint: {save_interval: 10000, save_interval_updates: 1000, keep_interval_updates: 1,
  no_epoch_checkpoints: true, best_checkpoint_metric: wer}
task: {_name: audio_finetuning, data: "???", normalize: false, labels: ltr}
dataset: {num_workers: 6, max_tokens: 3200000, skip_invalid_size_inputs_valid_test: true,
  validate_after_updates: 0, validate_interval: 10000, validate_interval_updates: 1000,
  valid_subset: dev_other}
distributed_training: {ddp_backend: legacy_ddp, distributed_world_size: 2}
criterion: {_name: ctc, zero_infinity: true}
optimization: {max_update: 15000, lr: [0.00005], sentence_avg: true, update_freq: [4]}
optimizer: {_name: adam, adam_betas: "(0.9,0.98)", adam_eps: 1e-08, momentum: 0.9, weight_decay: 0}
lr_scheduler: {_name: tri_stage, phase_ratio: [0.1, 0.4, 0.5], final_lr_scale: 0.05,
  init_lr_scale: 0.01}
model:
  _name: wav2vec_ctc
  w2v_path: ???
  apply_mask: true
  mask_prob: 0.65
  mask_channel_prob: 0.25
  mask_channel_length: 64
  layerdrop: 0.1
  dropout: 0.1
  attention_dropout: 0.1
  activation_dropout: 0.1
  feature_grad_mult: 0.0
  freeze_finetune_updates: 0
  checkpoint_activations: false
  prune_rate: 0.9
  no_prune_proj: true
  no_prune_extractor: true
  no_prune_pos: true
  no_prune_post_extract_proj: true
  trainable_if_unpruned: false
  trainable_pos: false
  trainable_proj: false
  trainable_post_extract_proj: false
  trainable_bias: False
  trainable_layer_norm: false
  init_score: kaiming_uniform
  init_score_scale: 1
  fix_attn: false
  fix_fc: false
  layerwise_prune_rate: []
  fc_attn_prune_rate: []
  co_train: false
  ste_sigmoid: false
  ft_fc_only: false
  ft_attn_only: false
  no_pretrained_weights: false
  linear_st_op: 'linear_st'
  fix_mask: false
  fix_mask_before: 0
  load_mask_only: false
  load_mask_before: 0
  use_adapter: False
  adapter_type: 'asr'
  eval_only: false
"""
MASKS = (
    *("model._name=wav2vec_ctc_st", "model.prune_rate=0.7", "model.fix_attn=true"),
    *("model.trainable_proj=true", "model.init_score=weight_rank"),
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    lab = Lab(tmp_path_factory.mktemp("yamls"))
    (lab.folder / "base_1h.yaml").write_text(BASE_1H)
    return lab


def composed(lab: Lab, *overrides: str, name: str = "base_1h") -> DictConfig:
    files = (f"task.data={lab.data}", f"model.w2v_path={lab.wav2vec2}")
    return compose([*files, *overrides, f"--config-dir={lab.folder}", f"--config-name={name}"])


@pytest.mark.parametrize("overrides", [MASKS, ()], ids=["masks", "weights"])
def test_they_compose_and_the_model_is_built(
    lab: Lab, overrides: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        cfg = composed(lab, *overrides)
    (warning,) = [text for text in caplog.messages if "model." in text]
    for key in ("ft_fc_only", "ft_attn_only", "use_adapter", "adapter_type"):
        assert warning.count(f"model.{key}") == 1 and key not in cfg.model
    assert "optimizer.momentum" in caplog.text
    assert (cfg.model.dropout, cfg.model.fix_mask_before) == (0.1, 0)
    assert cfg.optimization.max_update == 15000
    caplog.clear()
    assert completed(cfg, lab.folder).model.load_mask_before == 0
    controller = getattr(build(cfg), "mask_controller", None)
    assert not [text for text in caplog.messages if "passing over" in text]
    assert (controller is None) == (not overrides)
    assert controller is None or len(controller.sites) == 4


def test_command_lines_accept_them(lab: Lab) -> None:
    where = [f"--config-dir={lab.folder}", "--config-name=base_1h"]
    line = complete(["task.data=/data", *MASKS, "model.use_adapter=false", *where])
    assert set(MASKS) < set(line.arguments)


@pytest.mark.parametrize("override", ["model.use_adapter=true", "model.ft_fc_only=true"])
def test_what_asks_for_something_else_is_refused(lab: Lab, override: str) -> None:
    with pytest.raises(UserError, match=override):
        composed(lab, *MASKS, override)


def test_a_misspelt_key_is_no_key_of_theirs(lab: Lab) -> None:
    (lab.folder / "misspelt.yaml").write_text(BASE_1H.replace("  co_train:", "  co_trian:"))
    with pytest.raises(ConfigKeyError, match="co_trian"):
        composed(lab, *MASKS, name="misspelt")


def test_0_is_unset(lab: Lab) -> None:
    """As S3-Router's YAMLs write it; a mask is loaded, and learns, in every layer."""
    flags = ("model.load_mask_before=0", "model.fix_mask_before=0")
    model = build(composed(lab, *MASKS, *flags))
    assert all(p.requires_grad for n, p in model.named_parameters() if n.endswith("scores"))
    start = f"checkpoint.finetune_from_model={lab.folder / 'gone.pt'}"
    model = build(composed(lab, *MASKS, *flags, "model.load_mask_only=true", start))
    state = model.state_dict()
    for key in [key for key in state if key.endswith(".scores")]:
        state[key] = state[key] + 1.0
    model.load_state_dict(state)
    after = model.state_dict()
    assert all((after[k] == v).all() for k, v in state.items() if k.endswith(".scores"))
