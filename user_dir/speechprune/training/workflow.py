"""A workflow in a folder: several steps, each done once, and one report at the end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from speechprune.checksums import read_json
from speechprune.errors import UserError
from speechprune.locks import locked
from speechprune.training.rounds import Tell

#: The last file of a report to be written: a folder that has it has all.
JSON = "report.json"


class Workflow(ABC):
    """What is common to workflows that can be interrupted.

    Attributes:
        out: folder of everything; its report names the ``checkpoint`` that came of it.
    """

    out: Path

    def run(self, tell: Tell = lambda line: None) -> Path:
        """Do what is left to do; gives the folder, with ``report.json``, ``.md`` and ``.png``.

        Raises:
            UserError: input that cannot be used, a folder of other settings or that another process
                writes to, or failed training.
        """
        self.check()
        with locked(self.out):
            self.claim()
            if self.is_done():
                self._refuse_lost_result()
            else:
                self.work(tell)
        return self.out

    def is_done(self) -> bool:
        """Whether there is nothing left to do."""
        return (self.out / JSON).exists()

    @abstractmethod
    def check(self) -> None:
        """Refuse at once what a later step would refuse."""

    @abstractmethod
    def claim(self) -> None:
        """Note what the folder is of; refuse one of other settings."""

    @abstractmethod
    def work(self, tell: Tell) -> None:
        """Do the steps that are not done, and write the report."""

    def _refuse_lost_result(self) -> None:
        report = self.out / JSON
        result = self.out / read_json(report)["checkpoint"]
        if not result.exists():
            raise UserError(
                f"{result} is missing, though {report} tells of it; remove {self.out} to make it "
                "anew"
            )
