"""Finetuning under masks that any policy chooses, weights trained or frozen."""

from typing import Any, Dict, Mapping, Optional

import torch

from speechprune.errors import UserError
from speechprune.masking.controller import MaskController
from speechprune.masking.mask_set import MaskSet
from speechprune.masking.masked_site import masked_weight
from speechprune.masking.policies import POLICIES
from speechprune.masking.ranking import n_of_m
from speechprune.models.declaration import LAYER_FLAGS, PRUNING_FLAGS
from speechprune.models.mask_flags import SITE_FLAGS, TRAINABLE_FLAGS
from speechprune.models.masked import DENSITY_TOLERANCE
from speechprune.models.pruned import Pruned
from speechprune.models.pruning_flags import (
    SCOPES,
    check_pruning,
    end_of,
    policy_of,
    schedule_of,
    start_of,
    trains_weights,
)
from speechprune.models.restart import is_first_launch
from speechprune.state_names import key_of, mask_key, scores_key, sibling


class PolicyPruning(Pruned):
    """Removes the share ``model.sparsity``; ``model.policy`` chooses what stays, every so often.

    The masked weights train as the policy does, or as ``model.train_weights`` says. If they are
    frozen, all else is too but for what the `trainable_*` flags name.
    """

    reads = LAYER_FLAGS | PRUNING_FLAGS | {*SITE_FLAGS, *TRAINABLE_FLAGS, "eval_only"}

    @classmethod
    def check_settings(cls, cfg: Any) -> None:
        super().check_settings(cfg)
        check_pruning(cfg)

    @classmethod
    def label_of(cls, cfg: Mapping[str, Any]) -> str:
        if cfg["policy"] == "parp":
            start = cfg["start_sparsity"]
            return "PARP" if start is None or start >= cfg["sparsity"] else "PARP-P"
        options = sorted((cfg.get("policy_options") or {}).items())
        parts = [str(cfg["policy"]), *(f"{key}={value}" for key, value in options)]
        trains = cfg.get("train_weights")
        if trains not in (None, POLICIES.get(cfg["policy"]).trains_weights):
            parts.append("weights trained" if trains else "weights frozen")
        return ", ".join(parts)

    @classmethod
    def network(cls, cfg: Mapping[str, Any]) -> Dict[str, Any]:
        found = super().network(cfg)
        if found.get("train_weights", False) is None:
            found["train_weights"] = bool(POLICIES.get(cfg["policy"]).trains_weights)
        return found

    @classmethod
    def sparsity_of(cls, cfg: Mapping[str, Any]) -> Optional[float]:
        return float(cfg["sparsity"])

    @classmethod
    def sparse_from(cls, cfg: Any) -> int:
        return end_of(cfg) if start_of(cfg) < cfg.sparsity else 0

    @classmethod
    def prunes_biases_of(cls, cfg: Mapping[str, Any]) -> bool:
        return bool(POLICIES.get(cfg["policy"]).prunes_biases)

    @property
    def trains_weights(self) -> bool:
        """Whether the masked weights are trained, and all else with them."""
        return trains_weights(self.cfg)

    def prepare(self, from_pretrained: bool) -> None:
        """Put masks on, and freeze what does not train.

        Raises:
            UserError: flags that cannot work, or given masks that do not fit.
        """
        cfg = self.cfg
        sites = self.mask_sites()
        if not self.trains_weights:
            self.requires_grad_(False)
        self.mask_controller = MaskController(
            sites,
            policy_of(cfg),
            schedule_of(cfg),
            scope=SCOPES[cfg.prune_scope],
            every=cfg.prune_every,
            begin=cfg.freeze_finetune_updates,
            seed=cfg.seed,
            initialise=from_pretrained,
            trains_weights=self.trains_weights,
        )
        if not self.trains_weights:
            self.free_parameters()
            self.let_gradients_through()
        if not from_pretrained:
            return
        if not self.trains_weights:
            self.warn_of_frozen_head()
            self.warn_of_flags_without_effect()
        if is_first_launch(cfg):
            self.begin()
            self._refuse_other_start()

    def load_state_dict(self, state_dict: Dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As its base class.

        Raises:
            UserError: the policy ranks by scores, and the checkpoint has masks without any.
        """
        if self.given_masks is None:
            self._refuse_masks_without_scores(state_dict)
        return super().load_state_dict(state_dict, *args, **kwargs)

    def _refuse_masks_without_scores(self, state: Mapping[str, Any]) -> None:
        """New scores would choose other masks than the checkpoint's, without a word."""
        policy = self.mask_controller.policy
        for site in self.mask_controller.sites:
            key = key_of(site.name)
            has_scores = masked_weight(site).scores is not None and policy.ranks_at_first
            if has_scores and sibling(key, mask_key) in state:
                if sibling(key, scores_key) not in state:
                    raise UserError(
                        f"the checkpoint has masks but no scores, by which model.policy="
                        f"{self.cfg.policy} chooses them; give its masks as model.mask_file, from "
                        "which scores can start, or choose another policy"
                    )

    def _refuse_other_pattern(self, masks: MaskSet) -> None:
        pattern = self.mask_controller.policy.pattern
        if pattern is None:
            return
        for name, mask in masks.items():
            if not torch.equal(mask, n_of_m(mask, *pattern)):
                raise UserError(
                    f"{self.cfg.mask_file} does not keep {pattern[0]} of every {pattern[1]} "
                    f"weights of {name}, as model.policy={self.cfg.policy} does; leave out "
                    "model.mask_file"
                )

    def _refuse_other_start(self) -> None:
        if self.given_masks is None:
            return
        self._refuse_other_pattern(self.given_masks)
        removed, claimed = 1.0 - self.given_masks.density, start_of(self.cfg)
        if abs(removed - claimed) > DENSITY_TOLERANCE:
            raise UserError(
                f"{self.cfg.mask_file} removes {removed:.4g}, but the run starts at the sparsity "
                f"{claimed:.4g}; set model.sparsity={removed:.4g}, or model.start_sparsity"
            )
