"""What the JSON files in a run's folder say: each value of its type, or not used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechprune.checksums import read_json
from speechprune.errors import UserError

#: What is taken from a `summary.json`, and the types of it in JSON.
SUMMARY_TYPES: Mapping[str, tuple[type, ...]] = {
    "label": (str,),
    "sparsity": (float, int),
    "updates": (int,),
    "final_updates": (int,),
    "seed": (int,),
    "freeze_finetune_updates": (int,),
}

#: Where JSON says which rates tell something of what was measured, and what tables call them.
RATE_NAMES = "rate_names"
#: Names of error rates in JSON, and what tables call them where nothing is said.
RATES: Mapping[str, str] = {"wer": "WER", "cer": "CER", "error": "error"}
#: Where what `speechprune evaluate` prints says what tells its data apart from other data.
DATA_DIGEST = "data_digest"


def are_facts(facts: Any) -> bool:
    """Whether these are facts as `speechprune.reports.runs` keeps them, each of its type."""
    if not isinstance(facts, dict):
        return False
    task, training = facts.get("task"), facts.get("training")
    if not (isinstance(task, dict) and isinstance(training, dict)):
        return False
    names = [task.get("data"), task.get("labels"), facts.get("train_subset")]
    rate, sparsity = task.get("sample_rate"), training.get("sparsity")
    types = dict(SUMMARY_TYPES, sparsity=(float, int, type(None)))
    return (
        all(isinstance(name, str) and "\0" not in name for name in names)
        and (rate is None or (_is_one_of(rate, (int,)) and rate > 0))
        and isinstance(facts.get("is_dense_control"), bool)
        and training.keys() == types.keys()
        and all(_is_one_of(training[name], kinds) for name, kinds in types.items())
        and (sparsity is None or 0 <= sparsity <= 1)
    )


def _is_one_of(value: Any, types: tuple[type, ...]) -> bool:
    """Whether a value of JSON is of one of some types; a truth value is not a number."""
    return isinstance(value, types) and not isinstance(value, bool)


def read_summary(path: Path) -> dict[str, Any]:
    """What the runner of recipes wrote; nothing if there is no such file."""
    if not path.exists():
        return {}
    found = read_json(path, "restore or remove it")
    for name, types in SUMMARY_TYPES.items():
        if name not in found or not _is_one_of(found[name], types):
            reason = f"{name} is {found[name]!r}"[:80] if name in found else f"no {name!r}"
            raise UserError(f"{path} is not a summary of a run ({reason}); restore or remove it")
    if not 0 <= found["sparsity"] <= 1:
        raise UserError(
            f"{path}: sparsity={found['sparsity']} is not a share; restore or remove it"
        )
    return {**{name: found[name] for name in SUMMARY_TYPES}, "sparsity": float(found["sparsity"])}


def are_values(values: Mapping[str, Any]) -> bool:
    """Whether these are the values of a RunEvaluation, each within its bounds."""
    rates, counts = ("wer", "cer", "density"), ("parameters", "removed")
    return (
        values.keys() == {*rates, *counts, RATE_NAMES}
        and all(_is_one_of(values[name], (float,)) for name in rates)
        and all(0 <= values[name] < math.inf for name in rates)
        and values["density"] <= 1
        and are_rate_names(values[RATE_NAMES])
        and all(_is_one_of(values[name], (int,)) for name in counts)
        and 0 <= values["removed"] <= values["parameters"]
    )


def are_rate_names(names: Any) -> bool:
    """Whether these are names of error rates in JSON, each with what tables call it."""
    return (
        isinstance(names, dict)
        and bool(names)
        and names.keys() <= RATES.keys()
        and all(isinstance(name, str) and name for name in names.values())
    )
