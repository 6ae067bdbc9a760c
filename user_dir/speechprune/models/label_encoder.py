"""The speech encoder of a model for labels of whole utterances, with its head."""

from contextlib import contextmanager, nullcontext
from typing import Any, Dict, Iterator, List, Optional, Tuple

import torch
from torch import Tensor, nn

from speechprune.distillation.states import collected
from speechprune.models.encoder import SpeechEncoder
from speechprune.models.label_head import LabelHead


class LabelEncoder(SpeechEncoder):
    """An encoder whose head reads all of its hidden states, from one forward pass.

    While the head trains alone, the encoder is in evaluation mode, as in SUPERB: without dropout,
    layerdrop and masked spans, and with each utterance heard apart.
    """

    def new_head(self, channels: int, output_size: int) -> nn.Module:
        return LabelHead(len(self.family.layers(self.w2v_model)) + 1, channels, output_size)

    def forward(
        self, source: Tensor, padding_mask: Optional[Tensor], **kwargs: Any
    ) -> Dict[str, Any]:
        """Scores under ``logits``, (B, classes of all slots), and ``padding_mask``, bool (B, T)."""
        with self._frozen() if self.is_frozen else nullcontext():
            states, padding = self.hidden_states(source, padding_mask)
        states = [self.final_dropout(state) for state in states]
        return {"logits": self.proj(states, padding), "padding_mask": padding}

    def hidden_states(
        self, source: Tensor, padding_mask: Optional[Tensor]
    ) -> Tuple[List[Tensor], Optional[Tensor]]:
        """What the head reads.

        Args:
            source: audio, (B, samples).
            padding_mask: bool, (B, samples), True where padded; None without padding.

        Returns:
            L + 1 tensors of (T, B, C), the inputs of the layers and then the encoder's output, and
            the frames' padding mask, bool (B, T); None without padding.
        """
        layers = self.family.layers(self.w2v_model)
        mask = self.apply_mask and self.w2v_model.training
        with collected(layers, range(len(layers))) as inputs:
            features, padding = self.family.features(
                self.w2v_model, source, padding_mask, mask=mask
            )
        output = features.transpose(0, 1)
        # The encoder pads the sequence to an even length. If layerdrop skips all layers, what
        # enters them is what the encoder gives.
        states = [inputs[i][: len(output)] if i in inputs else output for i in range(len(layers))]
        return [*states, output], padding

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        """Within it, the encoder is in evaluation mode, and nothing is kept for a gradient."""
        was_training = self.w2v_model.training
        self.w2v_model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.w2v_model.train(was_training)
