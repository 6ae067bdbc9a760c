"""A corpus of tones with classes, models for them, and the command lines that train these."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from loop import ON_CPU, ROOT, USER_DIR, Lab, Prepare, Run, run_forked

RATE = 16000
PITCHES = {"low": 300.0, "middle": 900.0, "high": 1800.0}
LENGTHS = {"short": 0.2, "long": 0.35}
#: The slots, in the order of the columns.
SLOTS = {"pitch": sorted(PITCHES), "length": sorted(LENGTHS)}
CONFIG = "labels/base"


def write_tones(folder: Path, *, train: int = 12, valid: int = 6, seed: int = 0) -> Path:
    """Subsets ``train`` and ``valid`` of tones, with the slots `SLOTS`, each class in turn."""
    generator = np.random.default_rng(seed)
    (folder / "audio").mkdir(parents=True)
    for subset, count in (("train", train), ("valid", valid)):
        rows, labels = [str(folder / "audio")], []
        for index in range(count):
            pitch, length = list(PITCHES)[index % 3], list(LENGTHS)[index // 3 % 2]
            samples = int(LENGTHS[length] * RATE) + 37 * index
            tone = 0.3 * np.sin(2 * np.pi * PITCHES[pitch] * np.arange(samples) / RATE)
            noise = 0.01 * generator.standard_normal(samples)
            name = f"{subset}-{index}.wav"
            soundfile.write(folder / "audio" / name, (tone + noise).astype(np.float32), RATE)
            rows.append(f"{name}\t{samples}")
            labels.append(f"{pitch}\t{length}")
        write_lines(folder / f"{subset}.tsv", rows)
        write_lines(folder / f"{subset}.lbl", labels)
    write_lines(
        folder / "dict.lbl.txt", [f"{s}\t{c}\t1" for s, classes in SLOTS.items() for c in classes]
    )
    return folder


def write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


class LabelLab(Lab):
    """As `Lab`, with tones that have classes."""

    @property
    def data(self) -> Path:
        folder = self.folder / "tones"
        return folder if folder.exists() else write_tones(folder)

    def arguments(self, name: str, overrides: tuple[str, ...], config: str = CONFIG) -> list[str]:
        """The command line of run ``name``."""
        folder, config_name = config.split("/")
        return [
            f"hydra.run.dir={self.folder / name}",
            f"common.user_dir={USER_DIR}",
            f"task.data={self.data}",
            f"model.w2v_path={self.wav2vec2}",
            "model.mask_length=2",
            "model.mask_channel_length=4",
            "common.log_interval=1",
            "dataset.max_tokens=20000",
            "optimization.lr=[0.01]",
            *ON_CPU,
            *overrides,
            f"--config-dir={ROOT / 'config' / folder}",
            f"--config-name={config_name}",
        ]

    def label(
        self, name: str, *overrides: str, updates: int = 2, prepare: Prepare | None = None
    ) -> Run:
        """Run `fairseq-hydra-train` in the folder ``name``, or go on with the run there."""
        overrides = (f"optimization.max_update={updates}", *overrides)
        return run_forked(self.folder / name, self.arguments(name, overrides), prepare)
