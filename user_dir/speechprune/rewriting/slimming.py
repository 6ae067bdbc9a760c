"""Smaller checkpoints: attention heads and feed-forward channels cut out of any file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from speechprune.backbones import LAYER_ROLES, find_backbone
from speechprune.backbones.cost import encoder_parameters
from speechprune.checkpoint.file import PathLike
from speechprune.checkpoint.settings import encoder_of, plain
from speechprune.checkpoint.text import with_vocabulary
from speechprune.errors import UserError
from speechprune.models.names import ROBERTA_PRUNED
from speechprune.models.sites import prunable
from speechprune.rewriting.plain_checkpoint import PlainCheckpoint, read_plain
from speechprune.rewriting.rewriting import AVERAGES, Rewriting
from speechprune.slimming.cutting import check_cut, kept_entries
from speechprune.slimming.plan import SLIM_PLAN, KeptUnits
from speechprune.slimming.removable import fold_constants, kept_without, removable_units
from speechprune.slimming.units import LayerUnits
from speechprune.state_names import is_finetuned
from speechprune.tables import table


@dataclass(frozen=True)
class CutLayer:
    """What is left of a layer.

    Attributes:
        layer: 0-based.
        heads, channels: how many stay.
        heads_before, channels_before: how many there were in the source.
        idle_heads, idle_channels: how many of those that stay change nothing: a layer needs one of
            each, and its width may have to be a round number.
    """

    layer: int
    heads: int
    heads_before: int
    channels: int
    channels_before: int
    idle_heads: int
    idle_channels: int


@dataclass(frozen=True)
class CutReport:
    """What is left of an encoder.

    Attributes:
        layers: each of its layers.
        parameters: of the encoder.
        parameters_before: of the one in the source.
    """

    layers: tuple[CutLayer, ...]
    parameters: int
    parameters_before: int

    def describe(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> CutReport:
        """What `describe` described."""
        layers = tuple(CutLayer(**layer) for layer in described["layers"])
        return cls(layers, described["parameters"], described["parameters_before"])

    @property
    def rows(self) -> list[list[str]]:
        """A table of what each layer keeps, of which the first row is the head."""
        rows = [["layer", "heads", "channels"]]
        rows += [
            [
                str(layer.layer),
                f"{layer.heads} of {layer.heads_before}",
                f"{layer.channels} of {layer.channels_before}",
            ]
            for layer in self.layers
        ]
        return rows

    def in_words(self) -> str:
        """A line for each layer, and one for the encoder."""
        share = self.parameters / self.parameters_before
        lines = [
            table(self.rows),
            f"{self.parameters:,} of {self.parameters_before:,} parameters of the encoder stay "
            f"({share:.1%})",
        ]
        heads = sum(layer.idle_heads for layer in self.layers)
        channels = sum(layer.idle_channels for layer in self.layers)
        if heads or channels:
            lines.append(
                f"{heads} heads and {channels} channels among them change nothing: each layer "
                "keeps one head and one channel, and the multiple of channels that is asked for"
            )
        return "\n".join(lines)


def apply(path: PathLike, out: PathLike, *, multiple_of: int = 1) -> CutReport:
    """Write a checkpoint without the heads and channels that change nothing.

    What the encoder makes of audio or text stays equal, to rounding. Masks are baked in first,
    whatever they removed, and are gone then: what a unit that stays had lost are zeros among its
    weights. What was finetuned with masks becomes a plain `wav2vec_ctc`, or `roberta_pruned` of
    text. There is no optimizer state, and no teacher of data2vec. Only speechprune can open the
    file; see `write_slim`.

    Args:
        path: any pretrained or finetuned checkpoint, ours or fairseq's, slim or not.
        multiple_of: what the number of channels of each layer is rounded up to.

    Raises:
        UserError: the source cannot be read or is of no known family; nothing can go; ``out`` is
            the source or cannot be written.
    """
    rewriting = Rewriting(path, out)
    source = read_plain(path)
    units = find_backbone(source.encoder).units(source.encoder)
    kept = [kept_without(u, removable_units(u), multiple_of=multiple_of) for u in units]
    if kept == [KeptUnits.all(layer.heads, layer.channels) for layer in units]:
        rounded = "" if multiple_of == 1 else f" with a multiple of {multiple_of} channels left"
        raise UserError(
            f"{path} has nothing to remove: no head and no channel of any layer can go{rounded} "
            "and leave the outputs equal; remove some by their importance instead"
        )
    return write_slim(rewriting, source, kept, {"slimmed_by": {"multiple_of": multiple_of}})


def write_slim(
    rewriting: Rewriting,
    source: PlainCheckpoint,
    kept: Sequence[KeptUnits],
    noted: Mapping[str, Any],
) -> CutReport:
    """Cut an encoder, and write the checkpoint that it was read from with what is left of it.

    What goes and is the same for each frame is added to biases before. The settings of the encoder
    tell what it keeps of its first heads and channels (`SlimPlan`). Unmodified fairseq cannot open
    layers that differ in their heads and channels; everything of speechprune can.

    Args:
        source: what ``rewriting`` is of; its encoder, which may have been given other weights, is
            changed in place.
        kept: for each layer, by the numbers that ``source`` has.
        noted: how it was chosen, for the provenance.

    Raises:
        UserError: a layer lacks what it is to keep, or the file cannot be written.
    """
    family, encoder = find_backbone(source.encoder), source.encoder
    units = family.units(encoder)
    check_cut(units, kept)
    layers = tuple(_counted(layer, keeps) for layer, keeps in zip(units, kept))
    before, masked = encoder_parameters(encoder), _kept_by_masks(source, units, kept)
    for layer, keeps in zip(units, kept):
        fold_constants(layer, keeps)
    family.slim(encoder, kept)
    plan = family.slim_plan(encoder)
    assert plan is not None
    cfg: Any = plain(source.cfg)
    encoder_of(cfg["model"])[SLIM_PLAN] = plan.describe()
    if source.is_text and is_finetuned(source.tensors):
        # fairseq's own model of text has no place for the plan.
        own = with_vocabulary(cfg["model"], source.tensors, source.path)
        cfg["model"] = {**own, "_name": ROBERTA_PRUNED}
    changes = {"args": None, "cfg": cfg, "model": _tensors(source), "last_optimizer_state": None}
    if rewriting.state.get("extra_state"):
        extra = rewriting.state["extra_state"]
        changes["extra_state"] = {k: v for k, v in extra.items() if k not in AVERAGES}
    rewriting.write(
        {**rewriting.state, **changes}, {"slimmed_from": rewriting.digest, **noted, **masked}
    )
    return CutReport(layers, encoder_parameters(encoder), before)


def _counted(units: LayerUnits, kept: KeptUnits) -> CutLayer:
    removable = removable_units(units)
    return CutLayer(
        units.layer,
        heads=len(kept.heads),
        heads_before=units.heads,
        channels=len(kept.channels),
        channels_before=units.channels,
        idle_heads=len(set(kept.heads) & set(removable.heads)),
        idle_channels=len(set(kept.channels) & set(removable.channels)),
    )


def _tensors(source: PlainCheckpoint) -> dict[str, Tensor]:
    """All tensors of a checkpoint, with its encoder as it is now, in the types that they had."""
    own = {source.prefix + key: value for key, value in source.encoder.state_dict().items()}
    return {
        **source.tensors,
        **{key: value.to(source.tensors[key].dtype) for key, value in own.items()},
    }


def _kept_by_masks(
    source: PlainCheckpoint, units: Sequence[LayerUnits], kept: Sequence[KeptUnits]
) -> dict[str, Any]:
    """What to note of masks that are baked in: of what stays, the entries that they kept, and all,
    by site; and their share."""
    parts = {
        linear: part
        for layer, keeps in zip(units, kept)
        for linear, part in kept_entries(layer, keeps).items()
    }
    family = find_backbone(source.encoder)
    sites = prunable(family.sites(source.encoder, LAYER_ROLES), biases=True)
    cut = {site.name: parts[site.module] for site in sites if site.module in parts}
    counts = {}
    for name, mask in source.masks.items():
        left = mask
        # A bias has no columns to lose.
        if name in cut and cut[name][0] < mask.dim():
            left = mask.index_select(*cut[name])
        counts[name] = [int(left.sum()), left.numel()]
    total = sum(entries for _, entries in counts.values())
    return {"kept": counts, "density": sum(n for n, _ in counts.values()) / total} if total else {}
