"""Self-attention with any number of heads."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from speechprune.slimming.units import LayerUnits

#: Added to attention weights it leaves exact zeros after the softmax, in every number format. After
#: minus infinity, what becomes of an utterance that is all padding depends on the kernel: a NaN
#: there would enter the gradients of all weights.
_HIDING = -3e4


class SlimAttention(nn.Module):
    """What a fairseq layer calls as its ``self_attn``, with heads that need not fill its channels.

    fairseq's own hands its weights to PyTorch's attention, which refuses fewer heads. This one
    calls its projections, under fairseq's names, so that masks, hooks and state dicts work on it.
    Shapes: T frames, B utterances, C channels, H heads of D channels each.

    Args:
        units: of the layer; its linear layers are taken over as they are.
        dropout: of attention weights, in training.
    """

    def __init__(self, units: LayerUnits, dropout: float) -> None:
        super().__init__()
        self.q_proj = units.query
        self.k_proj = units.key
        self.v_proj = units.value
        self.out_proj = units.out
        self.head_dim = units.head_size
        self.num_heads = units.heads
        self.dropout = dropout

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        attn_mask: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """Attend within ``query``, (T, B, C).

        Args:
            query: also the keys and values, whichever are given.
            key_padding_mask: bool, (B, T), True where padded; None without padding.
            attn_mask: added to the attention weights, (T, T).

        Returns:
            (T, B, C), and None for the attention weights.
        """
        frames, batch, _channels = query.shape
        queries, keys, values = (
            projection(query).view(frames, batch, self.num_heads, self.head_dim).permute(1, 2, 0, 3)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = functional.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=_mask(key_padding_mask, attn_mask, queries),
            dropout_p=self.dropout if self.training else 0.0,
        )
        joined = attended.permute(2, 0, 1, 3).reshape(frames, batch, -1)
        return self.out_proj(joined), None


def _mask(padding: Tensor | None, added: Tensor | None, like: Tensor) -> Tensor | None:
    """What to add to attention weights before the softmax, (B or 1, 1, T or 1, T)."""
    added = None if added is None else added.to(like.dtype)[None, None]
    if padding is None:
        return added
    hiding = padding[:, None, None, :].to(like.dtype) * _HIDING
    return hiding if added is None else hiding + added
