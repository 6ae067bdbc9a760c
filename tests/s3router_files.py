"""Checkpoints as S3-Router's own code saves them, and the networks that they are there.

Flags, their defaults, the keys of tensors, the shapes of scores and what flags mean are written out
from its published code; nothing is shared with the package.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from nano import write_finetuned
from omegaconf import OmegaConf
from torch import Tensor, nn
from toy import kept_of, top

ENCODER = "w2v_encoder.w2v_model."
#: Settings of the model, less those that come from other groups.
DEFAULTS: dict[str, Any] = {
    "_name": "wav2vec_ctc_st",
    "w2v_path": "wav2vec_small.pt",
    "no_pretrained_weights": False,
    "dropout_input": 0.0,
    "final_dropout": 0.0,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "conv_feature_layers": "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]",
    "encoder_embed_dim": 768,
    "apply_mask": False,
    "mask_length": 10,
    "mask_prob": 0.5,
    "mask_selection": "static",
    "mask_other": 0.0,
    "no_mask_overlap": False,
    "mask_min_space": 1,
    "mask_channel_length": 10,
    "mask_channel_prob": 0.0,
    "mask_channel_selection": "static",
    "mask_channel_other": 0.0,
    "no_mask_channel_overlap": False,
    "freeze_finetune_updates": 0,
    "feature_grad_mult": 0.0,
    "layerdrop": 0.0,
    "mask_channel_min_space": 1,
    "mask_channel_before": False,
    "checkpoint_activations": False,
    "offload_activations": False,
    "min_params_to_wrap": 100000000,
    "ddp_backend": "legacy_ddp",
    "blank_weight": 0.0,
    "blank_mode": "add",
    "prune_rate": 0.5,
    "no_prune_proj": True,
    "no_prune_extractor": True,
    "no_prune_pos": True,
    "no_prune_post_extract_proj": False,
    "trainable_bias": False,
    "trainable_layer_norm": False,
    "trainable_if_unpruned": False,
    "trainable_pos": False,
    "trainable_proj": False,
    "trainable_post_extract_proj": False,
    "init_score": "kaiming",
    "init_score_scale": 1.0,
    "fix_attn": False,
    "fix_fc": False,
    "layerwise_prune_rate": [],  # its class says None, which its code cannot take
    "fc_attn_prune_rate": [],
    "co_train": False,
    "ste_sigmoid": False,
    "linear_st_op": "linear_st",
    "fix_mask": False,
    "fix_mask_before": 0,
    "load_mask_only": False,
    "load_mask_before": 0,
    "eval_only": False,
}
_ATTENTION = ("k_proj", "v_proj", "q_proj", "out_proj")
_FEED_FORWARD = ("fc1", "fc2")
_LINEAR = (*_ATTENTION, *_FEED_FORWARD, "post_extract_proj")


class S3RouterFile:
    """A checkpoint of S3-Router with these flags, at ``path``.

    Attributes:
        masks: by the key of the masked tensor in the state dict, as it would compute them.
    """

    def __init__(self, path: Path, pretrained: Path, data: Path, **flags: Any) -> None:
        write_finetuned(path, pretrained, data)
        state = torch.load(path, weights_only=True)
        saved = state["cfg"]["model"]
        inherited = {key: saved[key] for key in ("normalize", "data", "w2v_args")}
        self.flags = {**DEFAULTS, **inherited, **flags}
        self.cfg = OmegaConf.create(state["cfg"])
        self.weights: dict[str, Tensor] = state["model"]
        self.scores = self._scores()
        self.masks = {name: self._mask(name) for name in self.scores if self._rate(name)}
        state["cfg"]["model"] = self.flags
        named = {f"{name.rpartition('.')[0]}.scores": s for name, s in self.scores.items()}
        state["model"] = {**self.weights, **named}
        torch.save(state, path)

    def _scores(self) -> dict[str, Tensor]:
        """Scores of every tensor that has some there, whether they choose anything or not."""
        generator = torch.Generator().manual_seed(0)
        scores = {}
        for name, weight in self._effective_weights().items():
            if not self._has_scores(name):
                continue
            shape = list(weight.shape)
            if self.flags["linear_st_op"] != "linear_st" and _module(name) in _LINEAR:
                shape[self.flags["linear_st_op"] == "linear_st_outstr"] = 1
            scores[name] = torch.randn(shape, generator=generator)
        return scores

    def _has_scores(self, name: str) -> bool:
        if "encoder.layers." in name:
            return _module(name) in _LINEAR
        for flag, part in (
            ("no_prune_extractor", r"conv_layers\.\d+\.0\.weight"),
            ("no_prune_pos", r"pos_conv\.0\.weight"),
            ("no_prune_post_extract_proj", r"post_extract_proj\.weight"),
            ("no_prune_proj", r"w2v_encoder\.proj\.weight"),
        ):
            if re.search(part, name):
                return not self.flags[flag]
        return False

    def _effective_weights(self) -> dict[str, Tensor]:
        """What modules compute with but for masks; under weight norm, what that makes."""
        weights = {k: v for k, v in self.weights.items() if k.endswith(".weight")}
        for key in self.weights:
            if key.endswith("weight_v"):
                magnitude = self.weights[f"{key[:-1]}g"]
                weights[key[:-2]] = torch._weight_norm(self.weights[key], magnitude, 2)
        return weights

    def _rate(self, name: str) -> float | None:
        """The share that is kept; None where the scores are not used."""
        flags, module = self.flags, _module(name)
        if flags["layerwise_prune_rate"]:
            found = re.findall(r"layers.(\d+)", name)
            return flags["layerwise_prune_rate"][int(found[0])] if found else 1.0
        if flags["fc_attn_prune_rate"]:
            assert module in (*_ATTENTION, *_FEED_FORWARD), "its code exits"
            return flags["fc_attn_prune_rate"][module in _ATTENTION]
        if flags["fix_attn"]:
            return None if module in _ATTENTION else flags["prune_rate"]
        if flags["fix_fc"]:
            return None if module in _FEED_FORWARD else flags["prune_rate"]
        return flags["prune_rate"]

    def _mask(self, name: str) -> Tensor:
        scores, rate = self.scores[name], self._rate(name)
        assert rate is not None
        mask = top(scores.abs(), kept_of(scores.numel(), rate))
        return mask.expand(self._effective_weights()[name].shape)

    def network(self, task: Any) -> nn.Module:
        """A stock `wav2vec_ctc` whose weights are masked, as S3-Router's modules mask them."""
        model = task.build_model(self.cfg.model, from_checkpoint=True)
        model.load_state_dict(self.weights)
        effective = self._effective_weights()
        for name, mask in self.masks.items():
            owner = model.get_submodule(name.rpartition(".")[0])
            if name not in dict(model.named_parameters()):
                nn.utils.remove_weight_norm(owner)
            owner.weight = nn.Parameter(effective[name] * mask.float())
        return model.eval().requires_grad_(False)


def _module(name: str) -> str:
    """The name of the module that a weight belongs to."""
    return name.split(".")[-2]
