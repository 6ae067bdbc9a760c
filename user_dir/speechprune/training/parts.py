"""Models, tasks and criterions that go together."""

from __future__ import annotations

from omegaconf import DictConfig

from speechprune.checkpoint.slots import AUDIO_LABELS
from speechprune.checkpoint.text import SENTENCES
from speechprune.criterions.names import LABELS, SENTENCE_PREDICTION
from speechprune.errors import UserError
from speechprune.models.names import ROBERTA, is_labelling, is_of_sentences

_LABELS, _SENTENCES = "labels of utterances", "sentences"
#: What tasks and criterions are for, if not for texts of speech, and a config that has them.
_FOR = {
    AUDIO_LABELS: _LABELS,
    LABELS: _LABELS,
    SENTENCES: _SENTENCES,
    SENTENCE_PREDICTION: _SENTENCES,
}
_CONFIGS = {_LABELS: "labels/base", _SENTENCES: "glue/sst-2"}


def check_parts(cfg: DictConfig) -> None:
    """Refuse a model, a task and a criterion of which only some are for labels of utterances, or
    for sentences."""
    sections = (cfg.get("model"), cfg.get("task"), cfg.get("criterion"))
    if not all(isinstance(part, DictConfig) and "_name" in part for part in sections):
        return
    parts = {
        f"model._name={cfg.model._name}": _purpose(cfg.model._name),
        f"task._name={cfg.task._name}": _FOR.get(cfg.task._name),
        f"criterion._name={cfg.criterion._name}": _FOR.get(cfg.criterion._name),
    }
    if is_of_sentences(cfg.model._name) and not cfg.model._name.startswith(f"{ROBERTA}_"):
        # fairseq's own is for pretraining too.
        del parts[f"model._name={cfg.model._name}"]
    for purpose, config in _CONFIGS.items():
        of_it = [part for part, is_for in parts.items() if is_for == purpose]
        others = [part for part, is_for in parts.items() if is_for != purpose]
        if of_it and others:
            raise UserError(
                f"{of_it[0]} is for {purpose}, but {' and '.join(others)} not; take --config-name "
                f"{config}, or another model, task and criterion"
            )


def _purpose(model: str) -> str | None:
    if is_of_sentences(model):
        return _SENTENCES
    return _LABELS if is_labelling(model) else None
