"""What every finetuned model of ours knows of its encoder: where its settings and file are."""

from abc import abstractmethod
from typing import Any, ClassVar, Sequence

from fairseq.models import BaseFairseqModel

from speechprune.layers.plan import LayerPlan
from speechprune.models.declaration import Declared


class Network(Declared, BaseFairseqModel):
    """A finetuned model of ours; what its encoder hears decides on where all of this is kept."""

    cfg: Any
    #: The key that names the file of the pretrained encoder.
    pretrained_key: ClassVar[str]

    @classmethod
    @abstractmethod
    def is_described(cls, cfg: Any) -> bool:
        """Whether settings are those of a checkpoint, which tell what the encoder is; else a
        pretrained file does."""

    @classmethod
    @abstractmethod
    def pretrained_file(cls, cfg: Any) -> str:
        """The file of the pretrained encoder."""

    @abstractmethod
    def note_lost_layers(self, kept: Sequence[int], depth: int, lost: LayerPlan) -> None:
        """Let what is saved of the settings tell which layers the encoder has lost.

        Args:
            kept: of the layers of the pretrained file.
            depth: layers that are left.
            lost: by the numbers that the layers had at first.
        """
