"""A nano RoBERTa, and sentences whose label hangs on one word, for `sentence_prediction`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import make_builder, make_dataset

from speechprune.backbones.roberta import Roberta

WORDS = ("good", "bad", "a", "film", "the", "plot", "was", "and", "actors", "of")
#: Longest text of the nano RoBERTa, in symbols.
POSITIONS = 32


def dictionary(words: Sequence[str] = WORDS) -> Dictionary:
    """As the task loads it, but for its symbol for masked words."""
    found = Dictionary()
    for count, word in enumerate(words):
        found.add_symbol(word, n=len(words) - count)
    return found


def write_roberta(
    path: Path,
    *,
    layers: int = 2,
    seed: int = 0,
    words: Sequence[str] = WORDS,
    strength: float = 1.0,
    **settings: Any,
) -> Path:
    """A checkpoint as pretraining by `masked_lm` leaves it, with random weights.

    Args:
        strength: of the weights in layers, which begin so small that layers change little.
    """
    model = {
        **{"_name": "roberta", "encoder_layers": layers, "encoder_embed_dim": 16},
        **{"encoder_ffn_embed_dim": 32, "encoder_attention_heads": 4, "max_positions": POSITIONS},
        **settings,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = Roberta().build({}, {**model, "vocabulary": len(dictionary(words)) + 1})
    with torch.no_grad():
        for site in Roberta().layer_sites(built):
            site.module.weight.mul_(strength)
    state = {
        "args": None,
        "cfg": {
            **{"criterion": None, "lr_scheduler": None, "model": model},
            "task": {"_name": "masked_lm", "data": ".", "tokens_per_sample": POSITIONS},
        },
        "model": built.state_dict(),
        "optimizer_history": [{"num_updates": 1, "optimizer_name": None}],
        "extra_state": {"train_iterator": {"epoch": 1}},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


def write_finetuned_roberta(
    path: Path, pretrained: Path, data: Path, *settings: str, strength: float = 8.0, seed: int = 0
) -> Path:
    """An untrained model for sentences on ``pretrained``, in the file that training saves.

    Args:
        data: a folder of :func:`write_sentences`.
        settings: more overrides of the config, the model's name first.
        strength: of its output layer, so that texts get different classes.
    """
    from fairseq.tasks.sentence_prediction import SentencePredictionTask
    from omegaconf import OmegaConf

    import speechprune.plugin  # noqa: F401  (its models)
    from speechprune.training.rehearsal import rehearse

    cfg = rehearse(["--config-name", "glue/sst-2", *nano_settings(pretrained, data), *settings])
    task = SentencePredictionTask.setup_task(cfg.task)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = task.build_model(cfg.model)
        with torch.no_grad():
            for parameter in model.classification_heads.parameters():
                parameter.mul_(strength).add_(0.1 * torch.randn_like(parameter))
    model.tell(cfg, task)
    state = torch.load(pretrained, weights_only=True)
    cfg = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    found = {"cfg": cfg, "model": model.state_dict(), "task_state": task.state_dict()}
    torch.save({**state, **found}, path)
    return path


def nano_settings(pretrained: Path, data: Path) -> tuple[str, ...]:
    """Overrides of a config for the nano RoBERTa on a CPU."""
    return (
        *(f"task.data={data}", f"model.roberta_path={pretrained}"),
        *(f"task.max_positions={POSITIONS}", "common.fp16=false", "common.cpu=true"),
        *("lr_scheduler.warmup_updates=1", "optimization.lr=[0.01]", "dataset.num_workers=0"),
        "model.init_score=weight_rank",
    )


def write_sentences(
    folder: Path,
    sizes: dict[str, int] | None = None,
    *,
    words: Sequence[str] = WORDS,
    labels: Sequence[str] = ("0", "1"),
    seed: int = 0,
) -> Path:
    """Splits of random sentences; the first word says which of two labels one has."""
    random = np.random.default_rng(seed)
    symbols = dictionary(words)
    classes = Dictionary()
    for label in labels:
        classes.add_symbol(label)
    classes.finalize(padding_factor=-1)
    for name, found in (("input0", symbols), ("label", classes)):
        (folder / name).mkdir(parents=True)
        found.save(str(folder / name / "dict.txt"))
    for split, size in (sizes or {"train": 64, "valid": 16}).items():
        texts, targets = [], []
        for _ in range(size):
            label = int(random.integers(2))
            rest = random.choice(list(words[2:]), size=int(random.integers(2, 8)))
            texts.append(" ".join([words[1 - label], *rest]))
            targets.append(labels[label])
        _write(folder / "input0" / split, symbols, texts)
        _write(folder / "label" / split, classes, targets)
    return folder


def write_values(folder: Path) -> Path:
    """The same with values in place of labels: higher ones for sentences that begin with the first
    word."""
    write_sentences(folder)
    (folder / "label" / "dict.txt").unlink()
    words = dictionary(WORDS)
    for split in ("train", "valid"):
        texts = make_dataset(str(folder / "input0" / split), "mmap")
        values = [
            (text[0] == words.index(WORDS[0])).item() * 3 + index % 3 / 2
            for index, text in enumerate(texts)
        ]
        (folder / "label" / f"{split}.label").write_text("".join(f"{v}\n" for v in values))
    return folder


def _write(prefix: Path, symbols: Dictionary, lines: Sequence[str]) -> None:
    builder = make_builder(f"{prefix}.bin", impl="mmap", vocab_size=len(symbols))
    for line in lines:
        builder.add_item(symbols.encode_line(line, add_if_not_exist=False).long())
    builder.finalize(f"{prefix}.idx")
