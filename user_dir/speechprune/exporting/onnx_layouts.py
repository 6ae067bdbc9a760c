"""What inputs and outputs of an ONNX file are called, by whom it is to be run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from speechprune.errors import UserError
from speechprune.manifests.spelling import WORD_END
from speechprune.registry import unknown_name

#: How SentencePiece, and with it most runtimes, writes the space between words.
SPACE = "\u2581"
#: What runtimes call the blank of CTC.
BLANK = "<blk>"


@dataclass(frozen=True)
class Layout:
    """The names in a file, and what lies beside it.

    Attributes:
        audio: input, float32 (batch, time).
        lengths: input, int64 (batch,): the samples of each recording, padding excluded; None if
            the file takes no padding.
        scores: output, float32 (batch, frames, symbols).
        frames: output, int64 (batch,): the frames of each recording; None if there is none.
        log_probabilities: whether scores are logarithms of probabilities; else they are logits.
        normalizes: who gives each recording mean 0 and variance 1, if the model was trained so:
            "caller", "graph", or "always", a caller who does so for all models.
        symbols: the file of the symbols beside the model; None if there is none, and the export is
            one file and no folder.
        sample_rate: at which its programs let every model hear, in Hz; None if they go by what the
            file says.
    """

    name: str
    audio: str
    lengths: str | None
    scores: str
    frames: str | None
    log_probabilities: bool
    normalizes: str
    symbols: str | None
    sample_rate: int | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """In their order."""
        return (self.audio,) if self.lengths is None else (self.audio, self.lengths)

    @property
    def outputs(self) -> tuple[str, ...]:
        """In their order."""
        return (self.scores,) if self.frames is None else (self.scores, self.frames)


PLAIN = Layout("plain", "audio", "lengths", "logits", "frames", False, "caller", None)
#: As onnx-asr's models of the type wav2vec2-ctc, from onnx-asr after 0.12.
ONNX_ASR = Layout(
    "onnx-asr", "input_values", "input_lengths", "logprobs", None, True, "graph", "vocab.txt", 16000
)
#: As sherpa-onnx's Omnilingual models of CTC.
SHERPA_ONNX = Layout("sherpa-onnx", "x", None, "logits", None, False, "always", "tokens.txt", 16000)
LAYOUTS = {layout.name: layout for layout in (PLAIN, ONNX_ASR, SHERPA_ONNX)}


def layout_called(name: str) -> Layout:
    """The layout of a name; raises UserError, with the nearest one, if there is none."""
    if name not in LAYOUTS:
        raise UserError(unknown_name("layout", name, list(LAYOUTS)))
    return LAYOUTS[name]


def symbol_lines(symbols: Sequence[str]) -> str:
    """The file of symbols that runtimes read: "SYMBOL NUMBER" on each line.

    Args:
        symbols: of the outputs, in their order; the first is the blank.
    """
    named = [BLANK, *(SPACE if symbol == WORD_END else symbol for symbol in symbols[1:])]
    return "".join(f"{symbol} {number}\n" for number, symbol in enumerate(named))
