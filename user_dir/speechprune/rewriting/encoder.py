"""The encoder of a finetuned checkpoint, as a pretrained one."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from speechprune.checkpoint.file import PathLike
from speechprune.checkpoint.layers import lost_layers
from speechprune.checkpoint.pretrained import pretrained_state
from speechprune.models.declaration import declared
from speechprune.models.loading import load_finetuned, read_known
from speechprune.rewriting.folding import folded_weights
from speechprune.rewriting.rewriting import Rewriting
from speechprune.state_names import encoder_tensors


def export_encoder(path: PathLike, out: PathLike) -> None:
    """Write the encoder of a finetuned checkpoint as a pretrained one, fit for `model.w2v_path`.

    Masks are baked in; the tensors have the types of the source.

    Raises:
        UserError: the source cannot be read or is no finetuned CTC model, or ``out`` is the source
            or cannot be written.
    """
    rewriting = Rewriting(path, out)
    state = read_known(path)
    pretrained = _pretrained_configuration(state["cfg"])
    noted: dict[str, Any] = {"encoder_of": rewriting.digest}
    lost = lost_layers(state)
    if lost is not None:
        noted.update(layers=lost.layers, dropped=list(lost.dropped))
    weights = _encoder_weights(path, state)
    exported = pretrained_state(weights, pretrained["task"], pretrained["model"], updates=0)
    # The dictionary is that of the head, which stays behind.
    rewriting.write(exported, noted, forget=("target_dictionary",))


def _pretrained_configuration(cfg: DictConfig) -> dict[str, Any]:
    """The settings of pretraining that a finetuned model keeps."""
    pretrained = cfg.model.w2v_args
    if isinstance(pretrained, Namespace):
        pretrained = convert_namespace_to_omegaconf(pretrained)
    container: Any = OmegaConf.to_container(pretrained, resolve=True, enum_to_str=True)
    return container


def _encoder_weights(path: PathLike, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The encoder's tensors, under the names that they have in a pretrained checkpoint."""
    weights = state["model"]
    # A plain model is not built: the published ones of 2020 lack the dictionary that it takes.
    if declared(state["cfg"].model._name).has_masks:
        weights = folded_weights(load_finetuned(path))
    return encoder_tensors(weights)
