"""What a fairseq model says of itself, so that nobody else has to know it by its name."""

from speechprune import quiet_fairseq  # noqa: F401  (before fairseq)

# isort: split
from typing import Any, Callable, ClassVar, Dict, FrozenSet, List, Mapping, Optional, Type, TypeVar

from fairseq.models import MODEL_REGISTRY

from speechprune.models.layer_flags import LayerFlags
from speechprune.models.mask_flags import MaskFlags
from speechprune.models.pruning_flags import PruningFlags
from speechprune.models.slim_flags import SlimFlags

LAYER_FLAGS = frozenset(vars(LayerFlags()))
MASK_FLAGS = frozenset(vars(MaskFlags()))
PRUNING_FLAGS = frozenset(vars(PruningFlags()))
SLIM_FLAGS = frozenset(vars(SlimFlags()))
#: All of our flags with their defaults, in order.
DEFAULTS: Mapping[str, Any] = {
    flag: default
    for flags in (LayerFlags(), MaskFlags(), PruningFlags(), SlimFlags())
    for flag, default in vars(flags).items()
}


def is_changed(flag: str, value: Any) -> bool:
    """Whether one of our flags has another value than its default."""
    default = DEFAULTS[flag]
    return value != default and not (_is_unset(value) and _is_unset(default))


def _is_unset(value: Any) -> bool:
    """Whether a flag has no value: None, an empty list or, in S3-Router's files, 0."""
    return value is None or value == [] or (type(value) is int and value == 0)


#: Flags that only say how a run begins, or what it does besides training.
_NOT_OF_THE_NETWORK = frozenset(
    {"init_score", "init_score_scale", "load_mask_only", "load_mask_before", "mask_file"}
    | {"eval_only"}
)


class Declared:
    """What the rest of the program asks of a model's class; these are answers of unknown models."""

    #: The flags of ours that it reads.
    reads: ClassVar[FrozenSet[str]] = frozenset(DEFAULTS)
    #: How reports call it.
    label: ClassVar[Optional[str]] = None
    #: Whether its checkpoints have masks.
    has_masks: ClassVar[bool] = False
    #: Whether its checkpoints hold more than weights, which has to be folded into them.
    needs_folding: ClassVar[bool] = False
    #: Whether its checkpoints have heads and channels that are removed, but not cut out: other
    #: models would let them grow again.
    keeps_removed_units: ClassVar[bool] = False
    #: Whether it finetunes all weights and removes nothing: what other methods are judged against.
    is_dense_control: ClassVar[bool] = False

    @classmethod
    def check_settings(cls, cfg: Any) -> None:
        """Raise UserError for settings that cannot work, as far as they alone can tell."""

    @classmethod
    def check_depth(cls, cfg: Any, layers: int) -> None:
        """Raise UserError for settings that cannot work in a model of ``layers`` layers."""

    @classmethod
    def label_of(cls, cfg: Mapping[str, Any]) -> str:
        """How reports call a model with these settings."""
        return cls.label or str(cfg["_name"])

    @classmethod
    def sparsity_of(cls, cfg: Mapping[str, Any]) -> Optional[float]:
        """The share that a run is to remove in the end, if its settings say so."""
        return None

    @classmethod
    def sparse_from(cls, cfg: Any) -> int:
        """The update from which a run has the sparsity that its settings claim."""
        return 0

    @classmethod
    def unread(cls) -> FrozenSet[str]:
        """The flags of ours that it does not read."""
        return frozenset(DEFAULTS) - cls.reads

    @classmethod
    def network_flags(cls) -> List[str]:
        """The flags of masks and pruning that say what network it trains, in order.

        Which layers it has lost, a checkpoint tells by itself.
        """
        return [flag for flag in cls.mask_flags() if flag not in _NOT_OF_THE_NETWORK]

    @classmethod
    def network(cls, cfg: Mapping[str, Any]) -> Dict[str, Any]:
        """Of `network_flags` those that settings hold, with the values that are in force."""
        known = [flag for flag in cls.network_flags() if flag in cfg]
        return {f: cfg[f] if is_changed(f, cfg[f]) else DEFAULTS[f] for f in known}

    @classmethod
    def mask_flags(cls) -> List[str]:
        """The flags that say how its masks came about, in order."""
        return [flag for flag in DEFAULTS if flag in cls.reads - LAYER_FLAGS]


_OF_FAIRSEQ: Dict[str, Type[Declared]] = {}

Class = TypeVar("Class", bound=Type[Declared])


def declares(*names: str) -> Callable[[Class], Class]:
    """Class decorator: the class says what fairseq's own models of these names are."""

    def add(declaration: Class) -> Class:
        for name in names:
            _OF_FAIRSEQ[name] = declaration
        return declaration

    return add


def declared(name: str) -> Type[Declared]:
    """What is known of the model that fairseq's registry calls ``name``."""
    model = MODEL_REGISTRY.get(name)
    if isinstance(model, type) and issubclass(model, Declared):
        return model
    return _OF_FAIRSEQ.get(name, Declared)
