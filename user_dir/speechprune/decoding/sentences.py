"""The classes or values of sentences, and how well a model tells them in a prepared folder.

What a model tells of a sentence does not depend on what shares its batch, but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from fairseq.data.dictionary import Dictionary
from fairseq.tasks.sentence_prediction import SentencePredictionConfig, SentencePredictionTask
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor
from tqdm import tqdm

from speechprune.checkpoint import PathLike, read
from speechprune.checkpoint.finetuned import read_finetuned
from speechprune.checkpoint.text import SYMBOLS, find_symbols, read_text_model
from speechprune.decoding import MAX_SYMBOLS
from speechprune.decoding.inference import batches, best_device, count_parameters
from speechprune.decoding.text_metrics import MeasuredMetric, measure
from speechprune.errors import UserError
from speechprune.manifests.glue.folder import task_of_folder
from speechprune.manifests.glue.tasks import TextTask
from speechprune.models.loading import LoadedSentences
from speechprune.models.sentence_symbols import refuse_other_symbols
from speechprune.models.sentences import network_of, refuse_other_task
from speechprune.state_names import is_finetuned


@dataclass(frozen=True)
class SentenceEvaluation:
    """How well and how fast a model tells the classes or values of sentences.

    Attributes:
        task: what is told.
        metrics: its official ones, in order.
        examples: how many there were.
        parameters: tensor entries that inference reads, masked ones included, scores excluded.
        density: share of the maskable weights that is kept.
        seconds: time spent in the model.
        device: "cpu" or "cuda".
    """

    task: TextTask
    metrics: tuple[MeasuredMetric, ...]
    examples: int
    parameters: int
    density: float
    seconds: float
    device: str

    @property
    def error(self) -> float:
        """1 less the first metric: what is compared where others have error rates."""
        return 1.0 - self.metrics[0].value

    @property
    def rate_names(self) -> dict[str, str]:
        """What is compared, by its name in JSON, and what tables call it."""
        return {"error": self.task.error}

    @property
    def speed(self) -> float:
        """Examples per second."""
        return self.examples / self.seconds


def evaluate_sentences(
    loaded: LoadedSentences,
    folder: Path,
    name: str,
    *,
    max_tokens: int = MAX_SYMBOLS,
    batch_size: int | None = None,
) -> SentenceEvaluation:
    """Tell the class or value of every sentence of a split, and compare it with its own.

    Args:
        folder: as `prepare glue` makes it, or fairseq's own script.
        name: of the split, such as valid.
        max_tokens: symbols in a batch, padding included.
        batch_size: at most this many sentences in a batch; None for no such limit.

    Raises:
        UserError: there is no such split, it has no labels, or the folder has other symbols or
            classes than the model.
    """
    task = task_of_folder(folder)
    data = read_labelled(loaded, folder, name)
    device = best_device()
    model = loaded.model.to(device)
    told: list[np.ndarray] = [np.empty(0)] * len(data)
    start = perf_counter()
    numbers = list(batches(data.sizes[0].tolist(), max_tokens, batch_size))
    for batch in tqdm(numbers, disable=None, unit="batch"):
        scores = _scores(loaded, model, symbols_in(data, batch).to(device))
        for index, row in zip(batch, scores):
            told[index] = row
    seconds = perf_counter() - start
    return SentenceEvaluation(
        task=task,
        metrics=measured(task, told, targets_in(data)),
        examples=len(data),
        parameters=count_parameters(loaded.model),
        density=loaded.density,
        seconds=seconds,
        device=device.type,
    )


def measured(
    task: TextTask, outputs: Sequence[np.ndarray], targets: np.ndarray
) -> tuple[MeasuredMetric, ...]:
    """The official metrics of a task.

    Args:
        outputs: of the output layer, (classes,) for each text.
        targets: classes, as numbers of outputs, or values, (texts,).
    """
    return tuple(measure(task, predictions(task, np.stack(outputs)), targets))


def predictions(task: TextTask, outputs: np.ndarray) -> np.ndarray:
    """The classes or values, (texts,), that outputs (texts, classes) tell.

    Raises:
        UserError: an output is not a number: the class would be the first one, whatever is read.
    """
    wrong = np.flatnonzero(np.isnan(outputs).any(axis=1))
    if len(wrong):
        raise UserError(
            f"the scores of text {wrong[0]} are not numbers; the model is damaged, or its training "
            "diverged"
        )
    told: np.ndarray = outputs[:, 0] if task.has_scores else outputs.argmax(1)
    return told


def symbols_in(data: Any, batch: Sequence[int]) -> Tensor:
    """Some texts of a split as a model takes them: numbers of symbols, padded, int64 (B, T)."""
    sample = data.collater([data[index] for index in batch])
    symbols: Tensor = sample["net_input"]["src_tokens"]
    return symbols


def targets_in(data: Any) -> np.ndarray:
    """What is to be told of each text of a split, float64 (texts,)."""
    # Values are lists of one.
    return np.array([float(np.ravel(data[index]["target"])[0]) for index in range(len(data))])


@torch.inference_mode()
def _scores(loaded: LoadedSentences, model: Any, symbols: Tensor) -> np.ndarray:
    """What the output layer gives, float32 (B, classes)."""
    head = loaded.task.cfg.classification_head_name
    logits, _ = model(src_tokens=symbols, features_only=True, classification_head_name=head)
    scores: np.ndarray = logits.float().cpu().numpy()
    return scores


def read_sentences(loaded: LoadedSentences, folder: Path, name: str) -> Any:
    """A split as fairseq's task reads it, in the order of its file.

    Raises:
        UserError: there is no such split, or a text in it is too long for the model, or the folder
            has other symbols or classes than the model.
    """
    _refuse_other_symbols(loaded.symbols, folder, "input0", loaded.path)
    labels = folder / "label" / "dict.txt"
    if loaded.classes is not None:
        _refuse_other_symbols(loaded.classes, folder, "label", loaded.path)
    elif labels.exists():
        raise UserError(f"{loaded.path} tells values, but {labels} lists classes")
    return _split(loaded.task.cfg, loaded.symbols, folder, name)


def read_labelled(loaded: LoadedSentences, folder: Path, name: str) -> Any:
    """The same of a split with labels; raises UserError also if it has none."""
    data = read_sentences(loaded, folder, name)
    if "target" not in data[0]:
        raise UserError(f"the split {name} of {folder} has no labels to compare with")
    return data


def read_texts(path: PathLike, folder: Path, name: str) -> Any:
    """A split as the encoder of text in a file reads it, whatever its labels.

    The model of the file, pretrained or finetuned, is not built. Pretraining begins a text with
    fairseq's first symbol, and no file of it holds a dictionary: that of the folder has to be as
    long.

    Raises:
        UserError: the file cannot be read, there is no such split, or the folder has other symbols
            than the model, or a text that is too long for it.
    """
    if is_finetuned(read(path, mmap=True)["model"]):
        state = read_finetuned(path)
        symbols = find_symbols(state, SYMBOLS, path, folder)
        _refuse_other_symbols(symbols, folder, "input0", path)
        return _split(state["cfg"].task, symbols, folder, name)
    found = read_text_model(path)
    network = network_of(found.settings)
    symbols = _symbols_of(folder, "input0")
    task = SentencePredictionConfig(
        data=str(folder),
        init_token=symbols.bos(),
        separator_token=symbols.eos(),
        max_positions=network["max_positions"],
        seed=0,
    )
    built = SentencePredictionTask(task, symbols, symbols)
    refuse_other_task(built, network, str(path))
    refuse_other_symbols(path, found, built)
    return _split(OmegaConf.structured(task), symbols, folder, name)


def _split(cfg: DictConfig, symbols: Dictionary, folder: Path, name: str) -> Any:
    """A split with the labels that its folder has.

    Args:
        cfg: of the task of a model.
    """
    if not (folder / "input0" / f"{name}.idx").is_file():
        raise UserError(f"{folder} has no split {name}: there is no input0/{name}.idx")
    of_values = not (folder / "label" / "dict.txt").exists()
    classes = symbols if of_values else _symbols_of(folder, "label")
    task = SentencePredictionTask(cfg.copy(), symbols, classes)
    with open_dict(task.cfg):
        task.cfg.update(data=str(folder), no_shuffle=True, regression_target=of_values)
        if of_values:
            task.cfg.num_classes = 1
    data = task.load_dataset(name)
    lengths, most = np.asarray(data.sizes[0]), int(task.cfg.max_positions)
    if len(lengths) and lengths.max() > most:
        raise UserError(
            f"text {int(lengths.argmax())} of {name} in {folder} has {lengths.max()} symbols, but "
            f"the model reads {most} at most; shorten it"
        )
    return data


def _symbols_of(folder: Path, place: str) -> Dictionary:
    """A dictionary of a folder: of ``input0`` or ``label``."""
    path = folder / place / "dict.txt"
    if not path.is_file():
        raise UserError(f"there is no {path}; name a folder that `prepare glue` has written")
    dictionary: Dictionary = SentencePredictionTask.load_dictionary(str(path))
    return dictionary


def _refuse_other_symbols(own: Dictionary, folder: Path, place: str, path: PathLike) -> None:
    """Raise UserError if a dictionary of a folder is not that of the model: it would read other
    words than there are, or tell other classes than it means."""
    if _symbols_of(folder, place).symbols != own.symbols:
        raise UserError(
            f"{folder / place / 'dict.txt'} is not the dictionary of {path}; prepare the data with "
            "that one"
        )
