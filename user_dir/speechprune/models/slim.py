"""What the models share that finetune all weights while heads and channels are removed."""

from typing import Any, Dict, Mapping, Union

from fairseq.logging import metrics

from speechprune.backbones.cost import encoder_cost
from speechprune.checkpoint.slimming import refuse_uncut
from speechprune.errors import UserError
from speechprune.models.declaration import LAYER_FLAGS, SLIM_FLAGS
from speechprune.models.finetuned import Finetuned
from speechprune.models.names import GATES
from speechprune.models.pruning_flags import check_modes
from speechprune.models.restart import is_first_launch
from speechprune.models.slim_flags import (
    BUDGETS,
    begin_of,
    budget_of,
    check_slim,
    check_whole_layers,
    criterion_of,
    end_of,
    kinds_of,
    target_of,
)
from speechprune.slimming.controller import SLIM_CONTROLLER, SlimController
from speechprune.slimming.cost import unit_costs
from speechprune.slimming.gate_controller import GateController
from speechprune.slimming.plan import KeptUnits

_PREFIX = f"{SLIM_CONTROLLER}."


class Slim(Finetuned):
    """Removes heads and channels for good, more and more of them; all weights train.

    What is removed is zero, or has a gate that is closed, until `speechprune slim apply` cuts it
    out.
    """

    reads = LAYER_FLAGS | SLIM_FLAGS | {"prune_every", "fix_attn", "fix_fc", "eval_only"}
    label = "auto-slim"
    needs_folding = True
    keeps_removed_units = True
    slim_controller: Union[SlimController, GateController]

    @classmethod
    def check_settings(cls, cfg: Any) -> None:
        super().check_settings(cfg)
        check_modes(cfg)
        check_slim(cfg)

    @classmethod
    def check_depth(cls, cfg: Any, layers: int) -> None:
        check_whole_layers(cfg, layers)

    @classmethod
    def label_of(cls, cfg: Mapping[str, Any]) -> str:
        return f"auto-slim, {cfg['criterion']}"

    @classmethod
    def sparse_from(cls, cfg: Any) -> int:
        return end_of(cfg)

    def prepare(self, from_pretrained: bool) -> None:
        """Let scores or gates choose among the heads and channels.

        Raises:
            UserError: settings that cannot work in this model.
        """
        check_whole_layers(self.cfg, self.depth)
        self.slim_controller = (
            self._gates() if self.cfg.criterion == GATES else self._structured_masks()
        )
        #: Whether the checkpoint that comes next is another run's.
        self.begins_from_another = (
            from_pretrained and is_first_launch(self.cfg) and bool(self.cfg.finetune_from_model)
        )
        #: Whether it has to have scores or gates: it is this run's, or the model itself.
        self.goes_on = not from_pretrained or not is_first_launch(self.cfg)

    def _structured_masks(self) -> SlimController:
        units = self.family.units(self.backbone)
        target = target_of(self.cfg, units, self.backbone)
        return SlimController(units, criterion_of(self.cfg), target, self.cfg.whole_layers)

    def _gates(self) -> GateController:
        cfg, key = self.cfg, budget_of(self.cfg)
        assert key is not None
        # Gates act on what enters a layer's last projection, which only our attention calls.
        before = self.family.units(self.backbone)
        self.family.slim(self.backbone, [KeptUnits.all(u.heads, u.channels) for u in before])
        units = [u for u in self.family.units(self.backbone) if u.layer not in cfg.whole_layers]
        measure, whole = BUDGETS[key], encoder_cost(self.backbone)
        costs = unit_costs(units, whole.frames)
        return GateController(
            self,
            units,
            1.0 - getattr(cfg, key),
            whole.of(measure),
            kinds=kinds_of(cfg),
            costs={unit: cost.of(measure) for unit, cost in costs.items()},
            begin=begin_of(cfg),
            warmup=end_of(cfg) - begin_of(cfg),
            seed=cfg.seed,
        )

    def begin_update(self) -> None:
        if self.training:
            for name, value in self.slim_controller.stats().items():
                metrics.log_scalar(name, value, weight=0, priority=25, round=4)

    def state_dict(self, *args: Any, **kwargs: Any) -> Dict[str, Any]:
        self.slim_controller.settle()
        return super().state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load the state of such a run, or the weights of any plain CTC model.

        Raises:
            UserError: the checkpoint is one of this run, or this model, and lacks its scores or
                gates; or it is another run's, whose removed units are not cut out.
        """
        if self.begins_from_another:
            path = self.cfg.finetune_from_model
            refuse_uncut(path, state_dict, "which another choice would let grow again")
        self.begins_from_another = False
        own = {k: v for k, v in super().state_dict().items() if k.startswith(_PREFIX)}
        missing = [key for key in own if key not in state_dict]
        if missing and self.goes_on:
            raise UserError(
                f"the checkpoint lacks {missing[0]}, by which it would be slimmed; it is damaged, "
                "or was trained as another model or with another model.criterion"
            )
        return super().load_state_dict({**own, **state_dict}, *args, **kwargs)

    def fold(self) -> None:
        """Leave a plain model, whose removed heads and channels are zero."""
        self.slim_controller.fold()
