"""The classes or values of sentences, and how well a model tells them in a prepared folder.

What a model tells of a sentence does not depend on what shares its batch, but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from fairseq.tasks.sentence_prediction import SentencePredictionConfig, SentencePredictionTask
from omegaconf import OmegaConf, open_dict
from tqdm import tqdm

from speechprune.checkpoint.file import PathLike
from speechprune.checkpoint.text import read_text_model
from speechprune.decoding.inference import best_device, count_parameters
from speechprune.decoding.text_metrics import MeasuredMetric, measure
from speechprune.errors import UserError
from speechprune.manifests.glue.folder import task_of_folder
from speechprune.manifests.glue.tasks import TextTask
from speechprune.models.loading import LoadedSentences
from speechprune.models.sentence_symbols import refuse_other_symbols
from speechprune.state_names import VOCABULARY

#: How GLUE's configs join sentences, for an encoder whose settings say nothing of them.
_OF_GLUE = {
    **{"init_token": 0, "separator_token": 2, "no_shuffle": True},
    **{"regression_target": False, "classification_head_name": "", "seed": 0},
}
#: Symbols in a batch, padding included.
MAX_SYMBOLS = 16384


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
    def speed(self) -> float:
        """Examples per second."""
        return self.examples / self.seconds


def evaluate_sentences(
    loaded: LoadedSentences,
    folder: Path,
    name: str,
    *,
    max_symbols: int = MAX_SYMBOLS,
    batch_size: int | None = None,
) -> SentenceEvaluation:
    """Tell the class or value of every sentence of a split, and compare it with its own.

    Args:
        folder: as `prepare glue` makes it, or fairseq's own script.
        name: of the split, such as valid.
        max_symbols: in a batch, padding included.
        batch_size: at most this many sentences in a batch; None for no such limit.

    Raises:
        UserError: there is no such split, it has no labels, or the folder has other symbols or
            classes than the model.
    """
    task = task_of_folder(folder)
    data = read_sentences(loaded, folder, name)
    if "target" not in data[0]:
        raise UserError(f"the split {name} of {folder} has no labels to compare with")
    device = best_device()
    model = loaded.model.to(device)
    told: list[np.ndarray] = [np.empty(0)] * len(data)
    targets = np.empty(len(data))
    start = perf_counter()
    for batch in tqdm(list(_batches(data, max_symbols, batch_size)), disable=None, unit="batch"):
        sample = data.collater([data[index] for index in batch])
        scores = _scores(loaded, model, sample, device)
        for index, row, target in zip(batch, scores, sample["target"].view(-1).tolist()):
            told[index], targets[index] = row, target
    seconds = perf_counter() - start
    outputs = np.stack(told)
    predictions = outputs[:, 0] if loaded.classes is None else outputs.argmax(1)
    return SentenceEvaluation(
        task=task,
        metrics=tuple(measure(task, predictions, targets)),
        examples=len(data),
        parameters=count_parameters(loaded.model),
        density=loaded.density,
        seconds=seconds,
        device=device.type,
    )


@torch.inference_mode()
def _scores(loaded: LoadedSentences, model: Any, sample: Any, device: torch.device) -> np.ndarray:
    """What the output layer gives, float32 (B, classes)."""
    head = loaded.task.cfg.classification_head_name
    tokens = sample["net_input"]["src_tokens"].to(device)
    logits, _ = model(src_tokens=tokens, features_only=True, classification_head_name=head)
    scores: np.ndarray = logits.float().cpu().numpy()
    return scores


def read_sentences(loaded: LoadedSentences, folder: Path, name: str) -> Any:
    """A split as fairseq's task reads it, in the order of its file.

    Raises:
        UserError: there is no such split, or the folder has other symbols or classes than the
            model.
    """
    _refuse_other_symbols(loaded, folder)
    _refuse_no_split(folder, name)
    task = SentencePredictionTask(
        loaded.task.cfg.copy(), loaded.symbols, loaded.classes or loaded.symbols
    )
    with open_dict(task.cfg):
        task.cfg.update(data=str(folder), no_shuffle=True)
    return task.load_dataset(name)


def read_texts(path: PathLike, folder: Path, name: str) -> Any:
    """The same for an encoder alone, which no label is read for.

    Args:
        path: of its checkpoint, pretrained or finetuned.

    Raises:
        UserError: there is no such split, or the folder has other symbols than the encoder.
    """
    _refuse_no_split(folder, name)
    file, found = folder / "input0" / "dict.txt", read_text_model(path)
    if not file.is_file():
        raise UserError(f"there is no {file}; name a folder that `prepare glue` has written")
    symbols = SentencePredictionTask.load_dictionary(str(file))
    cfg = OmegaConf.structured(SentencePredictionConfig(data=str(folder), **_OF_GLUE))
    task = SentencePredictionTask(cfg, symbols, symbols)
    known = found.settings[VOCABULARY]
    if len(symbols) != known:
        raise UserError(
            f"{file} has {len(symbols)} symbols with fairseq's own, but {path} has {known}; "
            "prepare the data with its dictionary"
        )
    refuse_other_symbols(path, found, task)
    return task.load_dataset(name)


def _refuse_no_split(folder: Path, name: str) -> None:
    if not (folder / "input0" / f"{name}.idx").is_file():
        raise UserError(f"{folder} has no split {name}: there is no input0/{name}.idx")


def _refuse_other_symbols(loaded: LoadedSentences, folder: Path) -> None:
    """Raise UserError if the dictionaries of a folder are not those of the model: it would read
    other words than there are, or tell other classes than it means."""
    for own, place in ((loaded.symbols, "input0"), (loaded.classes, "label")):
        path = folder / place / "dict.txt"
        if own is None:
            if path.exists():
                raise UserError(f"{loaded.path} tells values, but {path} lists classes")
            continue
        if not path.is_file():
            raise UserError(f"there is no {path}; name a folder that `prepare glue` has written")
        if SentencePredictionTask.load_dictionary(str(path)).symbols != own.symbols:
            raise UserError(
                f"{path} is not the dictionary of {loaded.path}; prepare the data with that one"
            )


def _batches(data: Any, most: int, sentences: int | None) -> Iterator[list[int]]:
    """Numbers of sentences, those of like length together, the longest first."""
    batch: list[int] = []
    sizes = np.asarray(data.sizes[0])
    for index in np.argsort(-sizes, kind="stable").tolist():
        longest = int(sizes[batch[0]]) if batch else 0
        if batch and (len(batch) == sentences or (len(batch) + 1) * longest > most):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
