"""What all encoders share whose layers are fairseq's: projections, feed-forward blocks, cutting."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from speechprune.backbones.base import Backbone, Entry
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


class FairseqTransformer(Backbone):
    """A family whose layers call their parts as fairseq does, in a module list ``layers``."""

    @abstractmethod
    def stack(self, model: nn.Module) -> Any:
        """The module whose ``layers`` are the transformer's."""

    @abstractmethod
    def stack_name(self) -> str:
        """Where `stack` is in a model."""

    def layers(self, model: Any) -> nn.ModuleList:
        layers: nn.ModuleList = self.stack(model).layers
        return layers

    def listed(self, model: nn.Module, layers: Sequence[nn.Module]) -> nn.ModuleList:
        """Layers in a list of the kind that `stack` has."""
        return nn.ModuleList(layers)

    def layer_sites(self, model: Any) -> Iterator[Site]:
        """The weights of all projections and feed-forward layers."""
        for i, layer in enumerate(self.layers(model)):
            for path, role in _LAYER_MODULES.items():
                name = f"{self.stack_name()}.layers.{i}.{path}.weight"
                yield Site(name, role, i, layer.get_submodule(path), "weight")

    def hidden_states(
        self, model: Any, source: Tensor, padding_mask: Tensor | None
    ) -> tuple[list[Tensor], Tensor]:
        entry = self.enter(model, source, padding_mask)
        states = [entry.state]
        for layer in self.layers(model):
            states.append(entry.through(layer, states[-1]))
        # Encoders of speech pad the sequence to an even length; those frames are not ours.
        states = [state.transpose(0, 1)[:, : entry.frames] for state in states]
        padding = entry.padding
        if padding is None:
            padding = torch.zeros(states[0].shape[:2], dtype=torch.bool, device=source.device)
        return states, padding[:, : entry.frames]

    def enter(self, model: Any, source: Tensor, padding_mask: Tensor | None) -> Entry:
        recorder = Recorder()
        stack = self.stack(model)
        layers = stack.layers
        stack.layers = nn.ModuleList([recorder])
        try:
            output, padding = self.features(model, source, padding_mask)
        finally:
            stack.layers = layers
        assert recorder.state is not None
        frames = output.shape[1]
        heard = torch.zeros_like(recorder.state[..., 0], dtype=torch.bool)
        heard[:frames] = True if padding is None else ~padding[:, :frames].T
        return Entry(recorder.state, recorder.options, padding, frames, heard)

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
        self.stack(model).layers = self.listed(model, kept)
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

    def slim_as(self, model: Any, plan: SlimPlan) -> None:
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


class Recorder(nn.Module):
    """In the place of all layers, it keeps what they would be given."""

    state: Tensor | None = None
    options: Mapping[str, Any] = {}

    def forward(self, state: Tensor, **options: Any) -> tuple[Tensor, tuple[None, Tensor]]:
        self.state, self.options = state, options
        return state, (None, state)
