"""The configs of finetuning from one template: each is the template but for a few values, those
for labels but for two sections as well, and those for sentences but for our own flags.

They are complete files, which users copy and change; ``make configs`` writes them anew. Hydra's own
``defaults`` cannot hold what they share: fairseq's defaults would be applied after it, and win.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from speechprune.models.names import ROBERTA, WEIGHTS

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

#: Sections of configs for sentences, in the place of the template's: fairseq's recipes for GLUE.
_OF_SENTENCES: Mapping[str, str] = {
    "common": """\
common:
  cpu: false
  fp16: true
  fp16_init_scale: 4
  threshold_loss_scale: 1
  fp16_scale_window: 128
  log_format: json
  log_interval: 200
""",
    "checkpoint": """\
checkpoint:
  restore_file: checkpoint_last.pt  # or a pretrained RoBERTa, in place of model.roberta_path
  reset_optimizer: false
  reset_dataloader: false
  reset_meters: false
  best_checkpoint_metric: accuracy
  maximize_best_checkpoint_metric: true
  no_epoch_checkpoints: true
""",
    "task": """\
task:
  _name: sentence_prediction
  data: ???
  init_token: 0
  separator_token: 2
  num_classes: 2
  max_positions: 512  # that of pretraining
""",
    "dataset": """\
dataset:
  batch_size: 32
  required_batch_size_multiple: 1
  max_tokens: 4400
""",
    "distributed_training": """\
distributed_training:
  find_unused_parameters: true
  distributed_world_size: 1
""",
    "criterion": """\
criterion:
  _name: sentence_prediction
  regression_target: false
  report_mcc: false
  report_acc_and_f1: false
  report_pearson_and_spearman: false
""",
    "optimization": """\
optimization:
  max_update: 20935
  max_epoch: 10
  clip_norm: 0.0  # none
  lr: [1e-05]
""",
    "optimizer": """\
optimizer:
  _name: adam
  adam_betas: (0.9,0.98)
  adam_eps: 1e-06
  weight_decay: 0.1
""",
    "lr_scheduler": """\
lr_scheduler:
  _name: polynomial_decay
  warmup_updates: 1256
  total_num_update: ${optimization.max_update}
""",
}
#: The model's settings of finetuning, in the place of the template's first ones.
_OF_ROBERTA = """\
  _name: roberta_st
  roberta_path: null
  dropout: 0.1
  attention_dropout: 0.1
  activation_dropout: 0.0
  pooler_dropout: 0.0
  encoder_layerdrop: 0.0
  freeze_finetune_updates: 0
  checkpoint_activations: false
"""
#: What no encoder of text has, and its output layer, which always trains and has no mask.
_NOT_OF_ROBERTA = (
    *("no_prune_extractor", "no_prune_pos", "no_prune_post_extract_proj", "no_prune_proj"),
    *("trainable_post_extract_proj", "trainable_proj"),
)


def _recipe(updates: int, warmup: int, sentences: int, lr: str = "1e-05") -> dict[str, str]:
    """What differs between fairseq's recipes for GLUE; ``sentences`` are those of a batch."""
    return {
        "optimization.max_update": str(updates),
        "lr_scheduler.warmup_updates": str(warmup),
        "dataset.batch_size": str(sentences),
        "optimization.lr": f"[{lr}]",
    }


_F1 = {"criterion.report_acc_and_f1": "true"}
_VALUES = {
    "task.num_classes": "1  # a value",
    "criterion.regression_target": "true",
    "criterion.report_pearson_and_spearman": "true",
    "checkpoint.best_checkpoint_metric": "pearson_and_spearman",
}
#: The configs for sentences, by task of GLUE.
SENTENCES: Mapping[str, Mapping[str, str]] = {
    "glue/cola": {**_recipe(5336, 320, 16), "criterion.report_mcc": "true"},
    "glue/mnli": {**_recipe(123873, 7432, 32), "task.num_classes": "3"},
    "glue/mrpc": {**_recipe(2296, 137, 16), **_F1},
    "glue/qnli": _recipe(33112, 1986, 32),
    "glue/qqp": {**_recipe(113272, 28318, 32), **_F1},
    "glue/rte": _recipe(2036, 122, 16, "2e-05"),
    "glue/sst-2": _recipe(20935, 1256, 32),
    "glue/sts-b": {**_recipe(3598, 214, 16, "2e-05"), **_VALUES},
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


def of_sentences(template: str) -> str:
    """The template of configs for sentences: the flags of ours are those of all others."""
    for name, text in _OF_SENTENCES.items():
        template = _with_section(template, name, text)
    before, model = template.split("model:\n")
    _, ours = model.split("\n\n", 1)
    kept = [
        line.replace(WEIGHTS, ROBERTA).replace("w2v_path", "roberta_path")
        for line in ours.splitlines()
        if line.strip().partition(":")[0] not in _NOT_OF_ROBERTA
    ]
    return f"{before}model:\n{_OF_ROBERTA}\n" + "\n".join(kept) + "\n"


def _with_section(template: str, name: str, text: str) -> str:
    found = re.search(rf"^{name}:\n(?:  .*\n)*", template, re.MULTILINE)
    if found is None:
        raise KeyError(f"the template has no section {name}")
    return template[: found.start()] + text + template[found.end() :]


def rendered() -> dict[Path, str]:
    """The text of every config, by its file."""
    template = TEMPLATE.read_text(encoding="utf-8")
    texts = {
        name: render(template, changes, _OF_LABELS if name in LABELS else None)
        for name, changes in CONFIGS.items()
    }
    of_text = of_sentences(template)
    texts.update({name: render(of_text, changes) for name, changes in SENTENCES.items()})
    return {FOLDER / f"{name}.yaml": text for name, text in texts.items()}


def main() -> None:
    """Write all configs."""
    for path, text in rendered().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
