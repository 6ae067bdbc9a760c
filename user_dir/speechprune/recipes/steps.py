"""What is done between training runs: masks are made, units cut out, and languages pooled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

from speechprune.errors import UserError
from speechprune.files import write_atomically
from speechprune.made_with import refuse_other_settings
from speechprune.masking.mask_set import MaskSet
from speechprune.training.run import TrainingRun


@dataclass(frozen=True)
class Making:
    """One file made of a checkpoint.

    Attributes:
        name: for people.
        target: the file.
        source: the checkpoint.
    """

    name: str
    target: Path
    source: Path

    @property
    def is_done(self) -> bool:
        return self.target.exists()

    is_begun = is_done

    @property
    def makes(self) -> Path:
        return self.target

    @property
    def needs(self) -> tuple[Path, ...]:
        return (self.source,)

    def check_source(self) -> None:
        """Raise UserError if the checkpoint is missing."""
        if not self.source.exists():
            raise UserError(f"{self.name} needs {self.source}, which is missing")


@dataclass(frozen=True)
class MaskMaking(Making):
    """A mask made of a checkpoint's weights, by a name in `speechprune.masking.baselines.MAKERS`.

    Attributes:
        roles: of the masked tensors.
        biases: mask their biases too.
    """

    by: str
    sparsity: float
    roles: tuple[str, ...]
    biases: bool = True
    seed: int = 0

    def finish(self, environment: Mapping[str, str]) -> None:
        """Make the mask, unless it is there.

        Raises:
            UserError: the checkpoint is missing, or is none, or the mask that is there is another.
        """
        from speechprune.rewriting.baseline_masks import Ranking, origin

        self.check_source()
        settings: Any = {"roles": self.roles, "biases": self.biases, "seed": self.seed}
        if not self.is_done:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            Ranking(self.source, self.by, **settings).masks(self.sparsity).save(self.target)
            return
        wanted = {**origin(self.source, self.by, **settings), "sparsity": repr(self.sparsity)}
        found = MaskSet.load(self.target).provenance
        noted = {key: found[key] for key in wanted if key in found}
        refuse_other_settings(self.target, noted, wanted, "name another folder")

    def describe(self) -> dict[str, Any]:
        """As a summary tells it."""
        return {"mask": str(self.target), "by": self.by, "sparsity": self.sparsity}


@dataclass(frozen=True)
class EncoderMaking(Making):
    """The encoder of a finetuned checkpoint, as a pretrained one.

    Attributes:
        cut: whether heads and channels that change nothing are cut out of it.
    """

    cut: bool = False

    def finish(self, environment: Mapping[str, str]) -> None:
        """Write the encoder, unless it is there.

        Raises:
            UserError: the checkpoint is missing, is none, or has nothing to cut out.
        """
        from speechprune.rewriting.encoder import export_encoder
        from speechprune.rewriting.slimming import apply

        if self.is_done:
            return
        self.check_source()
        self.target.parent.mkdir(parents=True, exist_ok=True)
        source = self.source
        if self.cut:
            source = self.target.with_name("slim.pt")
            apply(self.source, source)
        export_encoder(source, self.target)

    def describe(self) -> dict[str, Any]:
        """As a summary tells it."""
        return {"encoder": str(self.target), "of": str(self.source), "cut": self.cut}


@dataclass(frozen=True)
class Pooling:
    """Manifest folders of several languages merged into one, with one dictionary.

    Attributes:
        name: for people.
        target: the merged folder.
        folders: what is merged.
    """

    name: str
    target: Path
    folders: tuple[Path, ...]

    @property
    def is_done(self) -> bool:
        return self._origin.exists()

    is_begun = is_done

    @property
    def needs(self) -> tuple[Path, ...]:
        return ()

    @property
    def makes(self) -> Path:
        return self.target

    def finish(self, environment: Mapping[str, str]) -> None:
        """Merge, unless it is done.

        Raises:
            UserError: the folders cannot be merged, or others were.
        """
        from speechprune.manifests.merge import merge

        wanted = [str(folder.resolve()) for folder in self.folders]
        if not self.is_done:
            merge(self.target, self.folders, overwrite=True)
            write_atomically(self._origin, json.dumps(wanted, indent=2).encode())
            return
        try:
            found = json.loads(self._origin.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{self._origin} is damaged; remove it to have it made anew") from error
        refuse_other_settings(
            self.target, {"languages": found}, {"languages": wanted}, "name another folder"
        )

    def describe(self) -> dict[str, Any]:
        """As a summary tells it."""
        return {"pool": str(self.target), "languages": [str(path) for path in self.folders]}

    @property
    def _origin(self) -> Path:
        return self.target.with_name(f"{self.target.name}.json")


Step = Union[TrainingRun, MaskMaking, EncoderMaking, Pooling]
