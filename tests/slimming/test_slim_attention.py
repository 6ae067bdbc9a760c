"""`SlimAttention` against fairseq's own attention, and with fewer heads against the formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from fairseq.modules.multihead_attention import MultiheadAttention
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.recognisers import SMALL_ENCODER
from speechprune.backbones.wav2vec2 import Wav2Vec2
from speechprune.slimming.attention import SlimAttention
from speechprune.slimming.plan import KeptUnits
from speechprune.slimming.units import LayerUnits

FRAMES, BATCH = 23, 3
#: Frames that are not padding, for each utterance.
LENGTHS = (23, 1, 14)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def slim_attention(channels: int, heads: int, size: int, dropout: float = 0.0) -> SlimAttention:
    q, k, v = (nn.Linear(channels, heads * size) for _ in range(3))
    out, first = nn.Linear(heads * size, channels), nn.Linear(channels, 1)
    units = LayerUnits(0, q, k, v, out, first, nn.Linear(1, channels), heads, size, torch.relu)
    return SlimAttention(units, dropout)


def fairseqs(slim: SlimAttention) -> MultiheadAttention:
    channels = slim.q_proj.in_features
    attention = MultiheadAttention(channels, slim.num_heads, self_attention=True)
    attention.load_state_dict(slim.state_dict())
    return attention


def padding(lengths: tuple[int, ...] = LENGTHS) -> Tensor:
    return torch.arange(FRAMES) >= torch.tensor(lengths)[:, None]


def attend(attention: nn.Module, states: Tensor, mask: Tensor | None, **options: Any) -> Tensor:
    attended, weights = attention(
        query=states, key=states, value=states, key_padding_mask=mask, **options
    )
    assert weights is None
    return attended


def gradients(attention: nn.Module, states: Tensor, mask: Tensor | None) -> list[Tensor]:
    """Of the states and of all parameters, for a loss that weighs every output differently."""
    states = states.clone().requires_grad_()
    attended = attend(attention, states, mask, need_weights=False)
    weights = torch.randn(attended.shape, generator=torch.Generator().manual_seed(1))
    inputs = [states, *(parameter for _, parameter in sorted(attention.named_parameters()))]
    return list(torch.autograd.grad((attended * weights.to(attended)).sum(), inputs))


def by_formula(
    slim: SlimAttention, states: NDArray[Any], lengths: tuple[int, ...], added: NDArray[Any]
) -> NDArray[Any]:
    """Head by head, utterance by utterance, query by query; "Attention Is All You Need", 3.2."""
    weights = {key: value.double().numpy() for key, value in slim.state_dict().items()}
    size, attended = slim.head_dim, np.zeros(states.shape)
    for utterance, length in enumerate(lengths):
        q, k, v = (
            states[:, utterance] @ weights[f"{name}_proj.weight"].T + weights[f"{name}_proj.bias"]
            for name in "qkv"
        )
        joined = np.zeros(q.shape)
        for head in range(slim.num_heads):
            own = slice(head * size, (head + 1) * size)
            for frame in range(len(states)):
                scores = k[:length, own] @ q[frame, own] / np.sqrt(size) + added[frame, :length]
                exponentials = np.exp(scores - scores.max())
                joined[frame, own] = exponentials / exponentials.sum() @ v[:length, own]
        attended[:, utterance] = joined @ weights["out_proj.weight"].T + weights["out_proj.bias"]
    return attended


@pytest.mark.parametrize("mask", [None, padding()], ids=["whole", "padded"])
def test_with_all_heads_it_is_fairseqs(mask: Tensor | None) -> None:
    slim = slim_attention(32, 4, 8)
    original = fairseqs(slim)
    states = torch.randn(FRAMES, BATCH, 32)
    own = [attend(slim, states, mask), *gradients(slim, states, mask)]
    theirs = [
        attend(original, states, mask, need_weights=False),
        *gradients(original, states, mask),
    ]
    for mine, reference in zip(own, theirs):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-5)


def test_it_has_fairseqs_names() -> None:
    slim = slim_attention(32, 4, 8)
    assert slim.state_dict().keys() == MultiheadAttention(32, 4).state_dict().keys()


@pytest.mark.parametrize(("heads", "size"), [(1, 8), (3, 8), (2, 5), (7, 3)])
@pytest.mark.parametrize("adds", [False, True])
def test_any_number_of_heads_follows_the_formula(heads: int, size: int, adds: bool) -> None:
    slim = slim_attention(32, heads, size)
    states = torch.randn(FRAMES, BATCH, 32)
    added = torch.randn(FRAMES, FRAMES) if adds else None
    own = attend(slim, states, padding(), attn_mask=added).detach().numpy()
    bias = np.zeros((FRAMES, FRAMES)) if added is None else added.double().numpy()
    expected = by_formula(slim, states.double().numpy(), LENGTHS, bias)
    np.testing.assert_allclose(own, expected, rtol=0, atol=1e-5)


def test_a_causal_mask_hides_what_comes_later() -> None:
    slim = slim_attention(32, 3, 8)
    states = torch.randn(FRAMES, BATCH, 32)
    causal = torch.full((FRAMES, FRAMES), float("-inf")).triu(1)
    whole = attend(slim, states, None, attn_mask=causal)
    first = attend(slim, states[:9], None, attn_mask=causal[:9, :9])
    torch.testing.assert_close(whole[:9], first, rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", [{"need_weights": True}, {"need_head_weights": True}, {}])
def test_attention_weights_are_not_given(options: dict[str, bool]) -> None:
    slim = slim_attention(32, 3, 8)
    states = torch.randn(FRAMES, BATCH, 32)
    assert torch.equal(attend(slim, states, None, **options), slim(states)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_utterance_of_padding_does_not_reach_others(dtype: torch.dtype) -> None:
    slim = slim_attention(32, 3, 8).to(dtype)
    states = torch.randn(FRAMES, BATCH, 32).to(dtype)
    attended = attend(slim, states, padding((23, 0, 14)))
    others = attend(slim, states[:, [0, 2]], padding((23, 14)))
    assert attended.dtype == dtype and attended.isfinite().all()
    torch.testing.assert_close(attended[:, [0, 2]], others)
    assert all(each.isfinite().all() for each in gradients(slim, states, padding((23, 0, 14))))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(dtype: torch.dtype) -> None:
    slim = slim_attention(32, 3, 8)
    states = torch.randn(FRAMES, BATCH, 32)
    whole = attend(slim, states, padding())
    half = attend(slim.to(dtype), states.to(dtype), padding())
    torch.testing.assert_close(half.float(), whole, rtol=0, atol=16 * torch.finfo(dtype).eps)


def test_padded_frames_have_no_part() -> None:
    """Not even one bit of what is written there, however large."""
    slim = slim_attention(32, 3, 8)
    states = torch.randn(FRAMES, BATCH, 32)
    other = states.clone()
    other[14:, 2] = 50.0
    own, theirs = (attend(slim, each, padding()) for each in (states, other))
    assert torch.equal(own[:14, 2], theirs[:14, 2])


def test_dropout_is_of_attention_weights_and_of_training() -> None:
    """A single frame's attention weight is 1, which dropout makes 0 or 1 / (1 - p)."""
    slim = slim_attention(6, 3, 2, dropout=0.25)
    nn.init.eye_(slim.out_proj.weight), nn.init.zeros_(slim.out_proj.bias)
    states = torch.randn(1, 2000, 6)
    whole = attend(slim.eval(), states, None)
    factors = (attend(slim.train(), states, None) / whole).view(-1, 2)
    torch.testing.assert_close(factors[:, 0], factors[:, 1])
    dropped = factors[:, 0].abs() < 1e-6
    torch.testing.assert_close(factors[~dropped], torch.full_like(factors[~dropped], 4 / 3))
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.02)


def test_activation_checkpointing_changes_no_gradient() -> None:
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        settings = {**SMALL_ENCODER, "checkpoint_activations": checkpointing}
        rates = ("dropout", "attention_dropout", "dropout_input", "encoder_layerdrop")
        model = Wav2Vec2Model(Wav2Vec2Config(**settings, **dict.fromkeys(rates, 0.0)))
        model.remove_pretraining_modules()
        Wav2Vec2().slim(model, [KeptUnits((0, 2, 3), tuple(range(40)))] * 6)
        calls: list[None] = []
        attention = model.encoder.layers[0].self_attn
        attention.register_forward_hook(lambda *_, calls=calls: calls.append(None))
        model.train().extract_features(torch.randn(1, 4000), None)["x"].square().sum().backward()
        assert len(calls) == 1 + checkpointing
        found.append([p.grad for p in model.encoder.layers.parameters()])
    assert all(torch.equal(plain, again) for plain, again in zip(*found))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("lengths", [None, LENGTHS, (23, 0, 14)], ids=str)
def test_a_gpu_attends_as_a_cpu_does(dtype: torch.dtype, lengths: tuple[int, ...] | None) -> None:
    slim = slim_attention(64, 3, 16)
    states = torch.randn(FRAMES, BATCH, 64)
    mask = None if lengths is None else padding(lengths)
    expected = [attend(slim, states, mask), *gradients(slim, states, mask)]
    slim, states = slim.cuda().to(dtype), states.cuda().to(dtype)
    mask = None if mask is None else mask.cuda()
    found = [attend(slim, states, mask), *gradients(slim, states, mask)]
    for own, reference in zip(found, expected):
        assert own.dtype == dtype
        bound = 1e-5 if dtype == torch.float32 else 16 * torch.finfo(dtype).eps
        if lengths is not None and 0 in lengths:
            # Of an utterance that is all padding, float32 tells weights apart to 2e-3 alone.
            bound = max(bound, 2e-3)
        scale = max(1.0, reference.abs().max().item())
        torch.testing.assert_close(own.float().cpu(), reference, rtol=0, atol=bound * scale)
