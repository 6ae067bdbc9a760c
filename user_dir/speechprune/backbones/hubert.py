"""HuBERT: base, large and X-large; wav2vec 2.0's network, with another way to count frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from speechprune.backbones.base import BACKBONES
from speechprune.backbones.wav2vec2 import Wav2Vec2
from speechprune.slimming.plan import SLIM_PLAN, SlimPlan

#: What tasks listen at, unless their settings say otherwise, in Hz.
_SAMPLE_RATE = 16000
#: Targets a second in pretraining; an encoder without its heads does not depend on it.
_LABEL_RATE = 50
#: What stands for each unit of its targets, (units and special symbols, channels).
LABEL_EMBEDDINGS = "label_embs_concat"


@BACKBONES.register("hubert")
class Hubert(Wav2Vec2):
    """fairseq's HuBERT.

    It is built without the dictionaries of its pretraining, which only its pretraining heads need.
    """

    fairseq_name: ClassVar[str] = "hubert"
    fits_fairseqs_ctc: ClassVar[bool] = False
    pretraining_only: ClassVar[tuple[str, ...]] = (
        LABEL_EMBEDDINGS,
        "final_proj.",
        "target_glu.",
    )

    def matches(self, model: nn.Module) -> bool:
        from fairseq.models.hubert.hubert import HubertModel

        return isinstance(model, HubertModel)

    def build(self, task: Mapping[str, Any], settings: Mapping[str, Any]) -> nn.Module:
        if settings.get("label_rate") is None:
            settings = {**settings, "label_rate": task.get("label_rate") or _LABEL_RATE}
        model: Any = super().build(task, settings)
        # Unlike wav2vec 2.0's, fairseq's model does not keep its settings.
        model.built_from = (dict(task), {**settings, SLIM_PLAN: None})
        built: nn.Module = model
        return built

    def settings_as(self, family: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        if family != Wav2Vec2.fairseq_name:
            return None
        from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config
        from omegaconf import OmegaConf

        known: Any = OmegaConf.to_container(OmegaConf.structured(Wav2Vec2Config), enum_to_str=True)
        shared = {key: settings.get(key, value) for key, value in known.items()}
        if settings.get(SLIM_PLAN) is not None:
            plan = replace(SlimPlan.of(settings[SLIM_PLAN]), backbone=family)
            shared[SLIM_PLAN] = plan.describe()
        return {**shared, "_name": family}

    def _task(self, task: Mapping[str, Any]) -> Any:
        cfg = SimpleNamespace(sample_rate=task.get("sample_rate") or _SAMPLE_RATE)
        return SimpleNamespace(cfg=cfg, dictionaries=[None])

    def _rebuilt(self, model: Any) -> nn.Module:
        return self.build(*model.built_from)

    def features(
        self,
        model: Any,
        source: Tensor,
        padding_mask: Tensor | None,
        *,
        mask: bool = False,
        together: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if together:
            own: tuple[Tensor, Tensor | None] = model.extract_features(source, padding_mask, mask)
            return own
        with self.apart(model, padding_mask) as padding_mask:
            output, padding = model.extract_features(source, padding_mask, mask=mask)
        return output, padding

    def _own_padding(self, model: Any, padding_mask: Tensor, frames: Sequence[int]) -> Tensor:
        """To HuBERT, each frame stands for an equal share of the batch's samples, and is padding if
        all of its share is; what is left over at the end of the batch stands for none."""
        samples = padding_mask.shape[1]
        share = samples // self.frame_count(model, samples)
        own = torch.tensor(frames, device=padding_mask.device)[:, None] * share
        return torch.arange(samples, device=padding_mask.device) >= own
