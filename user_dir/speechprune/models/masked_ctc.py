"""What every CTC model with masks shares: masks follow fairseq's loop, runs can be repeated, and
checkpoints of several kinds load."""

import logging
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional

import numpy as np
import torch
from fairseq.logging import metrics
from fairseq.models.wav2vec.wav2vec2_asr import Wav2VecCtc
from torch import nn

from speechprune.backbones import Backbone, find_backbone
from speechprune.checkpoint import check_pretrained
from speechprune.errors import UserError
from speechprune.masking.controller import MaskController
from speechprune.masking.masked_weight import mask_key, regrown_key, scores_key
from speechprune.masking.sites import Site
from speechprune.models.settings import MaskedCtcConfig, masked_roles

logger = logging.getLogger(__name__)

#: Masks made elsewhere keep about the share that they were asked to.
DENSITY_TOLERANCE = 0.01


class MaskedCtc(Wav2VecCtc):
    """fairseq's `wav2vec_ctc` with a :class:`MaskController` as ``mask_controller``.

    `set_num_updates`, `train` and `eval` reach the controller through fairseq and PyTorch.
    """

    mask_controller: MaskController

    @classmethod
    def build_model(cls, cfg: MaskedCtcConfig, task: Any) -> "MaskedCtc":
        """Load the pretrained weights, then put the masks on them: the order matters.

        Raises:
            UserError: settings or files that cannot work.
        """
        # fairseq fills in cfg.w2v_args while it builds.
        from_pretrained = cfg.w2v_args is None
        if from_pretrained:
            cls.check_settings(cfg)
            check_pretrained(cfg.w2v_path, cfg.normalize)
        model = super().build_model(cfg, task)
        model.put_masks(from_pretrained)
        return model

    @classmethod
    def check_settings(cls, cfg: MaskedCtcConfig) -> None:
        """Raise UserError for settings that cannot work, as far as they alone can tell."""

    def put_masks(self, from_pretrained: bool) -> None:
        """Build ``mask_controller``.

        Args:
            from_pretrained: whether this model begins a run; else a checkpoint of ours follows.
        """
        raise NotImplementedError

    def __init__(self, cfg: MaskedCtcConfig, w2v_encoder: nn.Module) -> None:
        super().__init__(cfg, w2v_encoder)
        self._update: Optional[int] = None
        self._micro_batch = 0
        #: Whether the checkpoint that comes next is to give its masks alone. A run that goes on,
        #: and a model built from its own checkpoint, take all of it.
        self.takes_masks_only = False

    @property
    def backbone(self) -> nn.Module:
        """The self-supervised encoder, without the CTC head."""
        return self.w2v_encoder.w2v_model

    @property
    def family(self) -> Backbone:
        """What is known of the encoder's model family."""
        return find_backbone(self.backbone)

    def mask_sites(self) -> List[Site]:
        """The tensors that the flags put a mask on, the CTC head last."""
        roles = masked_roles(self.cfg)
        sites = self.family.sites(self.backbone, roles)
        if "head" in roles:
            sites.append(Site("proj.weight", "head", None, self.w2v_encoder.proj, "weight"))
        return sites

    def set_num_updates(self, num_updates: int) -> None:
        super().set_num_updates(num_updates)
        if num_updates == self._update:
            return
        self._update = num_updates
        self._micro_batch = 0
        if self.training:
            stats = self.mask_controller.stats()
            metrics.log_scalar("density", stats["density"], weight=0, priority=25, round=6)
            metrics.log_scalar("flipped", stats["flipped"], priority=26, round=1)

    def forward(self, **kwargs: Any) -> Dict[str, Any]:
        if not self.training:
            return super().forward(**kwargs)
        with self._seeded_numpy():
            return super().forward(**kwargs)

    @contextmanager
    def _seeded_numpy(self) -> Iterator[None]:
        """Span masking and layerdrop draw from numpy: seed it per update, rank and micro-batch, so
        that a resumed run goes on as if it had never stopped."""
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = torch.distributed.get_rank() if distributed else 0
        key = [self.cfg.seed, self._update or 0, rank, self._micro_batch]
        self._micro_batch += 1
        state = np.random.get_state()
        np.random.seed(np.random.SeedSequence(key).generate_state(4))
        try:
            yield
        finally:
            np.random.set_state(state)

    def state_dict(self, *args: Any, **kwargs: Any) -> Dict[str, Any]:
        self.mask_controller.settle()
        return super().state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load ours, S3-Router's or a plain `wav2vec_ctc` state dict.

        Raises:
            UserError: load_mask_only is set and the checkpoint holds no mask that fits; or it holds
                masks that the flags fix at another density than they claim.
        """
        state = dict(state_dict)
        if self.takes_masks_only:
            state = self._with_masks_of(state)
            self.takes_masks_only = False
        state = self._without_foreign_masks(state)
        result = super().load_state_dict(state, *args, **kwargs)
        self.mask_controller.loaded()
        self._refuse_other_density()
        self._update = None
        return result

    def _refuse_other_density(self) -> None:
        """The network that is trained and saved must be the one that the flags claim."""
        kept, claimed = self.mask_controller.fixed_densities()
        if abs(kept - claimed) > DENSITY_TOLERANCE:
            raise UserError(
                f"the checkpoint's masks keep {kept:.4g} and are fixed, but the flags say "
                f"{claimed:.4g}; set model.prune_rate={kept:.4g}, or leave out model.fix_mask"
            )

    def _with_masks_of(self, state: Dict[str, Any]) -> Dict[str, Any]:
        """This model's own state with only the masks of the chosen layers taken from ``state``."""
        own = super().state_dict()
        before = self.cfg.load_mask_before
        taken = 0
        for site in self.mask_controller.sites:
            if before is not None and (site.layer is None or site.layer >= before):
                continue
            for key in _mask_keys(site):
                own.pop(key, None)
                if key in state:
                    own[key] = state[key]
                    taken += 1
        if not taken:
            raise UserError(
                f"model.load_mask_only=true, but {self.cfg.finetune_from_model} holds no mask for "
                "this model"
            )
        return own

    def _without_foreign_masks(self, state: Dict[str, Any]) -> Dict[str, Any]:
        """``state`` less the scores and masks of tensors that have none here.

        S3-Router saves scores for every projection, masked or not.
        """
        own = {key for site in self.mask_controller.sites for key in _mask_keys(site)}
        foreign = [
            key for key in state if key not in own and key.endswith(("scores", "_mask", "_regrown"))
        ]
        if foreign:
            logger.warning(f"ignoring {len(foreign)} masks of tensors that have no mask here")
        return {key: value for key, value in state.items() if key not in foreign}

    def fold(self) -> None:
        """Bake the masks in: the state dict is then one of a plain `wav2vec_ctc`."""
        self.mask_controller.fold()


def _mask_keys(site: Site) -> List[str]:
    """State dict keys of what belongs to a site's mask."""
    prefix = "w2v_encoder." if site.role == "head" else "w2v_encoder.w2v_model."
    owner = prefix + site.name[: -len(site.tensor)]
    return [owner + key(site.tensor) for key in (scores_key, mask_key, regrown_key)]
