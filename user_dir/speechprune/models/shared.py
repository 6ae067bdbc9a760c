"""The model of a bank: one encoder, which is made one task's after another's, with its head."""

from __future__ import annotations

from speechprune import quiet_fairseq  # noqa: F401  (before fairseq)

# isort: split
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from fairseq import tasks
from fairseq.models import MODEL_REGISTRY
from omegaconf import OmegaConf
from torch import Tensor, nn

from speechprune.backbones import backbone_called
from speechprune.bank.bank import Bank
from speechprune.bank.switching import Switch
from speechprune.checkpoint.banked import base_state_of, outline_of
from speechprune.checkpoint.file import PathLike
from speechprune.checkpoint.finetuned import find_dictionary
from speechprune.checkpoint.slots import described_slots, saved_slots
from speechprune.errors import UserError
from speechprune.models.encoder import SpeechEncoder, building_from
from speechprune.models.label_encoder import LabelEncoder
from speechprune.models.loading import LoadedLabeller, LoadedModel, LoadedRecogniser
from speechprune.models.names import LABELS, WEIGHTS, is_labelling
from speechprune.models.registration import register_all
from speechprune.models.sites import output_layer_of
from speechprune.models.uninitialised import Uninitialised
from speechprune.state_names import HEAD, HEAD_SITES, is_of_masks, key_of

#: Heads that stay ready to be used.
_READY = 8


class SharedModel:
    """A bank ready for inference, one task at a time.

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
        self._switch = Switch(self.bank, self._encoder.state_dict())
        self._heads: OrderedDict[str, LoadedModel] = OrderedDict()

    @property
    def tasks(self) -> list[str]:
        """The names of all tasks, in the order in which they were added."""
        return self.bank.names

    def use(self, name: str) -> LoadedModel:
        """The model of a task; any that was given before is this one's then, but for its head.

        Raises:
            UserError: there is no such task, or it is damaged.
        """
        self._switch.use(name)
        loaded = self._heads.pop(name, None) or self._with_head(name)
        self._heads[name] = loaded
        while len(self._heads) > _READY:
            self._heads.popitem(last=False)
        return loaded

    def _with_head(self, name: str) -> LoadedModel:
        state, path = outline_of(self.bank, name), self.bank.path
        assert self._switch.masks is not None
        noted = {"density": self._switch.masks.density}
        cfg: Any = OmegaConf.create(state["cfg"])
        with building_from(path):
            if is_labelling(str(cfg.model.get("_name"))):
                slots = saved_slots(state, path)
                if slots is None:
                    raise UserError(f"{path}: the task {name!r} is damaged: it has no slots")
                encoder = self._around(LabelEncoder, cfg, sum(len(s.classes) for s in slots))
                labeller: Any = MODEL_REGISTRY[LABELS](cfg.model, encoder)
                labeller.slots = slots
                self._fill_head(labeller, state["model"])
                task = _task(cfg, described_slots(slots))
                return LoadedLabeller(path, labeller, task, cfg, noted, slots)
            dictionary = find_dictionary(state, cfg, path, None)
            encoder = self._around(SpeechEncoder, cfg, len(dictionary))
            recogniser: Any = MODEL_REGISTRY[WEIGHTS](cfg.model, encoder)
            self._fill_head(recogniser, state["model"])
            task = _task(cfg, {"target_dictionary": dictionary})
            return LoadedRecogniser(path, recogniser, task, cfg, noted, dictionary)

    def _around(self, kind: type[SpeechEncoder], cfg: Any, outputs: int) -> SpeechEncoder:
        with Uninitialised():
            return kind.around(cfg.model, self._family, self._encoder, outputs)

    def _fill_head(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Give a model the output layer of the present task, under its mask if it has one."""
        own = {
            key: tensor
            for key, tensor in tensors.items()
            if key.startswith(HEAD) and not is_of_masks(key)
        }
        assert self._switch.masks is not None
        for site in HEAD_SITES:
            if site in self._switch.masks:
                own[key_of(site)] = own[key_of(site)] * self._switch.masks[site]
        head = output_layer_of(model)
        head.load_state_dict({key[len(HEAD) :]: tensor for key, tensor in own.items()})
        model.to(next(self._encoder.parameters()).device).eval().requires_grad_(False)


def _task(cfg: Any, outputs: Mapping[str, Any]) -> Any:
    task = tasks.setup_task(cfg.task, from_checkpoint=True)
    task.load_state_dict(dict(outputs))
    return task
