"""The head of s3prl for labels of whole utterances, of all hidden states of an encoder."""

from typing import Collection, Optional, Sequence

import torch
from torch import Tensor, nn

from speechprune.checkpoint.layers import without_states

#: Width between the two linear layers, in s3prl and SUPERB.
WIDTH = 256


class LabelHead(nn.Module):
    """Hidden states to scores: weighted sum, Linear, mean over an utterance's frames, Linear.

    The sum's weights are a softmax over ``layer_weights``, which start at 0. There is no activation
    between the linear layers.

    Source: Yang et al., "SUPERB" (Interspeech 2021, arXiv 2105.01051), as s3prl defines its
    featurizer and its utterance-level models with mean pooling.

    Args:
        states: L + 1.
        channels: C of each state.
        outputs: classes of all slots together.
    """

    def __init__(self, states: int, channels: int, outputs: int) -> None:
        super().__init__()
        self.layer_weights = nn.Parameter(torch.zeros(states))
        self.projector = nn.Linear(channels, WIDTH)
        self.output = nn.Linear(WIDTH, outputs)

    def forward(self, states: Sequence[Tensor], padding: Optional[Tensor]) -> Tensor:
        """Scores of the classes, (B, outputs).

        Args:
            states: L + 1 tensors of (T, B, C).
            padding: of the frames, bool (B, T); None without padding. An utterance without a frame
                of its own has the scores of silence, those of the bias.
        """
        weights = torch.softmax(self.layer_weights.float(), dim=0).to(states[0].dtype)
        mixed = sum(weight * state for weight, state in zip(weights, states))
        assert isinstance(mixed, Tensor)
        projected = self.projector(mixed).transpose(0, 1)
        return self.output(mean_of_frames(projected, padding))

    def drop_layers(self, dropped: Collection[int]) -> None:
        """Leave out the states after the 0-based layers ``dropped``."""
        self.layer_weights = nn.Parameter(without_states(self.layer_weights.detach(), dropped))


def mean_of_frames(features: Tensor, padding: Optional[Tensor]) -> Tensor:
    """The mean of each utterance's own frames, (B, C); 0 where it has none.

    Args:
        features: (B, T, C); summed in float32 if they are of less precision.
        padding: bool (B, T); None without padding.
    """
    if padding is None:
        return features.mean(dim=1)
    own = (~padding).unsqueeze(-1)
    total = features.masked_fill(~own, 0.0).sum(dim=1, dtype=torch.float32)
    return (total / own.sum(dim=1).clamp(min=1)).to(features.dtype)
