"""Error rates of the transcripts that a CTC model writes without some layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from speechprune.backbones.base import Entry
from speechprune.decoding import MAX_TOKENS
from speechprune.decoding.greedy import decode, spells_words
from speechprune.decoding.inference import (
    audible,
    check_references,
    padded,
    read_audio,
    sample_rate,
)
from speechprune.decoding.scoring import ErrorCounts, count_text_errors
from speechprune.dropping.verification import Measured, Verifier
from speechprune.layers.plan import LayerPlan
from speechprune.manifests.manifest import Split
from speechprune.models.loading import LoadedRecogniser
from speechprune.models.sites import output_layer_of


class Transcribed(Measured):
    """What a plan does to the transcripts.

    Args:
        split: with the texts to compare them with.
        letters: whether those are spelt.

    Attributes:
        words, characters: errors on each utterance heard, by its place in the split.
        texts: its transcripts, likewise.
    """

    unit: ClassVar[str] = "utterances"

    def __init__(
        self, plan: LayerPlan, metrics: Mapping[str, str], split: Split, letters: bool
    ) -> None:
        super().__init__(plan, metrics)
        self.split, self.letters = split, letters
        self.words: dict[int, ErrorCounts] = {}
        self.characters: dict[int, ErrorCounts] = {}
        self.texts: dict[int, str] = {}

    @property
    def heard(self) -> int:
        return len(self.texts)

    def note(self, index: int, told: str | None) -> None:
        """Take the transcript of an utterance; None of one too short to have one."""
        text = told or ""
        reference = self.split.utterances[index].text
        found = count_text_errors(reference, text, letters=self.letters)
        self.texts[index] = text
        self.words[index], self.characters[index] = found

    def rate(self, metric: str) -> float:
        """Errors per word or character of the utterances heard."""
        return sum(self._counts(metric).values(), ErrorCounts()).rate

    def errors(self, metric: str, index: int) -> int:
        return self._counts(metric)[index].errors

    def _counts(self, metric: str) -> dict[int, ErrorCounts]:
        """Errors on each utterance by ``metric``, "wer" or "cer"."""
        return self.words if metric == "wer" else self.characters


class TranscriptVerifier(Verifier[Transcribed]):
    """Measures plans by transcripts.

    Those of a plan are the ones that `speechprune.decoding.inference.evaluate` would get of the
    checkpoint without its layers.

    Raises:
        UserError: the split has no texts, or texts in another alphabet.
    """

    loaded: LoadedRecogniser

    def __init__(
        self,
        loaded: LoadedRecogniser,
        split: Split,
        *,
        max_tokens: int = MAX_TOKENS,
        batch_size: int | None = None,
        remember: bool = False,
    ) -> None:
        check_references(loaded, split)
        self.split = split
        self.letters = spells_words(loaded.dictionary)
        #: Characters for letters, "words" for units, which have two names for one rate.
        self.metric = "cer" if self.letters else "wer"
        self.metrics: Mapping[str, str] = {
            "cer": "CER" if self.letters else "UER",
            "wer": "WER" if self.letters else "UER",
        }
        super().__init__(
            loaded,
            [utterance.frames for utterance in split.utterances],
            max_tokens=max_tokens,
            batch_size=batch_size,
            remember=remember,
        )

    def start(self, plan: LayerPlan) -> Transcribed:
        return Transcribed(plan, self.metrics, self.split, self.letters)

    def read(self, batch: Sequence[int]) -> tuple[list[int], Mapping[str, Any]]:
        rate = sample_rate(self.loaded)
        audio = [read_audio(self.split.root / self.split.utterances[i].path, rate) for i in batch]
        places = audible(self.loaded, audio)
        source = padded(self.loaded, [audio[place] for place in places]) if places else {}
        return [batch[place] for place in places], source

    def tell(self, entry: Entry, output: Tensor) -> Iterable[str]:
        model: Any = self.loaded.model
        scores = {
            "encoder_out": output_layer_of(model)(output.transpose(0, 1)),
            "padding_mask": entry.padding,
        }
        return decode(self.loaded.dictionary, model.get_logits(scores))
