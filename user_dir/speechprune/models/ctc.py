"""Symbols as outputs: one distribution for each frame, of which CTC makes a text."""

from typing import Any

from fairseq.data.dictionary import Dictionary
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecCtc

from speechprune.models.encoder import build_encoder, dictionary_of
from speechprune.models.speech import Speech


class Ctc(Speech, Wav2VecCtc):
    """The outputs of fairseq's `wav2vec_ctc`, by its own code.

    Attributes:
        dictionary: of the outputs.
    """

    dictionary: Dictionary

    @classmethod
    def with_outputs(cls, cfg: Any, task: Any) -> "Ctc":
        """A model with the pretrained encoder and a new head for the dictionary of a task."""
        dictionary = dictionary_of(task)
        model = cls(cfg, build_encoder(cfg, len(dictionary)))
        model.dictionary = dictionary
        return model
