"""From a finetuned checkpoint to a smaller one: every step, each done once, and one report."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from speechprune import __version__
from speechprune.checkpoint import digest, read
from speechprune.checkpoint.file import PROVENANCE
from speechprune.checkpoint.finetuned import listening, read_finetuned
from speechprune.checkpoint.layers import depth
from speechprune.checkpoint.settings import seed_of
from speechprune.checksums import read_json, write_json
from speechprune.decoding.inference import evaluate, read_references
from speechprune.decoding.sentences import evaluate_sentences, read_labelled, read_texts
from speechprune.dropping.finetuning import SmallerModel, rehearse_finetuning
from speechprune.dropping.report import Report
from speechprune.dropping.search import VerificationSettings, verify_plans
from speechprune.dropping.similarity import (
    build_measures,
    draw,
    options_of,
    refuse_too_few,
    similarity,
)
from speechprune.dropping.verification import refuse_test
from speechprune.files import check_folder
from speechprune.intervals import training_in_words
from speechprune.layers.file_search import search
from speechprune.layers.matrix import SimilarityMatrix
from speechprune.layers.plan import LayerPlan, LayerPlans, check_drop
from speechprune.made_with import claim
from speechprune.manifests.check import check_split, read_recordings
from speechprune.manifests.split_files import split_digest
from speechprune.models.loading import (
    LoadedModel,
    LoadedSentences,
    as_recogniser,
    load_finetuned,
)
from speechprune.reports.stages import Evaluated
from speechprune.state_names import is_text
from speechprune.training.configs import find_config
from speechprune.training.finetuning import Finetuning
from speechprune.training.overrides import refuse_early_ends, refuse_own
from speechprune.training.rounds import Tell, finish_all
from speechprune.training.workflow import Workflow

#: Options of measures, by measure.
Options = dict[str, dict[str, Any]]
#: Splits to finetune on have few utterances, for which means over time are too few.
_OF_FRAMES = {"mode": "T"}

#: What the pipeline says to training itself.
_OWN = (
    "checkpoint.finetune_from_model",
    "checkpoint.keep_best_checkpoints",
    "checkpoint.keep_interval_updates",
    "checkpoint.restore_file",
    "checkpoint.save_dir",
    "checkpoint.save_interval_updates",
    "dataset.train_subset",
    "dataset.valid_subset",
    "dataset.validate_interval_updates",
    "hydra.run.dir",
    "model.drop_layers",
    "model.layer_plan",
    "model.roberta_path",
    "model.w2v_path",
    "optimization.max_update",
    "task.data",
)
#: Of what a folder is made of, what concerns training alone.
_OF_TRAINING = ("average", "training")
#: What to use in place of an override.
_OPTIONS = {
    "dataset.train_subset": "use --train",
    "dataset.valid_subset": "use --valid",
    "hydra.run.dir": "use --out",
    "optimization.max_update": "use --updates",
    "task.data": "use --data",
}


@dataclass(frozen=True)
class Pipeline(Workflow):
    """Find the layers to drop, verify, drop, finetune, average and test, in a folder.

    Interrupted, it goes on where it was. Plans are chosen on the validation split alone.

    Attributes:
        checkpoint: finetuned.
        drop: how many layers go.
        out: folder of everything.
        finetuning: its settings; its splits are those of the other steps too.
        test: a split for the last evaluation; none if None.
        measures: names of similarity measures; the best plans by each are verified.
        options: their settings.
        utterances: of the training split, that similarity is measured on, if there are as many.
        top: plans by each measure that are verified.
        verification: how; its data and split are those of finetuning.
    """

    checkpoint: Path
    drop: int
    out: Path
    finetuning: Finetuning
    measures: tuple[str, ...]
    options: Options
    verification: VerificationSettings
    test: str | None = None
    utterances: int = 256
    top: int = 10
    seed: int = 0

    def work(self, tell: Tell) -> None:
        tell("similarity of hidden states")
        matrices = self._matrices()
        tell("search and verification")
        verified = self._verified(matrices)
        best = LayerPlan(verified["layers"], tuple(verified["plans"][0]["drop"]))
        smaller = SmallerModel(self.out / "model", self.checkpoint, best, self.finetuning)
        tell(f"dropping the layers {', '.join(map(str, best.dropped))}, and finetuning")
        smaller.prepare()
        finish_all([[smaller.run]])
        smaller.finish()
        tell("evaluation")
        Report(
            drop=self.drop,
            matrices=matrices,
            verified=verified,
            evaluations=self._evaluations(smaller),
            results={
                stage: path.relative_to(self.out)
                for stage, path in (
                    ("averaged", smaller.averaged),
                    ("finetuned", smaller.run.checkpoint),
                )
            },
            averaged=read(smaller.averaged, mmap=True)[PROVENANCE]["averaged"],
            asked=self.finetuning.average,
            training=training_in_words(
                [self.finetuning.updates], [seed_of(read(smaller.run.checkpoint, mmap=True))]
            ),
        ).save(self.out)

    @property
    def _splits(self) -> tuple[str, ...]:
        return (self.finetuning.valid, *([self.test] if self.test else []))

    def check(self) -> None:
        """Refuse at once what a later step would refuse."""
        layers = depth(self.checkpoint)
        check_drop(self.drop, layers)
        check_folder(self.out)
        refuse_test(self.finetuning.valid, self.verification.allow_test)
        refuse_early_ends(self.finetuning.overrides, "layers auto")
        refuse_own(self.finetuning.overrides, _OWN, "layers auto", _OPTIONS)
        rehearse_finetuning(self.checkpoint, self.finetuning, layers - self.drop)
        self._check_splits()
        refuse_too_few(self._heard, build_measures(self.measures, self.options))
        verifier = self.verification.verifier(self.checkpoint)
        verifier.check_metric(self.verification.by or verifier.metric, self.verification.racing)

    def _check_splits(self) -> None:
        data = self.finetuning.data
        if self._is_of_text:
            loaded = load_finetuned(self.checkpoint, data)
            assert isinstance(loaded, LoadedSentences)
            for split in (self.finetuning.train, *self._splits):
                read_labelled(loaded, data, split)
            return
        rate = listening(self.checkpoint)[1]
        for split in (self.finetuning.train, *self._splits):
            check_split(data, split, self._labels, sample_rate=rate, closed=False)

    @cached_property
    def _is_of_text(self) -> bool:
        return is_text(read(self.checkpoint, mmap=True)["model"])

    @cached_property
    def _heard(self) -> int:
        """Utterances, or texts, that similarity is measured on."""
        data, train = self.finetuning.data, self.finetuning.train
        if self._is_of_text:
            return min(self.utterances, len(read_texts(self.checkpoint, data, train)))
        return min(self.utterances, len(read_recordings(data / f"{train}.tsv")[1]))

    @cached_property
    def _labels(self) -> str:
        """The ending of the label files; those of texts have none to choose from."""
        return str(read_finetuned(self.checkpoint)["cfg"].task.get("labels") or "")

    def claim(self) -> None:
        """Note what the folder is of; refuse one of other settings."""
        data, splits = self.finetuning.data, (self.finetuning.train, *self._splits)
        wanted = {
            "version": __version__,
            "checkpoint": digest(self.checkpoint),
            "drop": self.drop,
            "splits": {split: split_digest(data, split, self._labels) for split in splits},
            "measures": {name: self.options.get(name, {}) for name in self.measures},
            "utterances": self.utterances,
            "top": self.top,
            "seed": self.seed,
            "by": self.verification.by,
            "race": self.verification.level if self.verification.race else None,
            "average": [self.finetuning.average, self.finetuning.average_by],
            "training": [
                self.finetuning.config,
                self.finetuning.updates,
                *self.finetuning.overrides,
            ],
        }
        # How to train may still be corrected until something was trained.
        begun = any((self.out / "model" / "finetuned" / "checkpoints").glob("*.pt"))
        claim(self.out, wanted, () if begun else _OF_TRAINING)

    def _matrices(self) -> dict[str, SimilarityMatrix]:
        paths = {name: self.out / f"{name}.safetensors" for name in self.measures}
        missing = [name for name, path in paths.items() if not path.exists()]
        if missing:
            found = similarity(
                self.checkpoint,
                self.finetuning.data,
                self.finetuning.train,
                build_measures(missing, self.options),
                utterances=self._heard,
                seed=self.seed,
            )
            for name, matrix in found.items():
                draw(matrix, self.out / f"{name}.png")
                matrix.save(paths[name])
        return {name: SimilarityMatrix.load(path) for name, path in paths.items()}

    def _verified(self, matrices: dict[str, SimilarityMatrix]) -> dict[str, Any]:
        """The best plans by every measure, each once, by their error rates."""
        path = self.out / "verified.json"
        if not path.exists():
            found: dict[tuple[int, ...], LayerPlan] = {}
            sources: dict[tuple[int, ...], list[str]] = {}
            for name in matrices:
                file = self.out / f"{name}.safetensors"
                for plan in search(file, self.drop, "exact", self.top).plans:
                    found.setdefault(plan.dropped, LayerPlan(plan.layers, plan.dropped))
                    sources.setdefault(plan.dropped, []).append(f"{name} {plan.score:.4f}")
            layers = next(iter(matrices.values())).layers
            plans = LayerPlans(tuple(found.values()), layers)
            report = verify_plans(self.checkpoint, lambda _: plans, self.verification)
            rows = report.describe()
            for row in rows["plans"]:
                row["found_by"] = sources[tuple(row["drop"])]
            write_json(path, {**rows, "layers": layers})
        return read_json(path)

    def _evaluations(self, smaller: SmallerModel) -> dict[str, dict[str, Evaluated]]:
        stages = {
            "whole model": self.checkpoint,
            "layers dropped": smaller.dropped,
            "finetuned": smaller.run.checkpoint,
            "averaged": smaller.averaged,
        }
        data = self.finetuning.data
        found: dict[str, dict[str, Evaluated]] = {split: {} for split in self._splits}
        for stage, path in stages.items():
            loaded = load_finetuned(path, data)
            for split in self._splits:
                found[split][stage] = _evaluation(loaded, data, split)
        return found


def _evaluation(loaded: LoadedModel, data: Path, split: str) -> Evaluated:
    if isinstance(loaded, LoadedSentences):
        return evaluate_sentences(loaded, data, split)
    recogniser = as_recogniser(loaded)
    return evaluate(recogniser, read_references(recogniser, data, split))


def pipeline(
    checkpoint: Path,
    out: Path,
    *,
    drop: int,
    data: Path,
    train: str,
    valid: str,
    test: str | None = None,
    measures: tuple[str, ...] = ("svcca", "dc-unbiased"),
    utterances: int = 256,
    top: int = 10,
    by: str | None = None,
    race: bool = False,
    config: str = "finetuning/base_1h",
    updates: int | None = None,
    num: int = 10,
    average_by: str = "valid",
    seed: int = 0,
    allow_test: bool = False,
    overrides: tuple[str, ...] = (),
) -> Pipeline:
    """A `Pipeline` of plain settings, as `speechprune layers auto` takes them.

    Raises:
        UserError: no such config.
    """
    yaml: Any = OmegaConf.load(find_config(config))
    updates = updates or int(yaml.optimization.max_update)
    finetuning = Finetuning(data, train, valid, config, updates, overrides, num, average_by)
    verification = VerificationSettings(data, valid, allow_test, by, race, seed=seed)
    return Pipeline(
        checkpoint,
        drop,
        out,
        finetuning,
        measures,
        options_of(measures, _OF_FRAMES, {}),
        verification,
        test,
        utterances,
        top,
        seed,
    )
