"""RoBERTa: an encoder of text, whose layers are fairseq's too; base, large, pre-norm, any depth."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from speechprune.backbones.base import BACKBONES, Entry
from speechprune.backbones.lengths import SYMBOLS, LengthUnit
from speechprune.backbones.transformer import FairseqTransformer
from speechprune.masking.sites import Site
from speechprune.slimming.plan import SLIM_PLAN, SlimPlan
from speechprune.state_names import VOCABULARY

#: The symbol that pads, in all of fairseq's dictionaries.
PAD = 1


class Symbols:
    """What fairseq asks of a dictionary to build an encoder: its size, and which symbol pads."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def pad(self) -> int:
        """The number of the symbol that pads."""
        return PAD


@BACKBONES.register("roberta")
class Roberta(FairseqTransformer):
    """fairseq's RoBERTa. Its source is the numbers of symbols, int64 (B, T), a frame each.

    A model is whole, with the head of masked language modelling, which fairseq's finetuned
    checkpoints hold too.
    """

    fairseq_name: ClassVar[str] = "roberta"
    fits_fairseqs_ctc: ClassVar[bool] = False
    hears: ClassVar[str] = "text"
    length_unit: ClassVar[LengthUnit] = SYMBOLS

    def is_called(self, name: str) -> bool:
        # fairseq's sizes of it, and the models that are finetuned of it; it takes seconds to ask
        # fairseq itself.
        return name == "xlm" or (name.startswith("roberta") and name != "roberta_enc_dec")

    def matches(self, model: nn.Module) -> bool:
        from fairseq.models.roberta import RobertaModel

        return isinstance(model, RobertaModel)

    def build(self, task: Mapping[str, Any], settings: Mapping[str, Any]) -> nn.Module:
        """As its base class says; ``settings`` tell under ``vocabulary`` how many symbols there
        are."""
        from fairseq.models import ARCH_CONFIG_REGISTRY

        network = {key: value for key, value in settings.items() if value is not None}
        args = Namespace(**network)
        complete = ARCH_CONFIG_REGISTRY.get(str(network.get("_name") or network.get("arch")))
        if complete is not None:
            complete(args)
        model = self._built(args, Symbols(int(network[VOCABULARY])))
        if network.get(SLIM_PLAN) is not None:
            self.slim_as(model, SlimPlan.of(network[SLIM_PLAN]))
        return model

    def _built(self, args: Namespace, symbols: Any) -> nn.Module:
        from fairseq.models.roberta import RobertaEncoder, RobertaModel

        model: nn.Module = RobertaModel(args, RobertaEncoder(args, symbols))
        return model

    def fresh(self, model: Any, seed: int) -> nn.Module:
        args = Namespace(**{**vars(model.args), "encoder_layers": len(self.layers(model))})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = self._built(args, model.encoder.dictionary)
        plan = self.slim_plan(model)
        if plan is not None:
            self.slim_as(fresh, plan)
        return fresh.eval().requires_grad_(False)

    def features(
        self,
        model: Any,
        source: Tensor,
        padding_mask: Tensor | None,
        *,
        mask: bool = False,
        together: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if padding_mask is not None:
            source = source.masked_fill(padding_mask, PAD)
        features, _ = model.encoder.extract_features(source)
        padding = source.eq(PAD)
        return features, padding if bool(padding.any()) else None

    @contextmanager
    def apart(self, model: Any, padding_mask: Tensor | None) -> Iterator[Tensor | None]:
        # Attention alone mixes symbols, and passes over those that pad.
        yield padding_mask

    def frame_count(self, model: Any, samples: int) -> int:
        return samples

    def longest(self, model: Any) -> int | None:
        return int(self.stack(model).max_positions())

    def nothing(self, model: Any, samples: int) -> Tensor:
        return torch.zeros(1, samples, dtype=torch.int64, device=next(model.parameters()).device)

    def sites(self, model: Any, roles: Collection[str]) -> list[Site]:
        return [site for site in self.layer_sites(model) if site.role in roles]

    def own_parameters(self, model: Any) -> Iterator[nn.Parameter]:
        parameters: Iterator[nn.Parameter] = self.stack(model).parameters()
        return parameters

    def parameters(self, model: Any, group: str) -> list[nn.Parameter]:
        """As its base class says; there is no projection in front, and no span is masked."""
        stack = self.stack(model)
        if group == "layer_norm":
            return [
                parameter
                for module in stack.modules()
                if isinstance(module, nn.LayerNorm)
                for parameter in module.parameters(recurse=False)
            ]
        if group == "pos":
            return [] if stack.embed_positions is None else list(stack.embed_positions.parameters())
        if group in ("front.proj", "mask_emb"):
            return []
        raise ValueError(f"no parameter group {group!r}")

    def stack(self, model: Any) -> Any:
        return model.encoder.sentence_encoder

    def stack_name(self) -> str:
        return "encoder.sentence_encoder"

    def layers(self, model: Any) -> nn.ModuleList:
        # Of a list with layerdrop, an iteration in training leaves layers out at random.
        layers = self.stack(model).layers
        return nn.ModuleList(layers[number] for number in range(len(layers)))

    def listed(self, model: Any, layers: Sequence[nn.Module]) -> nn.ModuleList:
        from fairseq.modules import LayerDropModuleList

        before = self.stack(model).layers
        if isinstance(before, LayerDropModuleList):
            return LayerDropModuleList(before.p, layers)
        return nn.ModuleList(layers)

    def drop_layers(self, model: Any, dropped: Collection[int]) -> None:
        super().drop_layers(model, dropped)
        # By this number fairseq looks through the layers when it loads weights.
        self.stack(model).num_layers = len(self.layers(model))

    def leave(self, model: Any, entry: Entry, state: Tensor) -> Tensor:
        output = state.transpose(0, 1)
        norm = self.stack(model).layer_norm
        left: Tensor = output if norm is None else norm(output)
        return left
