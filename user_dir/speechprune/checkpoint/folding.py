"""Folding: masks baked into a checkpoint that unmodified fairseq loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fairseq.criterions.ctc import CtcCriterionConfig
from fairseq.data.dictionary import Dictionary
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from speechprune import __version__
from speechprune.checkpoint.file import PathLike, digest, read, write
from speechprune.checkpoint.finetuned import PROVENANCE, LoadedModel, load_finetuned
from speechprune.errors import UserError
from speechprune.files import write_atomically

#: fairseq finetunes from a checkpoint only if it tells of an optimizer.
_HISTORY = {
    "criterion_name": "CtcCriterion",
    "optimizer_name": "FairseqAdam",
    "lr_scheduler_state": {},
    "num_updates": 0,
}


def fold(path: PathLike, out: PathLike) -> None:
    """Bake the masks of a finetuned checkpoint in: unmodified fairseq loads what is at ``out``.

    ``out`` is a plain `wav2vec_ctc` without optimizer state, whose tensors have the types of the
    source. The alphabet goes to `dict.LABELS.txt` beside it, the folder that its task names.

    Raises:
        UserError: the source cannot be loaded or has no masks, the folder of ``out`` holds another
            alphabet, or a file cannot be written.
    """
    loaded = load_finetuned(path)
    if not hasattr(loaded.model, "fold"):
        raise UserError(f"{path} holds no masks to fold: it is a plain {loaded.cfg.model._name}")
    out = Path(out).absolute()
    controller = getattr(loaded.model, "mask_controller", None)
    masks = controller.mask_set() if controller else {}
    provenance = {
        **loaded.provenance,
        "version": __version__,
        "folded_from": digest(path),
        "density": loaded.density,
        # Of what the zeros alone do not tell for sure: entries kept, and all, by masked tensor.
        "kept": {name: [int(mask.sum()), mask.numel()] for name, mask in masks.items()},
        "target_dictionary": _counted_symbols(loaded.dictionary),
    }
    state = {
        "args": None,
        "cfg": _plain_config(loaded.cfg, out.parent),
        "model": folded_weights(loaded),
        "criterion": None,
        "optimizer_history": [_HISTORY],
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


def folded_weights(loaded: LoadedModel) -> dict[str, Tensor]:
    """The weights with masks baked in, under plain names and in the types that were saved.

    The loaded model has no masks any more.
    """
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
