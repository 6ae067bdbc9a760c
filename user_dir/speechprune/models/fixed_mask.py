"""Finetuning the weights that a given mask keeps."""

from typing import Any

from speechprune.errors import UserError
from speechprune.masking.controller import MaskController
from speechprune.masking.policies import POLICIES
from speechprune.masking.schedule import ConstantSchedule
from speechprune.models.declaration import LAYER_FLAGS
from speechprune.models.mask_flags import SITE_FLAGS
from speechprune.models.pruned import Pruned
from speechprune.models.restart import is_first_launch


class FixedMask(Pruned):
    """The masks are those of ``model.mask_file`` from the first update to the last."""

    reads = LAYER_FLAGS | {*SITE_FLAGS, "mask_file", "prune_biases", "eval_only"}
    label = "fixed mask"

    @classmethod
    def check_settings(cls, cfg: Any) -> None:
        super().check_settings(cfg)
        if is_first_launch(cfg) and not cfg.mask_file:
            raise UserError(
                f"model._name={cfg._name} needs model.mask_file=FILE, a mask file or a "
                "checkpoint with masks; `speechprune masks make` makes one"
            )

    def prepare(self, from_pretrained: bool) -> None:
        cfg = self.cfg
        self.mask_controller = MaskController(
            self.mask_sites(),
            POLICIES.build("gradual_magnitude"),
            ConstantSchedule(1.0),
            every=None,
            seed=cfg.seed,
            initialise=from_pretrained,
        )
        if from_pretrained and is_first_launch(cfg):
            self.begin()
