"""A checkpoint of fairseq's as a folder that Hugging Face's transformers loads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from speechprune.bank.bank import Bank
from speechprune.checkpoint.file import PathLike, read
from speechprune.checkpoint.finetuned import listening
from speechprune.checkpoint.layers import family_of
from speechprune.checkpoint.settings import encoder_of
from speechprune.checkpoint.slimming import is_uncut, slim_plan_in
from speechprune.checkpoint.slots import saved_slots
from speechprune.checkpoint.text import refuse_text
from speechprune.decoding.bank import is_bank
from speechprune.errors import UserError
from speechprune.exporting.comparing import TOLERANCE, heard, largest_difference, refuse_difference
from speechprune.exporting.hearing import fairseq_hears, folder_hears
from speechprune.exporting.huggingface_card import Card, rate_of_checkpoint
from speechprune.exporting.huggingface_config import (
    config_of,
    extractor_config,
    network_of_settings,
    training_config,
)
from speechprune.exporting.huggingface_heads import Head, head_of
from speechprune.exporting.huggingface_names import PREFIXES, renamed_to_hugging_face
from speechprune.exporting.network import Network
from speechprune.files import folder_beside, new_folder, refuse_existing, write_atomically
from speechprune.huggingface.availability import prepare_transformers
from speechprune.rewriting.banking import extract
from speechprune.rewriting.plain_checkpoint import PlainCheckpoint, read_plain
from speechprune.state_names import encoder_tensors, is_finetuned

#: What Hugging Face's classes are called, after the family's own name.
_CLASSES = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert", "data2vec_audio": "Data2VecAudio"}


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: with all files.
        kind: the class of transformers that loads it.
        difference: the largest between the outputs of both models.
    """

    folder: Path
    kind: str
    difference: float


def export_huggingface(
    path: PathLike,
    folder: PathLike,
    *,
    task: str | None = None,
    tolerance: float = TOLERANCE,
    measured_on: tuple[Path, str] | None = None,
) -> Exported:
    """Write a checkpoint, its masks baked in, as a folder that transformers loads.

    A CTC model is loaded by `AutoModelForCTC` and `AutoProcessor`, one for labels of a single slot
    by `AutoModelForAudioClassification`, and an encoder by `AutoModel`. What is written is loaded
    by transformers and compared with the source, masks and all, on noise; where both libraries make
    the same of padding, in a padded batch too. The tensors have the types of the source.

    Args:
        task: of a bank; None for a checkpoint.
        tolerance: the largest difference of outputs.
        measured_on: a folder of manifests and the name of a split, whose error rate goes on the
            model card; without it, that of validation in training does, if there is one.

    Raises:
        UserError: transformers is missing, something is at ``folder``, the source cannot be read,
            is of another family, slim or of text, or the outputs differ.
    """
    prepare_transformers()
    refuse_existing(folder)
    with _checkpoint(path, task, folder) as source:
        refuse_text(source, "`speechprune export huggingface` writes models of speech")
        state = read(source, mmap=True)
        _refuse_slim(path, state)
        family = family_of(state, path).fairseq_name
        plain = read_plain(source)
        network = network_of_settings(family, encoder_of(plain.cfg["model"]), path)
        head = head_of(plain, network, path)
        kind = _CLASSES[family] + head.suffix
        measured = rate_of_checkpoint(path, source, task=task, measured_on=measured_on)
        with new_folder(folder) as written:
            _write(written, plain, network, head, kind)
            difference = _difference(source, written, kind, network)
            refuse_difference(path, difference, tolerance, what="the Hugging Face folder")
            card = Card(Path(path), Path(folder).name, kind, plain, network, measured, difference)
            write_atomically(written / "README.md", card.text(task).encode())
    return Exported(Path(folder), kind, difference)


@contextmanager
def _checkpoint(path: PathLike, task: str | None, folder: PathLike) -> Iterator[Path]:
    """The file of a checkpoint, or that of a task of a bank, which is gone afterwards."""
    if not is_bank(path):
        if task is not None:
            raise UserError(f"{path} is a checkpoint of one task and not a bank: leave out --task")
        yield Path(path)
        return
    if task is None:
        names = ", ".join(Bank(path).names) or "it has none yet"
        raise UserError(f"{path} is a bank: name one of its tasks by --task ({names})")
    with folder_beside(folder) as temporary:
        extract(path, task, temporary / "task.pt")
        yield temporary / "task.pt"


def _refuse_slim(path: PathLike, state: Mapping[str, Any]) -> None:
    if slim_plan_in(state) is not None or is_uncut(state["model"]):
        # CTC models only: others cannot be exported to ONNX either.
        is_ctc = is_finetuned(state["model"]) and saved_slots(state, path) is None
        hint = "; `speechprune export onnx` writes it as it is" if is_ctc else ""
        raise UserError(
            f"{path} has lost heads and channels, and Hugging Face has one number of them for all "
            f"layers{hint}"
        )


def _write(folder: Path, plain: PlainCheckpoint, network: Network, head: Head, kind: str) -> None:
    """Write all files but the card."""
    prefixed = bool(plain.prefix)
    own = encoder_tensors(plain.tensors) if prefixed else plain.tensors
    needed = plain.encoder.state_dict()
    encoder = renamed_to_hugging_face(network, {key: own[key] for key in needed}, plain.path)
    prefix = PREFIXES[network.family] if prefixed else ""
    tensors = {**{prefix + key: value for key, value in encoder.items()}, **head.tensors}
    finetuning = plain.cfg["model"] if prefixed else {}
    normalize, rate = listening(plain.path)
    config = {
        "architectures": [kind],
        **config_of(network),
        **training_config(encoder_of(plain.cfg["model"]), finetuning),
        **head.config,
    }
    files = {
        "config.json": config,
        "preprocessor_config.json": extractor_config(
            normalize, rate, has_tokenizer=bool(head.files)
        ),
        **head.files,
    }
    for name, content in files.items():
        text = json.dumps(content, indent=2, ensure_ascii=False)
        write_atomically(folder / name, f"{text}\n".encode())
    _save(tensors, folder / "model.safetensors")


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        save_file(whole, path, metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path.parent} cannot be written: {error}") from error


def _difference(source: Path, folder: Path, kind: str, network: Network) -> float:
    """The largest between the outputs of a checkpoint and those of a folder that was written."""
    ours, theirs = fairseq_hears(source), folder_hears(folder, kind)
    alone = largest_difference(heard(ours), heard(theirs))
    if not network.pads_alike:
        return alone
    together = largest_difference(heard(ours, together=True), heard(theirs, together=True))
    return max(alone, together)
