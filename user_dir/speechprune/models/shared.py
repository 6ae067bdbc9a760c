"""The model of a bank: one encoder, which is made one task's after another's, with its head."""

from __future__ import annotations

from speechprune import quiet_fairseq  # noqa: F401  (before fairseq)

# isort: split
from collections import OrderedDict
from collections.abc import Mapping
from threading import RLock
from typing import Any

import torch
from fairseq import tasks
from fairseq.models import MODEL_DATACLASS_REGISTRY, MODEL_REGISTRY
from omegaconf import OmegaConf
from torch import Tensor, nn

from speechprune.backbones import backbone_called
from speechprune.bank.bank import Bank
from speechprune.bank.switching import Switch
from speechprune.checkpoint.banked import base_state_of, outline_of
from speechprune.checkpoint.file import PROVENANCE, PathLike
from speechprune.checkpoint.finetuned import find_dictionary
from speechprune.checkpoint.slots import described_slots, saved_slots
from speechprune.errors import UserError
from speechprune.models.encoder import SpeechEncoder, building_from
from speechprune.models.label_encoder import LabelEncoder
from speechprune.models.loading import MASK_TALLY, LoadedLabeller, LoadedModel, LoadedRecogniser
from speechprune.models.names import LABELS, WEIGHTS, is_labelling
from speechprune.models.registration import register_all
from speechprune.models.sites import output_layer_of
from speechprune.models.uninitialised import Uninitialised
from speechprune.state_names import HEAD, HEAD_SITES, is_of_masks, key_of

#: The share of the encoder's bytes that heads may take which stay ready to be used, the bytes that
#: they may take beside a small one, and about what each takes beside its tensors.
_ROOM, _LEAST_ROOM, _OVERHEAD = 0.04, 8 << 20, 256 << 10
#: Settings of encoders that change what tensors of the same shapes compute.
_COMPUTATION = (
    *("activation_fn", "encoder_attention_heads", "layer_norm_first", "extractor_mode"),
    *("conv_feature_layers", "conv_pos_groups", "pos_conv_depth", "required_seq_len_multiple"),
    *("layer_type", "attn_type", "pos_enc_type"),
)


class SharedModel:
    """A bank ready for inference, one task at a time.

    Weights exist once: what `use` gives is of its task until another task is used, and refuses to
    run then. Threads may share a model only if they use one task and run its model by turns.

    Args:
        path: of the bank.
        device: where its encoder is to be.

    Attributes:
        bank: the file.

    Raises UserError if the bank cannot be read, or is damaged.
    """

    def __init__(self, path: PathLike, device: torch.device | str = "cpu") -> None:
        register_all()
        self.bank = Bank(path)
        state = base_state_of(self.bank)
        pretraining: Any = OmegaConf.create(state["cfg"])
        self._family = backbone_called(str(pretraining.model.get("_name")))
        self._family.make_known()
        with building_from(path), Uninitialised():
            encoder = self._family.build(pretraining.task, pretraining.model)
        self._encoder = encoder.eval().requires_grad_(False).to(device)
        self._refuse_empty()
        self._switch = Switch(self.bank, self._encoder.state_dict())
        self._places = self._places_now()
        self._heads: OrderedDict[str, LoadedModel] = OrderedDict()
        self._alone = RLock()

    @property
    def tasks(self) -> list[str]:
        """The names of all tasks, in the order in which they were added."""
        return self.bank.names

    def use(self, name: str) -> LoadedModel:
        """The model of a task, until another task is used: it raises UserError if it is run then.

        Raises:
            UserError: there is no such task, it is damaged, or its encoder computes something else
                than the shared one with the same weights.
        """
        with self._alone:
            self._follow()
            self._switch.use(name)
            loaded = self._heads.pop(name, None) or self._with_head(name)
            self._heads[name] = loaded
            self._make_room()
            return loaded

    def _refuse_empty(self) -> None:
        """Raise UserError unless the bank has every tensor that the encoder needs."""
        missing = [name for name in self._encoder.state_dict() if name not in self.bank.base]
        if missing:
            raise UserError(
                f"{self.bank.path}: damaged bank: its model lacks weights, such as {missing[0]}"
            )

    def _places_now(self) -> list[tuple[int, torch.dtype]]:
        """Where the weights of the encoder are, and of which type."""
        return [(weight.data_ptr(), weight.dtype) for weight in self._encoder.parameters()]

    def _follow(self) -> None:
        """Switch the weights where they are now: whoever was given a model may have moved it to
        another device, and with it the encoder, or changed its type."""
        if self._places_now() != self._places:
            self._switch = Switch(self.bank, self._encoder.state_dict())
            self._places = self._places_now()
            self._heads.clear()

    def _make_room(self) -> None:
        """Let go of the heads that were used least lately, if all of them take too much."""
        room = max(_LEAST_ROOM, int(_ROOM * _bytes_of(self._encoder)))
        sizes = [_OVERHEAD + _bytes_of(output_layer_of(h.model)) for h in self._heads.values()]
        while len(sizes) > 1 and sum(sizes) > room:
            sizes.pop(0)
            self._heads.popitem(last=False)

    def _with_head(self, name: str) -> LoadedModel:
        state, path = outline_of(self.bank, name), self.bank.path
        noted = state[PROVENANCE]
        cfg: Any = OmegaConf.create(state["cfg"])
        with building_from(path):
            self._refuse_other_computation(name, cfg.model.w2v_args.model)
            if is_labelling(str(cfg.model.get("_name"))):
                slots = saved_slots(state, path)
                if slots is None:
                    raise UserError(f"{path}: the task {name!r} is damaged: it has no slots")
                encoder = self._around(LabelEncoder, cfg, sum(len(s.classes) for s in slots))
                labeller: Any = MODEL_REGISTRY[LABELS](cfg.model, encoder)
                labeller.slots = slots
                self._finish(labeller, name, state["model"])
                task = _task(cfg, described_slots(slots))
                return LoadedLabeller(path, labeller, task, cfg, noted, slots)
            dictionary = find_dictionary(state, cfg, path, None)
            encoder = self._around(SpeechEncoder, cfg, len(dictionary))
            recogniser: Any = MODEL_REGISTRY[WEIGHTS](cfg.model, encoder)
            self._finish(recogniser, name, state["model"])
            task = _task(cfg, {"target_dictionary": dictionary})
            return LoadedRecogniser(path, recogniser, task, cfg, noted, dictionary)

    def _refuse_other_computation(self, name: str, settings: Mapping[str, Any]) -> None:
        defaults = MODEL_DATACLASS_REGISTRY[self._family.fairseq_name]
        shared = self.bank.settings["model"]
        for key in _COMPUTATION:
            default = getattr(defaults, key, None)
            own, there = (str(given.get(key, default)) for given in (settings, shared))
            if own != there:
                raise UserError(
                    f"the task {name!r} has model.w2v_args.model.{key}={own}, and the shared model "
                    f"{there}: take it out with `speechprune bank extract` to use it"
                )

    def _around(self, kind: type[SpeechEncoder], cfg: Any, outputs: int) -> SpeechEncoder:
        with Uninitialised():
            return kind.around(cfg.model, self._family, self._encoder, outputs)

    def _finish(self, model: Any, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Give a model the output layer of the present task, under its mask if it has one, and let
        it run as long as the task is present."""
        masks = self._switch.masks
        assert masks is not None
        own = {
            key: tensor
            for key, tensor in tensors.items()
            if key.startswith(HEAD) and not is_of_masks(key)
        }
        for site in HEAD_SITES:
            if site in masks:
                own[key_of(site)] = own[key_of(site)] * masks[site]
        head = output_layer_of(model)
        head.load_state_dict({key[len(HEAD) :]: tensor for key, tensor in own.items()})
        weight = next(self._encoder.parameters())
        head.to(device=weight.device, dtype=weight.dtype)
        model.eval().requires_grad_(False)
        setattr(model, MASK_TALLY, masks.tally)
        # Whatever runs the encoder under a head goes through here.
        model.w2v_encoder.register_forward_pre_hook(lambda *_: self._refuse_unless(name))

    def _refuse_unless(self, name: str) -> None:
        """Raise UserError unless the weights are those of a task."""
        present = self._switch.current
        if present != name:
            raise UserError(
                f"this is the model of {name!r}, but the weights of {self.bank.path} are those of "
                f"{present!r} by now; call use({name!r}) again before it is run"
            )


def _task(cfg: Any, outputs: Mapping[str, Any]) -> Any:
    task = tasks.setup_task(cfg.task, from_checkpoint=True)
    task.load_state_dict(dict(outputs))
    return task


def _bytes_of(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())
