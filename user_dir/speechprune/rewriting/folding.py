"""Folding: masks baked into a checkpoint that unmodified fairseq loads."""

from __future__ import annotations

from speechprune import quiet_fairseq  # noqa: F401  (before fairseq)

# isort: split
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fairseq.criterions.ctc import CtcCriterionConfig
from fairseq.data.dictionary import Dictionary
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from speechprune.backbones import find_backbone
from speechprune.checkpoint.file import PathLike, read
from speechprune.checkpoint.outputs import counted_symbols, dictionary_of
from speechprune.checkpoint.text import MASK
from speechprune.checkpoint.training_state import HISTORY
from speechprune.errors import UserError
from speechprune.files import make_folder, write_atomically
from speechprune.models.declaration import declared
from speechprune.models.loading import (
    LoadedLabeller,
    LoadedModel,
    LoadedSentences,
    load_finetuned,
)
from speechprune.models.names import ROBERTA
from speechprune.models.plain import PlainModel, plain_model, without_masks
from speechprune.models.sites import encoder_of_model
from speechprune.rewriting.rewriting import Rewriting

#: What a folded checkpoint has in the place of the state of a run.
_AT_REST: Mapping[str, Any] = {
    "args": None,
    "criterion": None,
    "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
}


def fold(path: PathLike, out: PathLike, *, layout: str = "wav2vec2") -> str:
    """Bake the masks of a finetuned checkpoint in: unmodified fairseq loads what is at ``out``.

    ``out`` is a plain `wav2vec_ctc` without optimizer state, whose tensors have the types of the
    source. A model for labels becomes a plain one for labels, which only speechprune knows, and one
    for sentences a plain `roberta`. The alphabet goes to `dict.LABELS.txt` beside it, the folder
    that its task names.

    Args:
        layout: of a HuBERT encoder. wav2vec2 is the same network in a file that every version of
            fairseq loads, with equal logits (in padded batches its own code counts their frames in
            another way). hubert is fairseq's own `hubert_ctc`, which its versions after 0.12.2
            cannot build.

    Returns:
        What fairseq's registry calls the model that was written.

    Raises:
        UserError: the source cannot be loaded, has no masks or is slim, the folder of ``out`` holds
            another alphabet, or a file cannot be written.
    """
    rewriting = Rewriting(path, out)
    loaded = load_finetuned(path)
    family = find_backbone(encoder_of_model(loaded.model))
    if family.slim_plan(encoder_of_model(loaded.model)) is not None:
        raise UserError(
            f"{path} cannot be folded: heads and channels were cut out of it, and unmodified "
            "fairseq cannot open such layers; the commands of speechprune and its training take it "
            "as it is, and `slim apply` bakes masks in"
        )
    if isinstance(loaded, LoadedLabeller):
        return _fold_labeller(rewriting, loaded)
    if isinstance(loaded, LoadedSentences):
        return _fold_sentences(rewriting, loaded)
    plain = plain_model(family, layout)
    if not hasattr(loaded.model, "fold") and family.fits_fairseqs_ctc:
        raise UserError(f"{path} holds no masks to fold: it is a plain {plain.name}")
    out = Path(out).absolute()
    noted = {
        **_noted_of_masks(rewriting, loaded),
        "target_dictionary": counted_symbols(loaded.dictionary),
    }
    cfg = _fairseqs_config(loaded.cfg, plain, out.parent)
    state = {
        **_AT_REST,
        "cfg": cfg,
        "model": {**plain.adapt(cfg["model"]), **folded_weights(loaded)},
        "optimizer_history": [HISTORY],
        "task_state": {},
    }
    name = f"dict.{loaded.cfg.task.labels}.txt"
    with _dictionaries(out.parent, {name: counted_symbols(loaded.dictionary)}):
        rewriting.write(state, noted)
    return plain.name


def _fold_sentences(rewriting: Rewriting, loaded: LoadedSentences) -> str:
    """As `fold`, of a model for sentences: a plain `roberta`, whose dictionaries go to `input0`
    and `label` beside it."""
    plain = without_masks(loaded.cfg.model._name)
    if not hasattr(loaded.model, "fold"):
        raise UserError(f"{loaded.path} holds no masks to fold: it is a plain {plain.name}")
    folder = Path(rewriting.out).absolute().parent
    noted = _noted_of_masks(rewriting, loaded)
    state = {
        **_AT_REST,
        "cfg": _fairseqs_config(loaded.cfg, plain, folder),
        "model": folded_weights(loaded),
        "optimizer_history": [HISTORY],
        "task_state": rewriting.state.get("task_state") or {},
    }
    dictionaries = {"input0/dict.txt": _without_mask(loaded.symbols)}
    if loaded.classes is not None:
        dictionaries["label/dict.txt"] = _without_mask(loaded.classes)
    with _dictionaries(folder, dictionaries):
        rewriting.write(state, noted)
    return plain.name


def _without_mask(dictionary: Dictionary) -> list[list[Any]]:
    """Counted symbols less the one for masked words, which the task adds to what it reads."""
    return [pair for pair in counted_symbols(dictionary) if pair[0] != MASK]


def _fold_labeller(rewriting: Rewriting, loaded: LoadedLabeller) -> str:
    """As `fold`, of a model for labels, which only speechprune can open; the classes stay in it."""
    plain = without_masks(loaded.cfg.model._name)
    if not declared(loaded.cfg.model._name).has_masks:
        raise UserError(f"{loaded.path} holds no masks to fold: it is a plain {plain.name}")
    container: Any = OmegaConf.to_container(loaded.cfg, resolve=True, enum_to_str=True)
    noted = _noted_of_masks(rewriting, loaded)
    state = {
        **_AT_REST,
        "cfg": plain_config(container, plain),
        "model": folded_weights(loaded),
        "optimizer_history": rewriting.state.get("optimizer_history"),
        "task_state": rewriting.state["task_state"],
    }
    rewriting.write(state, noted)
    return plain.name


def _noted_of_masks(rewriting: Rewriting, loaded: LoadedModel) -> dict[str, Any]:
    controller = getattr(loaded.model, "mask_controller", None)
    masks = controller.mask_set() if controller else {}
    return {
        "folded_from": rewriting.digest,
        "density": loaded.density,
        # Of what the zeros alone do not tell for sure: entries kept, and all, by masked tensor.
        "kept": {name: [int(mask.sum()), mask.numel()] for name, mask in masks.items()},
    }


def folded_weights(loaded: LoadedModel) -> dict[str, Tensor]:
    """The weights with masks baked in, under plain names and in the types that were saved.

    The loaded model has no masks any more.
    """
    if hasattr(loaded.model, "fold"):
        loaded.model.fold()
    saved = read(loaded.path, mmap=True)["model"]
    weights = loaded.model.state_dict()
    return {k: v.to(saved[k].dtype) if k in saved else v for k, v in weights.items()}


def plain_config(cfg: Mapping[str, Any], model: PlainModel) -> dict[str, Any]:
    """A configuration, of plain containers, without what the plain model does not read."""
    plain = {name: section for name, section in cfg.items() if name != "job_logging_cfg"}
    plain["model"] = model.settings(plain["model"], str(plain["model"].get("data", ".")))
    if not model.is_fairseqs or model.name == ROBERTA:
        return plain
    criterion = plain.get("criterion") or {}
    known = CtcCriterionConfig.__dataclass_fields__
    plain["criterion"] = {k: v for k, v in criterion.items() if k in known} | {"_name": "ctc"}
    return plain


def _fairseqs_config(cfg: DictConfig, model: PlainModel, folder: Path) -> dict[str, Any]:
    """The configuration that unmodified fairseq would have saved for a plain model."""
    container: Any = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    plain = plain_config(container, model)
    plain["model"]["data"] = str(folder)
    plain["task"]["data"] = str(folder)
    if "target_dictionary" in plain["task"]:
        plain["task"]["target_dictionary"] = None
    if plain.get("common"):
        plain["common"]["user_dir"] = None
    return plain


@contextmanager
def _dictionaries(folder: Path, by_name: Mapping[str, list[list[Any]]]) -> Iterator[None]:
    """Write dictionaries, which are gone again if what is done then fails; the same may be there
    already.

    Raises:
        UserError: others are there.
    """
    new = []
    for name, counted in by_name.items():
        path = folder / name
        if not path.exists():
            if path.parent != folder:
                make_folder(path.parent)
            lines = [f"{symbol} {count}\n" for symbol, count in counted]
            write_atomically(path, "".join(lines).encode())
            new.append(path)
        elif Dictionary.load(str(path)).symbols != dictionary_of(counted).symbols:
            raise UserError(f"{path} is another model's alphabet; fold into another folder")
    try:
        yield
    except UserError:
        for path in new:
            path.unlink()
            if path.parent != folder:
                with suppress(OSError):  # of other files in it
                    path.parent.rmdir()
        raise
