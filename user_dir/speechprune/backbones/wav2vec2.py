"""wav2vec 2.0: base, large and XLS-R, post-norm and pre-norm, any depth."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from speechprune.backbones.apart import norms_apart, padding_silenced, uncropped
from speechprune.backbones.base import BACKBONES, Entry
from speechprune.backbones.transformer import FairseqTransformer
from speechprune.masking.sites import Site
from speechprune.slimming.plan import SLIM_PLAN, SlimPlan


@BACKBONES.register("wav2vec2")
class Wav2Vec2(FairseqTransformer):
    """fairseq's wav2vec 2.0."""

    fairseq_name: ClassVar[str] = "wav2vec2"

    def matches(self, model: nn.Module) -> bool:
        from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Model

        return isinstance(model, Wav2Vec2Model)

    def build(self, task: Mapping[str, Any], settings: Mapping[str, Any]) -> nn.Module:
        from fairseq import models
        from omegaconf import OmegaConf

        given: Any = settings
        model = models.build_model(OmegaConf.create(given), self._task(task), from_checkpoint=True)
        model.remove_pretraining_modules()
        if settings.get(SLIM_PLAN) is not None:
            self.slim_as(model, SlimPlan.of(settings[SLIM_PLAN]))
        return model

    def _task(self, task: Mapping[str, Any]) -> Any:
        """What fairseq has to know of the task of pretraining to build a model."""
        return None

    def fresh(self, model: Any, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = self._rebuilt(model)
        plan = self.slim_plan(model)
        if plan is not None:
            self.slim_as(fresh, plan)
        return fresh.eval().requires_grad_(False)

    def _rebuilt(self, model: Any) -> nn.Module:
        """An encoder of the same settings, without its pretraining heads."""
        rebuilt: Any = type(model)(model.cfg)
        rebuilt.remove_pretraining_modules()
        encoder: nn.Module = rebuilt
        return encoder

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
            found = model.extract_features(source, padding_mask, mask=mask)
            return found["x"], found["padding_mask"]
        with self.apart(model, padding_mask) as own_padding:
            found = model.extract_features(source, own_padding, mask=mask)
        return found["x"], self.padding_of_frames(model, padding_mask, found["padding_mask"])

    @contextmanager
    def apart(self, model: Any, padding_mask: Tensor | None) -> Iterator[Tensor | None]:
        if model.training:
            yield padding_mask
            return
        with uncropped(model), self._padding_apart(model, padding_mask) as own_padding:
            yield own_padding

    @contextmanager
    def _padding_apart(self, model: Any, padding_mask: Tensor | None) -> Iterator[Tensor | None]:
        if padding_mask is None or not padding_mask.any():
            yield padding_mask
            return
        lengths = (~padding_mask).sum(1).tolist()
        counts = [self._frame_counts(model, length) for length in lengths]
        with ExitStack() as stack:
            for block, frames in zip(model.feature_extractor.conv_layers, zip(*counts)):
                stack.enter_context(norms_apart(block, frames))
            own = [frames[-1] for frames in counts]
            for module in model.encoder.pos_conv.modules():
                if isinstance(module, nn.Conv1d):
                    stack.enter_context(padding_silenced(module, own))
            yield self._own_padding(model, padding_mask, own)

    def _own_padding(self, model: Any, padding_mask: Tensor, frames: Sequence[int]) -> Tensor:
        """A mask of samples from which fairseq counts the frames that each utterance has alone."""
        return padding_mask

    def frame_count(self, model: Any, samples: int) -> int:
        return self._frame_counts(model, samples)[-1]

    def _frame_counts(self, model: Any, samples: int) -> list[int]:
        """The frames after each convolution of the front end."""
        counts = []
        for block in model.feature_extractor.conv_layers:
            (kernel,), (stride,) = block[0].kernel_size, block[0].stride
            samples = (samples - kernel) // stride + 1 if samples >= kernel else 0
            counts.append(samples)
        return counts

    def sites(self, model: Any, roles: Collection[str]) -> list[Site]:
        return [site for site in self._all_sites(model) if site.role in roles]

    def _all_sites(self, model: Any) -> Iterator[Site]:
        for i, block in enumerate(model.feature_extractor.conv_layers):
            yield Site(
                f"feature_extractor.conv_layers.{i}.0.weight",
                "front.conv",
                None,
                block[0],
                "weight",
            )
        if model.post_extract_proj is not None:
            yield Site(
                "post_extract_proj.weight", "front.proj", None, model.post_extract_proj, "weight"
            )
        yield from self._position_sites(model)
        yield from self.layer_sites(model)

    def _position_sites(self, model: Any) -> Iterator[Site]:
        """Convolutional positions; the weight under weight norm is what the norm makes."""
        for name, module in model.encoder.pos_conv.named_modules():
            if isinstance(module, nn.Conv1d):
                yield Site(f"encoder.pos_conv.{name}.weight", "pos.conv", None, module, "weight")

    def parameters(self, model: Any, group: str) -> list[nn.Parameter]:
        if group == "layer_norm":
            return [
                parameter
                for name, module in model.named_modules()
                if name.endswith("layer_norm") and not name.startswith("feature_extractor")
                for parameter in module.parameters(recurse=False)
            ]
        if group == "pos":
            return list(model.encoder.pos_conv.parameters())
        if group == "front.proj":
            return (
                []
                if model.post_extract_proj is None
                else list(model.post_extract_proj.parameters())
            )
        if group == "mask_emb":
            return [model.mask_emb]
        raise ValueError(f"no parameter group {group!r}")

    def stack(self, model: Any) -> Any:
        return model.encoder

    def stack_name(self) -> str:
        return "encoder"

    def leave(self, model: Any, entry: Entry, state: Tensor) -> Tensor:
        output = state.transpose(0, 1)[:, : entry.frames]
        return model.encoder.layer_norm(output) if model.encoder.layer_norm_first else output
