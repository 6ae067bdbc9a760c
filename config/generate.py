"""The configs of finetuning from one template: each is the template but for a few values, and
those for labels but for two sections as well.

They are complete files, which users copy and change; ``make configs`` writes them anew. Hydra's own
``defaults`` cannot hold what they share: fairseq's defaults would be applied after it, and win.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

FOLDER = Path(__file__).parent
TEMPLATE = FOLDER / "template.yaml"

_LARGE = {"task.normalize": "true", "dataset.max_tokens": "1280000"}
_10M = {"optimization.max_update": "13000"}
_10H = {"optimization.max_update": "20000"}

#: Sections of configs for labels of whole utterances, in the place of the template's.
_OF_LABELS: Mapping[str, str] = {
    "task": """\
task:
  _name: audio_labels
  data: ???
  normalize: false
  balanced: false  # draw each class equally often
  balanced_slot: null  # of which slot; null, of the first
  crop_seconds: null  # most seconds that training hears of an utterance
""",
    "criterion": """\
criterion:
  _name: labels
  penalty_weight: 1.0
""",
}
_LABELS = {
    "checkpoint.best_checkpoint_metric": "accuracy",
    "checkpoint.maximize_best_checkpoint_metric": "true",
    "model.trainable_proj": "true  # the head begins at random",
    "model.layerdrop": "0.0",
}
_NANO = {
    "common.cpu": "true",
    "common.fp16": "false",
    "common.log_interval": "5",
    "checkpoint.save_interval_updates": "100",
    "dataset.num_workers": "0",
    "dataset.max_tokens": "240000",
    "dataset.validate_interval_updates": "100",
    "dataset.valid_subset": "valid",
    "distributed_training.distributed_world_size": "1",
    "optimization.max_update": "400",
    "optimization.lr": "[0.001]",
    "optimization.update_freq": "[1]",
    "model.apply_mask": "false  # too few updates to need regularisation",
    "model.mask_prob": "0.3",
    "model.mask_length": "8",
    "model.mask_channel_prob": "0.0",
    "model.mask_channel_length": "16",
    "model.layerdrop": "0.0",
    "model.dropout": "0.0",
    "model.attention_dropout": "0.0",
    "model.activation_dropout": "0.0",
    "model.trainable_proj": "true  # the head begins at random",
}

#: Configs for labels of whole utterances.
LABELS = ("labels/base", "demo/nano_labels")
#: What differs from the template, by the config's name and by key.
CONFIGS: Mapping[str, Mapping[str, str]] = {
    "labels/base": {
        **_LABELS,
        "dataset.valid_subset": "valid",
        "optimization.max_update": "20000",
        "optimization.clip_norm": "1.0",
        "optimization.lr": "[0.0001]",
        "optimization.update_freq": "[1]",
        "model._name": "wav2vec_labels_st",
        "model.apply_mask": "false",
    },
    "demo/nano_labels": {**_NANO, **_LABELS, "model._name": "wav2vec_labels_st"},
    "finetuning/base_10m": _10M,
    "finetuning/base_1h": {},
    "finetuning/base_10h": {**_10H, "model.mask_channel_prob": "0.5", "model.layerdrop": "0.05"},
    "finetuning/vox_10m": {**_LARGE, **_10M},
    "finetuning/vox_1h": {**_LARGE, "model.mask_prob": "0.75"},
    "finetuning/vox_10h": {**_LARGE, **_10H, "model.mask_prob": "0.75"},
    "xlsr/finetune": {
        "task.normalize": "true",
        "dataset.max_tokens": "640000",
        "dataset.valid_subset": "valid",
        "optimization.max_update": "13000",
        "model.mask_prob": "0.75",
    },
    "demo/nano": _NANO,
}

_LINE = re.compile(r"  (?P<key>\w+): (?P<value>[^#]*?)(?P<comment>  #.*)?")


def render(
    template: str, changes: Mapping[str, str], sections: Mapping[str, str] | None = None
) -> str:
    """A template with other values, each with its own comment or the one that was there.

    Args:
        changes: new values by key, such as ``model.dropout``.
        sections: whole sections by name, such as ``task``, in the place of the template's.

    Raises:
        KeyError: the template has no such key or section.
    """
    for name, text in (sections or {}).items():
        template = _with_section(template, name, text)
    lines, section, left = [], "", dict(changes)
    for line in template.splitlines():
        found = _LINE.fullmatch(line)
        if line and not line.startswith(" "):
            section = line.partition(":")[0]
        elif found is not None and (key := f"{section}.{found['key']}") in left:
            value = left.pop(key)
            comment = "" if "#" in value else found["comment"] or ""
            line = f"  {found['key']}: {value}{comment}"
        lines.append(line)
    if left:
        raise KeyError(f"the template has no {', '.join(left)}")
    return "\n".join(lines) + "\n"


def _with_section(template: str, name: str, text: str) -> str:
    found = re.search(rf"^{name}:\n(?:  .*\n)*", template, re.MULTILINE)
    if found is None:
        raise KeyError(f"the template has no section {name}")
    return template[: found.start()] + text + template[found.end() :]


def rendered() -> dict[Path, str]:
    """The text of every config, by its file."""
    template = TEMPLATE.read_text(encoding="utf-8")
    return {
        FOLDER / f"{name}.yaml": render(template, changes, _OF_LABELS if name in LABELS else None)
        for name, changes in CONFIGS.items()
    }


def main() -> None:
    """Write all configs."""
    for path, text in rendered().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
