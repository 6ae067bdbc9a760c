"""What fairseq's task `sentence_prediction` is checked for, however training was started."""

import functools
from pathlib import Path
from typing import Any

from speechprune.errors import UserError
from speechprune.manifests.glue.folder import task_of_folder
from speechprune.models.names import ROBERTA, ROBERTA_PRUNED
from speechprune.replacing import Function


def refuse_other_outputs(cfg: Any, regression: bool) -> None:
    """Raise UserError if a folder has other classes than there are outputs, or values in their
    place.

    Args:
        cfg: settings of the task.
        regression: whether the criterion learns values.
    """
    folder = Path(cfg.data)
    task = task_of_folder(folder)
    if task.has_scores != regression:
        has = "values" if task.has_scores else "classes"
        raise UserError(
            f"{folder} has {has} of sentences; set criterion.regression_target="
            f"{str(task.has_scores).lower()}"
        )
    outputs = 1 if regression else len(task.classes)
    if cfg.num_classes != outputs:
        of = "values need 1" if regression else f"{folder}/label/dict.txt has {outputs} classes"
        raise UserError(f"task.num_classes={cfg.num_classes}, but {of}")


def refuse_unlabelled(cfg: Any) -> None:
    """Raise UserError if there are no sentences, or no labels, of a split that a run is to read.

    Args:
        cfg: all groups of a fairseq config.
    """
    names = [cfg.dataset.train_subset]
    if not cfg.dataset.disable_validation:
        names += cfg.dataset.valid_subset.split(",")
    for name in names:
        _refuse_missing(Path(cfg.task.data), name, "input0", "idx")
        ending = "label" if cfg.task.regression_target else "idx"
        _refuse_missing(Path(cfg.task.data), name, "label", ending)


def _refuse_missing(folder: Path, name: str, place: str, ending: str) -> None:
    file = folder / place / f"{name}.{ending}"
    if not file.is_file():
        raise UserError(f"there is no {file}; prepare the split {name} with its labels")


def checking_outputs(build: Function) -> Function:
    """`SentencePredictionTask.build_model`, which refuses outputs that the data has no classes for,
    and a pretrained file that fairseq's own model would pass over."""

    @functools.wraps(build)
    def build_checked(self: Any, model: Any, from_checkpoint: bool = False) -> Any:
        if getattr(model, "_name", None) == ROBERTA and getattr(model, "roberta_path", None):
            raise UserError(
                f"model._name={ROBERTA}, fairseq's own, does not read model.roberta_path; take "
                f"model._name={ROBERTA_PRUNED}, which trains all weights too"
            )
        if not from_checkpoint:
            refuse_other_outputs(self.cfg, self.cfg.regression_target)
        return build(self, model, from_checkpoint)

    return build_checked


def checking_split(load: Function) -> Function:
    """`SentencePredictionTask.load_dataset`, which says what there is not."""

    @functools.wraps(load)
    def load_checked(self: Any, split: str, *args: Any, **options: Any) -> Any:
        _refuse_missing(Path(self.cfg.data), split, "input0", "idx")
        return load(self, split, *args, **options)

    return load_checked
