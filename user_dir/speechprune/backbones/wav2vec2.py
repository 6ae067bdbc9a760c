"""wav2vec 2.0: base, large and XLS-R, post-norm and pre-norm, any depth."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from speechprune.backbones.apart import norms_apart, padding_silenced, uncropped
from speechprune.backbones.base import BACKBONES, Backbone, Entry
from speechprune.errors import UserError
from speechprune.masking.sites import Site
from speechprune.slimming.attention import SlimAttention
from speechprune.slimming.cutting import check_cut, cut_layer
from speechprune.slimming.plan import SLIM_PLAN, KeptUnits, SlimPlan
from speechprune.slimming.units import LayerUnits

#: Module path within a transformer layer -> role of its weight.
_LAYER_MODULES = {
    "self_attn.q_proj": "attn.q",
    "self_attn.k_proj": "attn.k",
    "self_attn.v_proj": "attn.v",
    "self_attn.out_proj": "attn.out",
    "fc1": "ffn.in",
    "fc2": "ffn.out",
}


@BACKBONES.register("wav2vec2")
class Wav2Vec2(Backbone):
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
            self._slim_as(model, SlimPlan.of(settings[SLIM_PLAN]))
        return model

    def _slim_as(self, model: Any, plan: SlimPlan) -> None:
        """Cut a whole model as the plan says; raises UserError if it is another model's."""
        if plan.backbone != self.fairseq_name:
            raise UserError(
                f"the slim plan is of the family {plan.backbone}, but the model of "
                f"{self.fairseq_name}"
            )
        for layer in self.units(model):
            if (layer.heads, layer.channels) != (plan.heads, plan.channels):
                raise UserError(
                    f"the slim plan is of a model of {plan.heads} heads and {plan.channels} "
                    f"channels, but layer {layer.layer} has {layer.heads} and {layer.channels}"
                )
        self.slim(model, plan.kept)

    def _task(self, task: Mapping[str, Any]) -> Any:
        """What fairseq has to know of the task of pretraining to build a model."""
        return None

    def fresh(self, model: Any, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = self._rebuilt(model)
        plan = self.slim_plan(model)
        if plan is not None:
            self._slim_as(fresh, plan)
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
        for i, layer in enumerate(self.layers(model)):
            for path, role in _LAYER_MODULES.items():
                name = f"encoder.layers.{i}.{path}.weight"
                yield Site(name, role, i, layer.get_submodule(path), "weight")

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

    def layers(self, model: Any) -> nn.ModuleList:
        return model.encoder.layers

    def hidden_states(
        self, model: Any, source: Tensor, padding_mask: Tensor | None
    ) -> tuple[list[Tensor], Tensor]:
        entry = self.enter(model, source, padding_mask)
        states = [entry.state]
        for layer in self.layers(model):
            states.append(entry.through(layer, states[-1]))
        # The encoder pads the sequence to an even length; those frames are not ours.
        states = [state.transpose(0, 1)[:, : entry.frames] for state in states]
        padding = entry.padding
        if padding is None:
            padding = torch.zeros(states[0].shape[:2], dtype=torch.bool, device=source.device)
        return states, padding[:, : entry.frames]

    def enter(self, model: Any, source: Tensor, padding_mask: Tensor | None) -> Entry:
        recorder = _Recorder()
        layers = self.layers(model)
        model.encoder.layers = nn.ModuleList([recorder])
        try:
            output, padding = self.features(model, source, padding_mask)
        finally:
            model.encoder.layers = layers
        assert recorder.state is not None
        frames = output.shape[1]
        heard = torch.zeros_like(recorder.state[..., 0], dtype=torch.bool)
        heard[:frames] = True if padding is None else ~padding[:, :frames].T
        return Entry(recorder.state, recorder.options, padding, frames, heard)

    def leave(self, model: Any, entry: Entry, state: Tensor) -> Tensor:
        output = state.transpose(0, 1)[:, : entry.frames]
        return model.encoder.layer_norm(output) if model.encoder.layer_norm_first else output

    def drop_layers(self, model: Any, dropped: Collection[int]) -> None:
        layers = self.layers(model)
        for index in sorted(dropped):
            if not 0 <= index < len(layers):
                raise UserError(
                    f"cannot drop layer {index}: the model has layers 0..{len(layers) - 1}"
                )
        kept = [layer for i, layer in enumerate(layers) if i not in set(dropped)]
        if not kept:
            raise UserError("cannot drop every layer: at least one must stay")
        model.encoder.layers = nn.ModuleList(kept)
        plan = self.slim_plan(model)
        if plan is not None:
            model.slim_plan = plan.of_layers(i for i in range(len(layers)) if i not in set(dropped))

    def units(self, model: Any) -> list[LayerUnits]:
        return [_units(layer, number) for number, layer in enumerate(self.layers(model))]

    def slim(self, model: Any, kept: Sequence[KeptUnits]) -> None:
        units = self.units(model)
        check_cut(units, kept)
        before = self.slim_plan(model)
        if before is None:
            first = units[0]
            before = SlimPlan.whole(self.fairseq_name, first.heads, first.channels, len(units))
        plan = before.then(kept)
        for layer, whole, keeps in zip(self.layers(model), units, kept):
            attention: Any = layer.self_attn
            left = cut_layer(whole, keeps)
            slim = SlimAttention(left, _dropout_of(attention))
            layer.self_attn = slim.train(attention.training)
        model.slim_plan = plan

    def slim_plan(self, model: Any) -> SlimPlan | None:
        plan: SlimPlan | None = getattr(model, SLIM_PLAN, None)
        return None if plan is None or plan.removes_nothing else plan


def _units(layer: Any, number: int) -> LayerUnits:
    """The units of a layer that is built as wav2vec 2.0's are."""
    parts = ("self_attn", "fc1", "fc2", "activation_fn")
    if not all(hasattr(layer, part) for part in parts):
        raise UserError(
            f"layer {number} is a {type(layer).__name__}, whose heads and channels speechprune "
            "does not know how to cut out"
        )
    attention = layer.self_attn
    return LayerUnits(
        number,
        *(attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj),
        *(layer.fc1, layer.fc2),
        heads=attention.num_heads,
        head_size=attention.head_dim,
        activation=layer.activation_fn,
    )


def _dropout_of(attention: Any) -> float:
    """The dropout of attention weights, of fairseq's attention or of ours."""
    if isinstance(attention, SlimAttention):
        return attention.dropout
    return float(attention.dropout_module.p)


class _Recorder(nn.Module):
    """In the place of all layers, it keeps what they would be given."""

    state: Tensor | None = None
    options: Mapping[str, Any] = {}

    def forward(self, state: Tensor, **options: Any) -> tuple[Tensor, tuple[None, Tensor]]:
        self.state, self.options = state, options
        return state, (None, state)
