"""The head for labels is s3prl's, over the hidden states of every family, alone or in batches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from labelled import LabelLab
from loop import build, compose
from nano import write_data2vec, write_hubert, write_wav2vec2
from torch import Tensor

from speechprune.models.label_head import LabelHead, mean_of_frames

PRE_NORM = {"layer_norm_first": True, "extractor_mode": "layer_norm", "normalize": True}
FAMILIES: dict[str, Callable[..., Path]] = {
    "base": write_wav2vec2,
    "xlsr": partial(write_wav2vec2, **PRE_NORM),
    "data2vec": write_data2vec,
    "hubert": write_hubert,
}
QUIET = ("model.dropout=0", "model.attention_dropout=0", "model.activation_dropout=0")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> LabelLab:
    return LabelLab(tmp_path_factory.mktemp("head"))


def built(lab: LabelLab, name: str, *overrides: str) -> Any:
    """A model for labels on a nano encoder of a family."""
    path = lab.folder / f"{name}.pt"
    if not path.exists():
        FAMILIES[name](path)
    normalized = name in ("xlsr", "data2vec")
    own = (f"model.w2v_path={path}", f"task.normalize={str(normalized).lower()}")
    return build(compose(lab.arguments("unused", (*own, *overrides))))


def batch(lengths: tuple[int, ...]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    source = torch.zeros(len(lengths), max(lengths))
    padding = torch.ones(source.shape, dtype=torch.bool)
    for row, length in enumerate(lengths):
        source[row, :length] = torch.randn(length, generator=generator)
        padding[row, :length] = False
    return {"source": source, "padding_mask": padding}


def s3prl(head: LabelHead, states: list[Tensor], lengths: list[int]) -> Tensor:
    """s3prl's formula, one utterance at a time: states (B, T, C)."""
    weights = torch.exp(head.layer_weights) / torch.exp(head.layer_weights).sum()
    rows = []
    for row, length in enumerate(lengths):
        mixed = sum(w * state[row, :length] for w, state in zip(weights, states))
        hidden = mixed @ head.projector.weight.T + head.projector.bias
        rows.append(hidden.mean(0) @ head.output.weight.T + head.output.bias)
    return torch.stack(rows)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_head_is_s3prls_over_all_hidden_states(lab: LabelLab, name: str) -> None:
    """The states are those of the backbone's contract, the last after the final layer norm."""
    model = built(lab, name).eval()
    head = model.w2v_encoder.proj
    assert head.layer_weights.tolist() == [0.0, 0.0, 0.0]
    with torch.no_grad():
        head.layer_weights.copy_(torch.tensor([0.5, -1.0, 2.0]))
        sample = batch((6000, 6000))
        states, _ = model.family.hidden_states(model.backbone, **sample)
        entry = model.family.enter(model.backbone, **sample)
        last = entry.state
        for layer in model.family.layers(model.backbone):
            last = entry.through(layer, last)
        states[-1] = model.family.leave(model.backbone, entry, last)
        frames = states[0].shape[1]
        expected = s3prl(head, states, [frames, frames])
        torch.testing.assert_close(model(**sample)["logits"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_utterance_is_heard_alike_alone_and_padded(lab: LabelLab, name: str) -> None:
    model = built(lab, name).eval()
    lengths = (6000, 3333, 4721)
    with torch.no_grad():
        together = batch(lengths)
        found = model(**together)["logits"]
        for row, length in enumerate(lengths):
            source = together["source"][row : row + 1, :length]
            alone = model(source=source, padding_mask=None)["logits"]
            torch.testing.assert_close(found[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_padding_has_no_part_in_the_mean() -> None:
    features = torch.tensor([[[1.0], [3.0], [100.0]], [[7.0], [100.0], [100.0]], [[9.0]] * 3])
    padding = torch.tensor([[False, False, True], [False, True, True], [True, True, True]])
    assert mean_of_frames(features, padding).tolist() == [[2.0], [7.0], [0.0]]


def test_every_state_weight_gets_gradient(lab: LabelLab) -> None:
    model = built(lab, "base", "model._name=wav2vec_labels", *QUIET).train()
    model.set_num_updates(0)
    model(**batch((6000, 4000)))["logits"].square().sum().backward()
    gradient = model.w2v_encoder.proj.layer_weights.grad
    assert gradient.abs().min() > 0
    assert gradient.sum().abs() < 1e-4 * gradient.abs().max()  # softmax: a shift changes nothing
    assert model.backbone.encoder.layers[0].fc1.weight.grad.abs().max() > 0


def test_a_frozen_encoder_is_in_evaluation_mode_and_keeps_nothing_for_a_gradient(
    lab: LabelLab,
) -> None:
    noisy = ("model.dropout=0.5", "model.layerdrop=0.5", "model.apply_mask=true")
    model = built(
        lab, "base", "model._name=wav2vec_labels", "model.freeze_finetune_updates=9", *noisy
    )
    sample = batch((6000, 4000))
    expected = model.eval()(**sample)["logits"]
    model.train().set_num_updates(8)
    found = model(**sample)["logits"]
    assert torch.equal(found, expected)
    found.sum().backward()
    assert model.backbone.training and model.backbone.encoder.layers[0].fc1.weight.grad is None
    assert model.w2v_encoder.proj.projector.weight.grad.abs().max() > 0
    model.set_num_updates(9)
    assert not torch.equal(model(**sample)["logits"], expected)


def test_a_layer_that_layerdrop_skips_gives_its_input(lab: LabelLab) -> None:
    """Each state keeps its weight, however many layers run."""
    model = built(lab, "base", "model._name=wav2vec_labels", "model.layerdrop=0.999", *QUIET)
    model.train().set_num_updates(0)
    sample = batch((6000,))
    states, _ = model.w2v_encoder.hidden_states(**sample)
    assert len(states) == 3
    assert all(torch.equal(state, states[0]) for state in states)


def test_recomputed_activations_have_equal_gradients(lab: LabelLab) -> None:
    gradients = []
    for recomputed in ("false", "true"):
        model = built(lab, "base", f"model.checkpoint_activations={recomputed}", *QUIET).train()
        model.set_num_updates(0)
        model(**batch((6000, 4000)))["logits"].square().sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert len(gradients[0]) == len(gradients[1]) > 12
    for (_, one), (_, two) in zip(*(sorted(found.items()) for found in gradients)):
        torch.testing.assert_close(one, two)


def test_half_precision_sums_frames_in_float32() -> None:
    features = torch.full((1, 3000, 1), 100.0, dtype=torch.float16)
    padding = torch.zeros(1, 3000, dtype=torch.bool)
    padding[0, -1] = True
    assert mean_of_frames(features, padding).tolist() == [[100.0]]


def test_states_of_dropped_layers_go_with_their_weights(lab: LabelLab) -> None:
    model = built(lab, "base", "model.drop_layers=[0]")
    assert model.w2v_encoder.proj.layer_weights.shape == (2,)
    whole = built(lab, "base")
    with torch.no_grad():
        whole.w2v_encoder.proj.layer_weights.copy_(torch.tensor([1.0, 2.0, 3.0]))
    model.load_state_dict(whole.state_dict())
    assert model.w2v_encoder.proj.layer_weights.tolist() == [1.0, 3.0]
