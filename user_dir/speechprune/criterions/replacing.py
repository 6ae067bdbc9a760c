"""Criterions of ours that stand in for fairseq's own, under their names."""

from typing import Any, Type

from fairseq.criterions import CRITERION_DATACLASS_REGISTRY, CRITERION_REGISTRY, FairseqCriterion
from fairseq.dataclass import FairseqDataclass
from hydra.core.config_store import ConfigStore


def replace_criterion(
    name: str, criterion: Type[FairseqCriterion], settings: Type[FairseqDataclass]
) -> None:
    """Stand in for fairseq's criterion called ``name``, also where it builds settings of 2020."""
    CRITERION_REGISTRY[name] = criterion
    CRITERION_DATACLASS_REGISTRY[name] = settings
    node: Any = settings()
    node._name = name
    ConfigStore.instance().store(name=name, group="criterion", node=node, provider="fairseq")
