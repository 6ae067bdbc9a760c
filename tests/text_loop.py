"""Real runs of `fairseq-hydra-train` on a nano RoBERTa and sentences that anyone can tell apart."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from loop import ON_CPU, ROOT, USER_DIR, Lab
from sentences import POSITIONS, write_roberta, write_sentences

CONFIG = "glue/sst-2"


class TextLab(Lab):
    """A nano RoBERTa, sentences, and runs on them, below one folder."""

    @cached_property
    def data(self) -> Path:
        """Splits ``train`` (64 sentences) and ``valid`` (16)."""
        return write_sentences(self.folder / "data")

    @cached_property
    def roberta(self) -> Path:
        """A pretrained model of two layers."""
        return write_roberta(self.folder / "roberta.pt")

    def arguments(self, name: str, overrides: Iterable[str], config: str) -> list[str]:
        """The command line of run ``name``, from ``model.roberta_path`` unless ``overrides`` say
        otherwise."""
        folder, config_name = config.split("/")
        given = [
            *(f"hydra.run.dir={self.folder / name}", f"common.user_dir={USER_DIR}"),
            *(f"task.data={self.data}", f"task.max_positions={POSITIONS}"),
            *(
                "optimization.lr=[0.01]",
                "lr_scheduler.warmup_updates=1",
                "optimization.max_epoch=0",
            ),
            *(*ON_CPU, *overrides),
            *(f"--config-dir={ROOT / 'config' / folder}", f"--config-name={config_name}"),
        ]
        if not any(each.startswith("checkpoint.restore_file=") for each in given):
            given.insert(0, f"model.roberta_path={self.roberta}")
        return given
