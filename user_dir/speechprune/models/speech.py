"""Where a finetuned model of speech keeps its encoder, and what it says of it in its settings."""

from typing import Any, ClassVar, Sequence

from omegaconf import open_dict

from speechprune.checkpoint.layers import DROPPED
from speechprune.checkpoint.slimming import note_kept_layers
from speechprune.layers.plan import LayerPlan
from speechprune.models.network import Network


class Speech(Network):
    """The half of a model that its outputs are derived from, if it hears speech."""

    pretrained_key: ClassVar[str] = "model.w2v_path"

    @classmethod
    def is_described(cls, cfg: Any) -> bool:
        return cfg.w2v_args is not None

    @classmethod
    def pretrained_file(cls, cfg: Any) -> str:
        return str(cfg.w2v_path)

    def note_lost_layers(self, kept: Sequence[int], depth: int, lost: LayerPlan) -> None:
        # fairseq saves these settings alone as the model leaves them.
        with open_dict(self.cfg.w2v_args):
            self.cfg.w2v_args.model.encoder_layers = depth
            note_kept_layers(self.cfg.w2v_args.model, kept)
            self.cfg.w2v_args[DROPPED] = {"layers": lost.layers, "dropped": list(lost.dropped)}
