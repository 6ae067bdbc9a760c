"""What a run on sentences takes from a checkpoint reads its words and means its classes."""

import functools
import logging
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Optional

from fairseq import checkpoint_utils
from fairseq.data.dictionary import Dictionary
from fairseq.file_io import PathManager
from fairseq.tasks.sentence_prediction import SentencePredictionTask

from speechprune.checkpoint import read
from speechprune.checkpoint.text import CLASSES, SYMBOLS, TextModel, saved_symbols
from speechprune.errors import UserError
from speechprune.manifests.dictionary import symbols_digest
from speechprune.replacing import Function
from speechprune.state_names import TEXT_HEADS

logger = logging.getLogger(__name__)


def refuse_other_symbols(path: Any, found: TextModel, task: Any) -> None:
    """Raise UserError if a file tells other symbols of texts than those of a task's data."""
    _refuse_other(path, found.symbols, task)
    own = Path(task.cfg.data, "input0", "dict.txt")
    if found.dictionary not in (None, symbols_digest(own)):
        raise _other_symbols(path, task)


def _refuse_other(path: Any, found: Optional[Dictionary], task: Any) -> None:
    if found is not None and found.symbols != task.source_dictionary.symbols:
        raise _other_symbols(path, task)


def _other_symbols(path: Any, task: Any) -> UserError:
    return UserError(
        f"{task.cfg.data}/input0/dict.txt has other symbols than {path} was trained with; prepare "
        "the data with its dictionary"
    )


def comparing_symbols(load: Function) -> Function:
    """`Trainer.load_checkpoint`, which compares the symbols and classes of what it loads with the
    run's.

    fairseq compares none: a model would read other words, and tell other classes, without a word.
    """

    def load_compared(
        self: Any, filename: str, reset_optimizer: bool = False, *args: Any, **options: Any
    ) -> Any:
        task = self.task
        if not isinstance(task, SentencePredictionTask) or not PathManager.isfile(filename):
            return load(self, filename, reset_optimizer, *args, **options)
        state = read(filename, mmap=True)
        _refuse_other(filename, saved_symbols(state, SYMBOLS), task)
        own = None if task.cfg.regression_target else task.label_dictionary.symbols
        classes = saved_symbols(state, CLASSES)
        if classes is None or classes.symbols == own:
            return load(self, filename, reset_optimizer, *args, **options)
        if not reset_optimizer:
            raise UserError(
                f"{filename} tells other classes, or in another order, than "
                f"{task.cfg.data}/label/dict.txt; name another hydra.run.dir to begin anew"
            )
        logger.info(f"{filename} tells other classes: the output layer begins anew")
        with _without_heads():
            return load(self, filename, reset_optimizer, *args, **options)

    return load_compared


@contextmanager
def _without_heads() -> Iterator[None]:
    """Leave the output layers out of what fairseq reads."""
    load = checkpoint_utils.load_checkpoint_to_cpu

    @functools.wraps(load)
    def load_encoder(*args: Any, **options: Any) -> Any:
        state = load(*args, **options)
        kept = {k: v for k, v in state["model"].items() if not k.startswith(TEXT_HEADS)}
        return {**state, "model": kept}

    checkpoint_utils.load_checkpoint_to_cpu = load_encoder
    try:
        yield
    finally:
        checkpoint_utils.load_checkpoint_to_cpu = load
