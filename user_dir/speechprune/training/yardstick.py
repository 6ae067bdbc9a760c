"""By which error rate training chooses its best checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from omegaconf import DictConfig

from speechprune.criterions.names import COUNTING_ERRORS
from speechprune.manifests.dictionary import dictionary_name, read_dictionary
from speechprune.manifests.spelling import WORD_END

logger = logging.getLogger(__name__)

_KEY = "checkpoint.best_checkpoint_metric"
_MEANINGS = {"wer": "words", "uer": "characters"}


def choose_yardstick(cfg: DictConfig, given: Collection[str]) -> None:
    """Let the best checkpoint be the one for which `speechprune evaluate` prints the lowest rate.

    Configs name `wer`; labels without words have a unit error rate. One log line tells which rate
    it is.

    Args:
        cfg: all groups of a fairseq config, whose data were checked; it may be changed.
        given: keys that the user set, which are left alone.
    """
    task, criterion, metric = cfg.task, cfg.criterion, cfg.checkpoint.best_checkpoint_metric
    is_ours = task._name == "audio_finetuning" and criterion._name in COUNTING_ERRORS
    if not is_ours or criterion.post_process != "letter" or metric not in _MEANINGS:
        return
    dictionary = Path(task.target_dictionary or task.data) / dictionary_name(task.labels)
    units = WORD_END not in read_dictionary(dictionary)[0]
    if units and _KEY not in given:
        metric = cfg.checkpoint.best_checkpoint_metric = "uer"
    counted = f"units, for {dictionary} has no {WORD_END!r}" if units else _MEANINGS[metric]
    logger.info(f"checkpoint_best.pt is the one with the lowest {metric}, the share of {counted}")
