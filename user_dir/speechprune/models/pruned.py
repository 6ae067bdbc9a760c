"""What the models share that begin from given masks and save a sparse network."""

from typing import Any, Dict, List, Mapping, Optional

from speechprune.checkpoint.outputs import masks_by_symbol
from speechprune.errors import UserError
from speechprune.masking.mask_set import MaskSet
from speechprune.masking.masked_site import original_weight
from speechprune.masking.sites import Site, before_weight_norm
from speechprune.models.config import PrunedConfig
from speechprune.models.mask_flags import flags_of
from speechprune.models.mask_reading import read_mask_set
from speechprune.models.masked import Masked
from speechprune.models.pruning_flags import check_modes
from speechprune.models.sites import advice_of_slim, maskable_sites, prunable
from speechprune.state_names import is_mask, is_regrown, is_scores


class Pruned(Masked):
    """A network that is validated and saved sparse, under masks that it may have been given.

    Attributes:
        given_masks: those of ``model.mask_file``, in a run that begins.
    """

    given_masks: Optional[MaskSet] = None
    #: Whether the checkpoint that comes next is another run's, which is the network that it claims.
    takes_pruned_weights = False

    @classmethod
    def check_settings(cls, cfg: PrunedConfig) -> None:
        super().check_settings(cfg)
        check_modes(cfg)

    @classmethod
    def network(cls, cfg: Mapping[str, Any]) -> Dict[str, Any]:
        found = super().network(cfg)
        if found.get("prune_biases", False) is None:
            found["prune_biases"] = cls.prunes_biases_of(cfg)
        return found

    @classmethod
    def prunes_biases_of(cls, cfg: Mapping[str, Any]) -> bool:
        """Whether biases are pruned where ``model.prune_biases`` is unset."""
        return True

    def mask_sites(self) -> List[Site]:
        """The tensors that the flags prune, each weight followed by its bias."""
        return prunable(super().mask_sites(), biases=self.prunes_biases)

    @property
    def prunes_biases(self) -> bool:
        """Whether biases have masks too."""
        given = self.cfg.prune_biases
        return self.prunes_biases_of(self.cfg) if given is None else bool(given)

    def begin(self) -> None:
        """Prepare for a run that begins: take the masks of ``model.mask_file``.

        Raises:
            UserError: it cannot be read, or is of other tensors than the flags say.
        """
        self.takes_pruned_weights = bool(self.cfg.finetune_from_model)
        if not self.cfg.mask_file:
            return
        whole = read_mask_set(self.cfg.mask_file)
        if self.dictionary is not None:
            whole = masks_by_symbol(whole, self.dictionary)
        # Masks that were learned after weight norm remove entries of its direction here.
        names = {site.name: before_weight_norm(site).name for site in maskable_sites(self)}
        left = whole if self.layer_plan is None else self.without_layers(whole)
        found = {names.get(name, name): mask for name, mask in left.items()}
        masks = MaskSet(found, whole.provenance)
        shapes = {
            site.name: tuple(original_weight(site).shape) for site in self.mask_controller.sites
        }
        try:
            masks.check_fits(shapes)
        except UserError as error:
            advice = self._flags_that_fit(masks) + advice_of_slim(self)
            raise UserError(f"{self.cfg.mask_file}: {error}{advice}") from error
        self.given_masks = masks
        self.mask_controller.start_from(masks)

    def _flags_that_fit(self, masks: MaskSet) -> str:
        """The settings under which the masked tensors are those of ``masks``, if there are any."""
        roles = {site.name: site.role for site in prunable(maskable_sites(self), biases=True)}
        if not set(masks) <= set(roles):
            return ""
        wanted = flags_of({roles[name] for name in masks})
        now = {flag: getattr(self.cfg, flag) for flag in wanted}
        wanted["prune_biases"] = any(name.endswith(".bias") for name in masks)
        now["prune_biases"] = self.prunes_biases
        changes = [
            f"model.{flag}={str(value).lower()}"
            for flag, value in wanted.items()
            if now[flag] != value
        ]
        return f"; these masks want {' '.join(changes)}" if changes else ""

    def load_state_dict(self, state_dict: Dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load any state dict; what another run left is the pruned network, and given masks
        are put on it.

        Raises:
            UserError: the state dict is damaged.
        """
        if self.takes_pruned_weights:
            self.takes_pruned_weights = False
            state_dict = {k: v for k, v in state_dict.items() if not is_regrown(k)}
        if self.given_masks is None:
            return super().load_state_dict(state_dict, *args, **kwargs)
        # Whatever masks the checkpoint has, of rows perhaps, others take their place.
        state_dict = {k: v for k, v in state_dict.items() if not (is_mask(k) or is_scores(k))}
        result = super().load_state_dict(state_dict, *args, **kwargs)
        self.mask_controller.start_from(self.given_masks)
        return result
