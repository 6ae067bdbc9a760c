"""`audio_labels`: tell the classes of whole utterances, such as keyword, speaker or intent."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from fairseq.dataclass import FairseqDataclass
from fairseq.tasks import FairseqTask, register_task
from omegaconf import II, MISSING

from speechprune.checkpoint.slots import AUDIO_LABELS, described_slots, saved_slots
from speechprune.errors import UserError
from speechprune.manifests.audio import SAMPLE_RATE
from speechprune.manifests.classes import read_labelled_split
from speechprune.manifests.slots import Slots, read_slots
from speechprune.registry import unknown_name
from speechprune.tasks.labelled_audio import LabelledAudio, label_numbers


@dataclass
class AudioLabelsConfig(FairseqDataclass):
    """Where the data are, and how they are heard in training."""

    data: str = field(default=MISSING, metadata={"help": "manifest folder with dict.lbl.txt"})
    normalize: bool = field(
        default=False,
        metadata={"help": "give each recording mean 0 and variance 1, as pretraining did"},
    )
    sample_rate: int = field(default=SAMPLE_RATE, metadata={"help": "of the recordings, in Hz"})
    balanced: bool = field(
        default=False, metadata={"help": "draw each class equally often in training"}
    )
    balanced_slot: Optional[str] = field(
        default=None, metadata={"help": "the slot whose classes these are; unset: the first"}
    )
    crop_seconds: Optional[float] = field(
        default=None,
        metadata={"help": "most seconds of a recording that training hears, at random places"},
    )
    seed: int = II("common.seed")
    train_subset: str = II("dataset.train_subset")


@register_task(AUDIO_LABELS, dataclass=AudioLabelsConfig)
class AudioLabelsTask(FairseqTask):
    """Reads a manifest folder with `SPLIT.lbl`, and keeps its classes in checkpoints."""

    cfg: AudioLabelsConfig

    def __init__(self, cfg: AudioLabelsConfig, **options: Any) -> None:
        super().__init__(cfg)
        self._slots: Optional[Slots] = None

    @property
    def slots(self) -> Slots:
        """The slots with their classes: those of the checkpoint that was loaded, or else of the
        data folder."""
        if self._slots is None:
            self._slots = read_slots(Path(self.cfg.data))
        return self._slots

    @property
    def source_dictionary(self) -> None:
        """Audio has none."""

    @property
    def target_dictionary(self) -> None:
        """Classes are no symbols."""

    def load_dataset(self, split: str, *args: Any, **options: Any) -> None:
        """Read a split.

        Raises:
            UserError: as `read_labelled_split`, or no slot is called ``task.balanced_slot``.
        """
        folder, cfg, slots = Path(self.cfg.data), self.cfg, self.slots
        found = read_labelled_split(folder, split, slots)
        numbers = [{name: i for i, name in enumerate(slot.classes)} for slot in slots]
        labels = [
            tuple(number[label] for number, label in zip(numbers, utterance.labels))
            for utterance in found.utterances
        ]
        trains = split == cfg.train_subset
        crop = round(cfg.crop_seconds * cfg.sample_rate) if cfg.crop_seconds else None
        self.datasets[split] = LabelledAudio(
            folder / f"{split}.tsv",
            label_numbers(labels),
            sample_rate=cfg.sample_rate,
            normalize=cfg.normalize,
            crop=crop if trains else None,
            balanced=balanced_slot(cfg, slots) if trains else None,
            seed=cfg.seed,
        )

    def build_model(self, model_cfg: Any, from_checkpoint: bool = False) -> Any:
        """A model, whose pretrained encoder's settings are kept in ``model_cfg``."""
        model = super().build_model(model_cfg, from_checkpoint)
        model_cfg.w2v_args = model.cfg.w2v_args
        return model

    def max_positions(self) -> Optional[Tuple[int, int]]:
        """No limit but that of a batch."""
        return None

    def state_dict(self) -> Dict[str, Any]:
        """What a checkpoint keeps."""
        return described_slots(self.slots)

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        """Take the slots of a checkpoint.

        Raises:
            UserError: it has none.
        """
        slots = saved_slots({"task_state": state_dict})
        if slots is None:
            raise UserError("the checkpoint holds no slots with their classes")
        self._slots = slots


def balanced_slot(cfg: Any, slots: Slots) -> Optional[int]:
    """The number of the slot that is balanced in training; None if none is.

    Raises:
        UserError: there is no such slot, or it is named although nothing is balanced.
    """
    name = cfg.balanced_slot
    if not cfg.balanced:
        if name is not None:
            raise UserError(f"task.balanced_slot={name} has no effect; set task.balanced=true")
        return None
    names = [slot.name for slot in slots]
    if name is not None and name not in names:
        raise UserError(unknown_name("task.balanced_slot", name, names))
    return 0 if name is None else names.index(name)
