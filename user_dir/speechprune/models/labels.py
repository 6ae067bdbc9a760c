"""Classes as outputs: one distribution for each utterance and slot."""

from typing import Any, Dict, List, Mapping, Optional

import torch
from torch import Tensor, nn

from speechprune.errors import UserError
from speechprune.manifests.slots import Slots
from speechprune.models.encoder import building_from, family_of
from speechprune.models.label_encoder import LabelEncoder
from speechprune.models.mask_flags import refuse_masked_head
from speechprune.models.speech import Speech


class Labels(Speech):
    """A class in each of one or more slots, such as keyword, speaker or intent.

    Attributes:
        slots: with their classes, in the order of the outputs.
    """

    slots: Slots

    def __init__(self, cfg: Any, w2v_encoder: nn.Module) -> None:
        super().__init__()
        self.cfg = cfg
        self.w2v_encoder = w2v_encoder

    @classmethod
    def check_settings(cls, cfg: Any) -> None:
        super().check_settings(cfg)
        refuse_masked_head(cfg, "labels")

    @classmethod
    def with_outputs(cls, cfg: Any, task: Any) -> "Labels":
        """A model with the pretrained encoder and a new head for the slots of a task."""
        slots: Optional[Slots] = getattr(task, "slots", None)
        if slots is None:
            raise UserError(
                "a model for labels of utterances needs task._name=audio_labels; take "
                "--config-name labels/base"
            )
        family, _ = family_of(cfg)
        with building_from(cfg.w2v_path):
            encoder = LabelEncoder(cfg, family, sum(len(slot.classes) for slot in slots))
        model = cls(cfg, encoder)
        model.slots = slots
        return model

    def forward(self, **kwargs: Any) -> Dict[str, Any]:
        output: Dict[str, Any] = self.w2v_encoder(**kwargs)
        return output

    def logits_by_slot(self, output: Mapping[str, Any]) -> List[Tensor]:
        """The scores of each slot's classes, float32 (B, classes)."""
        sizes = [len(slot.classes) for slot in self.slots]
        return list(torch.split(output["logits"].float(), sizes, dim=-1))
