"""What every finetuned model of ours shares: layers can be left out, and runs can be repeated.

What its outputs stand for, and how they come about, is the other half of a model: `ctc` or
`labels`.
"""

from contextlib import contextmanager
from typing import Any, Callable, ClassVar, Dict, Iterator, Mapping, Optional

import numpy as np
import torch
from fairseq.data.dictionary import Dictionary
from torch import nn

from speechprune.backbones import Backbone, find_backbone
from speechprune.checkpoint import read
from speechprune.checkpoint.layers import (
    lost_layers,
    refuse_other_layers,
    without_layers,
)
from speechprune.checkpoint.slimming import refuse_other_units
from speechprune.errors import UserError
from speechprune.layers.plan import LayerPlan
from speechprune.models.declaration import LAYER_FLAGS
from speechprune.models.label_head import LabelHead
from speechprune.models.layer_flags import plan_of
from speechprune.models.network import Network
from speechprune.models.removed_units import refuse_removed_units
from speechprune.models.restart import starting_checkpoint
from speechprune.models.sites import encoder_of_model, output_layer_of
from speechprune.state_names import layer_of


class Finetuned(Network):
    """An encoder, of any family that has a backbone, less the layers that ``model.drop_layers`` or
    a plan names, with an output layer.

    A model is derived from this class, or one of its kind, and from one for its outputs.

    Attributes:
        dictionary: of the outputs; None if these are no symbols.
        layer_plan: the layers that were left out when this model was built from a pretrained one;
            None if all stayed, or if a checkpoint of ours is to follow, which has its own depth.
        awaits_own_checkpoint: whether this model is what the settings in a checkpoint say, and is
            to be used with that one's weights; else it begins or goes on with a run.
    """

    reads = LAYER_FLAGS | {"eval_only"}
    #: Called with the settings of a model and a task: a model with the pretrained encoder and new
    #: outputs, those of the task.
    with_outputs: ClassVar[Callable[..., Any]]
    dictionary: Optional[Dictionary] = None
    layer_plan: Optional[LayerPlan] = None
    awaits_own_checkpoint = False

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> "Finetuned":
        """Load the pretrained weights, drop layers, then prepare what the model is for.

        Raises:
            UserError: settings or files that cannot work.
        """
        # Building fills in what the settings are to tell.
        from_pretrained = not cls.is_described(cfg)
        if from_pretrained:
            cls.check_settings(cfg)
        model: Finetuned = cls.with_outputs(cfg, task)
        model.awaits_own_checkpoint = not from_pretrained
        if from_pretrained:
            model.drop_layers()
        model.prepare(from_pretrained)
        return model

    def prepare(self, from_pretrained: bool) -> None:
        """What is to be done before training or loading.

        Args:
            from_pretrained: whether this model begins a run; else a checkpoint of ours follows.
        """

    def __init__(self, cfg: Any, encoder: nn.Module) -> None:
        super().__init__(cfg, encoder)
        self._update: Optional[int] = None
        self._micro_batch = 0
        if not self.keeps_removed_units:
            self.register_load_state_dict_pre_hook(refuse_removed_units)

    @property
    def backbone(self) -> nn.Module:
        """The self-supervised encoder, without the output layer."""
        return encoder_of_model(self)

    @property
    def family(self) -> Backbone:
        """What is known of the encoder's model family."""
        return find_backbone(self.backbone)

    @property
    def depth(self) -> int:
        """The number of layers."""
        return len(self.family.layers(self.backbone))

    def drop_layers(self) -> None:
        """Leave out what the settings name, and say so in what is saved of them.

        Raises:
            UserError: there are no such layers, or the checkpoint that the run begins from has lost
                others, or other heads and channels.
        """
        self.layer_plan = plan_of(self.cfg, self.depth)
        before = self.depth
        lost = lost_layers(read(self.pretrained_file(self.cfg), mmap=True), self.layer_plan)
        if self.layer_plan is not None:
            self.family.drop_layers(self.backbone, self.layer_plan.dropped)
            head = output_layer_of(self)
            if isinstance(head, LabelHead):
                head.drop_layers(self.layer_plan.dropped)
        if lost is not None:
            kept = range(before) if self.layer_plan is None else self.layer_plan.kept
            self.note_lost_layers(kept, self.depth, lost)
        start = starting_checkpoint(self.cfg)
        if start is not None:
            state = read(start, mmap=True)
            refuse_other_layers(start, state, lost)
            refuse_other_units(start, state, self.family.slim_plan(self.backbone))

    def set_num_updates(self, num_updates: int) -> None:
        super().set_num_updates(num_updates)
        if num_updates != self._update:
            self._update = num_updates
            self._micro_batch = 0
            self.begin_update()

    def begin_update(self) -> None:
        """Called once for each update, before its first micro-batch."""

    def forward(self, **kwargs: Any) -> Any:
        if not self.training:
            return super().forward(**kwargs)
        with self._seeded_numpy():
            return super().forward(**kwargs)

    @contextmanager
    def _seeded_numpy(self) -> Iterator[None]:
        """Span masking and layerdrop draw from numpy: seed it per update, rank and micro-batch, so
        that a resumed run goes on as if it had never stopped."""
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = torch.distributed.get_rank() if distributed else 0
        key = [self.cfg.seed, self._update or 0, rank, self._micro_batch]
        self._micro_batch += 1
        state = np.random.get_state()
        np.random.seed(np.random.SeedSequence(key).generate_state(4))
        try:
            yield
        finally:
            np.random.set_state(state)

    def load_state_dict(self, state_dict: Dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load a state dict of this depth, or of that of the pretrained model.

        Raises:
            UserError: it is of another depth.
        """
        result = super().load_state_dict(self.without_layers(state_dict), *args, **kwargs)
        self._update = None
        return result

    def without_layers(self, tensors: Mapping[str, Any]) -> Dict[str, Any]:
        """A state dict, or masks by name, less the layers that this model left out.

        Raises:
            UserError: it is of neither depth.
        """
        found = max((n for n in map(layer_of, tensors) if n is not None), default=-1) + 1
        if found == self.depth or not found:
            return dict(tensors)
        if self.layer_plan is None or found != self.layer_plan.layers:
            left = "" if self.layer_plan is None else f", {self.layer_plan.layers} before dropping"
            raise UserError(
                f"the checkpoint has {found} layers, but the model has {self.depth}{left}; name "
                "the layers to leave out by model.drop_layers, or choose another "
                f"{self.pretrained_key}"
            )
        return without_layers(tensors, self.layer_plan.dropped, self.family)

    def fold(self) -> None:
        """Make the state dict one of a plain model, whose weights alone say what it does."""
