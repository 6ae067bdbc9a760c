"""Keys in S3-Router's own YAMLs and checkpoints that nothing here reads."""

import logging
import re
from typing import Any, Collection, List

from omegaconf import DictConfig, open_dict

from speechprune.errors import UserError

logger = logging.getLogger(__name__)

#: Of the model: what else to finetune, and adapters. Of the optimizer: what Adam has not.
_KEYS = re.compile(r"ft_\w+|use_adapter|adapter_type|momentum")
#: The keys of which the network itself depends.
_OF_THE_NETWORK = ("use_adapter",)


def pass_over(cfg: DictConfig, known: Collection[str], *, is_saved: bool) -> None:
    """Take S3-Router's other keys out of a section of a config, and name them in one warning.

    Any other unknown key is left to fairseq, which refuses it.

    Args:
        known: the keys that are read.
        is_saved: whether a checkpoint holds the section. What it says of training is of no account
            then, and there is no warning.

    Raises:
        UserError: one of the keys is true, and so asks for another training, or another network.
    """
    keys = [str(key) for key in cfg if key not in known and _KEYS.fullmatch(str(key))]
    _refuse_true(cfg, [k for k in keys if k in _OF_THE_NETWORK] if is_saved else keys)
    if keys and not is_saved:
        section = cfg._key()
        names = ", ".join(f"{section}.{key}" for key in keys)
        logger.warning(f"passing over keys of S3-Router's that nothing here reads: {names}")
    with open_dict(cfg):
        for key in keys:
            del cfg[key]


def _refuse_true(cfg: Any, keys: List[str]) -> None:
    for key in keys:
        if cfg[key] is True:
            raise UserError(
                f"model.{key}=true is S3-Router's, and speechprune cannot do what it asks for; "
                "leave it false"
            )
