"""fairseq checkpoints of speech models: pretrained ones, finetuned ones, and folding.

Files are read and written by :mod:`speechprune.checkpoint_file`.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq import checkpoint_utils, tasks
from fairseq.criterions.ctc import CtcCriterionConfig
from fairseq.data.dictionary import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import MODEL_REGISTRY
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig
from fairseq.tasks import FairseqTask
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn

from speechprune import __version__
from speechprune.checkpoint_file import PathLike, allow_known_classes, digest, read, write
from speechprune.errors import UserError
from speechprune.files import write_atomically

__all__ = [
    "LoadedModel",
    "allow_known_classes",
    "check_pretrained",
    "digest",
    "fold",
    "load_finetuned",
    "read",
    "write",
]

#: Where a checkpoint of ours keeps what fairseq has no place for.
PROVENANCE = "speechprune"


@dataclass(frozen=True)
class LoadedModel:
    """A finetuned CTC model, ready for inference.

    Attributes:
        path: the checkpoint.
        model: in evaluation mode, on the CPU.
        task: fairseq's audio_finetuning task.
        dictionary: of the outputs.
        cfg: the checkpoint's configuration, as built.
        provenance: what :func:`fold` noted in the checkpoint; empty for others.
    """

    path: Path
    model: nn.Module
    task: FairseqTask
    dictionary: Dictionary
    cfg: DictConfig
    provenance: Mapping[str, Any]

    @property
    def density(self) -> float:
        """Share of the maskable weights that is kept; 1.0 for a model without masks."""
        controller = getattr(self.model, "mask_controller", None)
        if controller is None:
            return float(self.provenance.get("density", 1.0))
        return float(controller.stats()["density"])


def check_pretrained(path: PathLike, normalize: bool) -> None:
    """Refuse what is not a pretrained model, fit for `model.w2v_path`.

    Args:
        normalize: the task's setting, which must be that of pretraining.

    Raises:
        UserError: the file cannot be read, is a finetuned model, holds no speech encoder, or was
            pretrained with another ``normalize``.
    """
    state = read(path, mmap=True)
    if _is_finetuned(state):
        raise UserError(
            f"{path} is a finetuned model, but model.w2v_path must be the pretrained one; to start "
            f"from it, set checkpoint.finetune_from_model={path}"
        )
    if "mask_emb" not in state["model"]:
        raise UserError(f"{path} holds no pretrained speech encoder; check model.w2v_path")
    task, model = _settings(state)
    pretrained = bool(task.get("normalize", model.get("normalize", False)))
    if pretrained != normalize:
        raise UserError(
            f"{path} was pretrained with normalize={_yaml(pretrained)}, not {_yaml(normalize)}; "
            f"set task.normalize={_yaml(pretrained)}"
        )


def load_finetuned(path: PathLike, data: PathLike | None = None) -> LoadedModel:
    """Build any finetuned CTC checkpoint: a plain `wav2vec_ctc`, one of ours, or a folded one.

    Neither the pretrained file nor the data folder of training has to exist.

    Args:
        data: a folder to take `dict.LABELS.txt` from, if the checkpoint lacks its dictionary.

    Raises:
        UserError: the file cannot be read, is no finetuned CTC model, or its dictionary is nowhere.
    """
    path = Path(path)
    state = _read_finetuned(path)
    cfg = state["cfg"]
    _modernise(cfg, path)
    dictionary = _find_dictionary(state, cfg, path, data)
    task = tasks.setup_task(cfg.task, from_checkpoint=True)
    task.load_state_dict({"target_dictionary": dictionary})
    try:
        model = task.build_model(cfg.model, from_checkpoint=True)
        model.load_state_dict(state["model"], strict=True, model_cfg=cfg.model)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: weights and configuration disagree: {reason}") from error
    model.eval()
    return LoadedModel(path, model, task, dictionary, cfg, state.get(PROVENANCE) or {})


def fold(path: PathLike, out: PathLike) -> None:
    """Bake the masks of a finetuned checkpoint in: unmodified fairseq loads what is at ``out``.

    ``out`` is a plain `wav2vec_ctc` without optimizer state, whose tensors have the types of the
    source. The alphabet goes to `dict.LABELS.txt` beside it, the folder that its task names.

    Raises:
        UserError: the source cannot be loaded, the folder of ``out`` holds another alphabet, or a
            file cannot be written.
    """
    loaded = load_finetuned(path)
    out = Path(out).absolute()
    provenance = {
        "version": __version__,
        "folded_from": digest(path),
        "density": loaded.density,
        "target_dictionary": _counted_symbols(loaded.dictionary),
    }
    state = {
        "args": None,
        "cfg": _plain_config(loaded.cfg, out.parent),
        "model": _folded_weights(loaded),
        "criterion": None,
        "optimizer_history": [
            {
                "criterion_name": "CtcCriterion",
                "optimizer_name": "FairseqAdam",
                "lr_scheduler_state": {},
                "num_updates": 0,
            }
        ],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
        PROVENANCE: provenance,
    }
    alphabet = out.parent / f"dict.{loaded.cfg.task.labels}.txt"
    is_new = _write_alphabet(loaded.dictionary, alphabet)
    try:
        write(state, out)
    except UserError:
        if is_new:
            alphabet.unlink()
        raise


def _is_finetuned(state: Mapping[str, Any]) -> bool:
    return any(key.startswith("w2v_encoder.") for key in state["model"])


def _settings(state: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The settings of task and model; in checkpoints of 2020 they are one flat namespace."""
    if state.get("cfg"):
        sections = (state["cfg"].get("task"), state["cfg"].get("model"))
    else:
        sections = (state["args"], state["args"])
    task, model = (vars(s) if isinstance(s, Namespace) else s or {} for s in sections)
    return task, model


def _read_finetuned(path: Path) -> dict[str, Any]:
    """The state of a finetuned checkpoint, its configuration in today's form."""
    state = read(path, mmap=True)
    if not _is_finetuned(state):
        raise UserError(f"{path} is no finetuned CTC model; finetune a pretrained one first")
    pretrained = getattr(state.get("args"), "w2v_args", None)
    if pretrained is None:
        return checkpoint_utils.load_checkpoint_to_cpu(str(path))
    # fairseq cannot convert a namespace within a namespace: convert the inner one by itself.
    state = checkpoint_utils.load_checkpoint_to_cpu(str(path), {"w2v_args": None})
    with open_dict(state["cfg"]):
        state["cfg"].model.w2v_args = convert_namespace_to_omegaconf(pretrained)
    return state


def _modernise(cfg: DictConfig, path: Path) -> None:
    """Bring an old configuration up to date and refuse what is no CTC model that is known here."""
    name = cfg.model.get("_name") if cfg.get("model") else None
    if name not in MODEL_REGISTRY or "ctc" not in name:
        raise UserError(f"{path} holds a model {name!r}, no CTC model that is known here")
    with open_dict(cfg):
        # The task of 2020 served pretraining and finetuning.
        cfg.task._name = "audio_finetuning"
        cfg.task.labels = cfg.task.get("labels") or "ltr"
    if cfg.model.get("w2v_args") is None:
        raise UserError(f"{path} does not hold the settings of its pretrained model (w2v_args)")


def _find_dictionary(
    state: Mapping[str, Any], cfg: DictConfig, path: Path, data: PathLike | None
) -> Dictionary:
    """The outputs' dictionary: from the checkpoint, or else from a data folder."""
    dictionary = (state.get("task_state") or {}).get("target_dictionary")
    if dictionary is not None:
        return dictionary
    counted = (state.get(PROVENANCE) or {}).get("target_dictionary")
    if counted is not None:
        dictionary = Dictionary()
        for symbol, count in counted:
            dictionary.add_symbol(symbol, n=count)
        return dictionary
    for folder in (data, cfg.task.get("target_dictionary"), cfg.task.get("data")):
        file = Path(folder or "") / f"dict.{cfg.task.labels}.txt"
        if folder and file.is_file():
            return Dictionary.load(str(file))
    raise UserError(
        f"{path} holds no dictionary; give the data folder with its dict.{cfg.task.labels}.txt"
    )


def _folded_weights(loaded: LoadedModel) -> dict[str, Tensor]:
    """The weights with masks baked in, under plain names and in the types that were saved."""
    if hasattr(loaded.model, "fold"):
        loaded.model.fold()
    saved = read(loaded.path, mmap=True)["model"]
    weights = loaded.model.state_dict()
    return {k: v.to(saved[k].dtype) if k in saved else v for k, v in weights.items()}


def _plain_config(cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """The configuration that unmodified fairseq would have saved for a plain `wav2vec_ctc`."""
    plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    plain.pop("job_logging_cfg", None)
    for section, name, known in (
        ("model", "wav2vec_ctc", Wav2Vec2CtcConfig),
        ("criterion", "ctc", CtcCriterionConfig),
    ):
        settings = plain.get(section) or {}
        kept = {k: v for k, v in settings.items() if k in known.__dataclass_fields__}
        plain[section] = {**kept, "_name": name}
    plain["model"]["data"] = str(folder)
    plain["task"].update(data=str(folder), target_dictionary=None)
    if plain.get("common"):
        plain["common"]["user_dir"] = None
    return plain


def _counted_symbols(dictionary: Dictionary) -> list[list[Any]]:
    """[symbol, count] of every symbol that is not one of fairseq's own."""
    own = dictionary.nspecial
    return [[s, int(n)] for s, n in zip(dictionary.symbols[own:], dictionary.count[own:])]


def _write_alphabet(dictionary: Dictionary, path: Path) -> bool:
    """Write `dict.LABELS.txt` and tell whether it is new; the same one may be there already."""
    if not path.exists():
        lines = [f"{symbol} {count}\n" for symbol, count in _counted_symbols(dictionary)]
        write_atomically(path, "".join(lines).encode())
        return True
    if Dictionary.load(str(path)).symbols != dictionary.symbols:
        raise UserError(f"{path} is another model's alphabet; fold into another folder")
    return False


def _yaml(value: bool) -> str:
    return str(value).lower()
