"""Masks across languages: one language's on another, and one for many.

Source: Lai et al., "PARP", NeurIPS 2021 (arXiv 2106.05933).
"""

from __future__ import annotations

from speechprune.errors import UserError
from speechprune.recipes.base import Plan, recipe
from speechprune.recipes.setting import Setting, path_value
from speechprune.recipes.steps import Pooling


@recipe("transfer", "sparsity", "source")
def transfer(setting: Setting) -> Plan:
    """The OMP mask of a source language, or task, on the target: fixed, and adjusted by PARP."""
    if setting.source is None:
        raise UserError("transfer needs the data of the source language; give --source DIR")
    first = setting.run("source-dense", f"model._name={setting.names.weights}", data=setting.source)
    mask = setting.mask_of_run(f"source-{setting.share}", first)
    fixed = setting.masked(f"transfer-fixed-{setting.share}", mask.target)
    adjusted = setting.parp(
        f"transfer-adjusted-{setting.share}",
        f"model.mask_file={path_value(mask.target)}",
        needs=[mask.target],
    )
    results = {"source mask, fixed": fixed, "source mask, adjusted": adjusted}
    return Plan((first, mask, fixed, adjusted), results)


@recipe("joint", "sparsity", "languages", of_speech=True)
def joint(setting: Setting) -> Plan:
    """PARP on pooled languages: one dictionary, one head, one mask."""
    if len(setting.languages) < 2:
        raise UserError("joint pools languages; give two or more --language DIR")
    pooled = Pooling("pooled languages", setting.out / "pooled", setting.languages)
    run = setting.parp(f"joint-{setting.share}", data=pooled.target, needs=[pooled.target])
    return Plan((pooled, run), {"PARP, joint": run})
