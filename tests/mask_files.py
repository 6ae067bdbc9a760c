"""Nano checkpoints with masks, and the command that handles them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from nano import write_corpus, write_finetuned, write_wav2vec2

from speechprune.tools.main import commands

ENCODER = "w2v_encoder.w2v_model."
MASKED = {"_name": "wav2vec_ctc_st", "prune_rate": 0.7, "fix_attn": True, "trainable_proj": True}


class Files:
    """Pretrained models and finetuned checkpoints, all of one nano model unless said otherwise."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = write_corpus(folder / "data", train=1, valid=1)
        self.pretrained = write_wav2vec2(folder / "pretrained.pt")
        self.plain = self.finetuned("plain", {"_name": "wav2vec_ctc"})
        self.spanish = self.finetuned("spanish", MASKED, seed=1)
        self.french = self.finetuned("french", {**MASKED, "prune_rate": 0.4}, seed=2)
        self.deep = self.finetuned(
            "deep", MASKED, pretrained=write_wav2vec2(folder / "deep_pretrained.pt", layers=3)
        )

    def finetuned(
        self, name: str, model: dict[str, Any], pretrained: Path | None = None, seed: int = 0
    ) -> Path:
        path = self.folder / f"{name}.pt"
        source = pretrained or self.pretrained
        return write_finetuned(path, source, self.data, model=model, seed=seed)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(commands, ["masks", *map(str, arguments)])


def succeed(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout
