"""DPHuBERT: distillation and pruning together, without labels, and finetuning of what is left.

Source: Peng et al., "DPHuBERT: Joint Distillation and Pruning of Self-Supervised Speech Models",
Interspeech 2023 (arXiv 2305.17651). Convolutions and whole layers stay, which the paper prunes too.
"""

from __future__ import annotations

from dataclasses import replace

from speechprune.models.names import GATES, PRUNED, SLIM
from speechprune.recipes.base import Plan, recipe
from speechprune.recipes.setting import Setting, path_value
from speechprune.recipes.steps import EncoderMaking


@recipe("dphubert", "keep_parameters", of_speech=True)
def distil_and_prune(setting: Setting) -> Plan:
    """DPHuBERT: distil the pretrained model while gates prune it; cut, distil on; finetune.

    The first two trainings need no labels. Each has as many updates as the last one.
    """
    name = f"dphubert-{setting.keep_parameters!r}"
    distilling = (
        "criterion._name=distill",
        f"criterion.teacher={path_value(setting.model)}",
        "checkpoint.best_checkpoint_metric=loss",
    )
    pruning = setting.run(
        f"{name}/pruned",
        f"model._name={SLIM}",
        f"model.criterion={GATES}",
        f"model.keep_parameters={setting.keep_parameters!r}",
        *distilling,
    )
    cut = EncoderMaking(
        "cutting closed gates out",
        setting.out / setting.of_seed(f"{name}/cut") / "encoder.pt",
        pruning.checkpoint,
        cut=True,
    )
    slim = replace(setting, model=cut.target)
    distilled = slim.run(
        f"{name}/distilled", f"model._name={PRUNED}", *distilling, needs=[cut.target]
    )
    encoder = EncoderMaking(
        "taking the distilled encoder",
        setting.out / setting.of_seed(f"{name}/distilled") / "encoder.pt",
        distilled.checkpoint,
    )
    final = replace(setting, model=encoder.target)
    finetuned = final.run(f"{name}/finetuned", f"model._name={PRUNED}", needs=[encoder.target])
    return Plan((pruning, cut, distilled, encoder, finetuned), {"DPHuBERT": finetuned})
