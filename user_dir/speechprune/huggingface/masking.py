"""Putting masks on models of transformers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Union

from torch import nn
from torch.nn.utils import parametrize

from speechprune import __version__
from speechprune.backbones.base import LAYER_ROLES
from speechprune.errors import UserError
from speechprune.huggingface.families import base_of, family_of, layers_of
from speechprune.huggingface.masks import ModelMasks, has_masks
from speechprune.huggingface.settings import MaskSettings
from speechprune.huggingface.sites import sites_of, views_of
from speechprune.masking.mask_set import MaskSet
from speechprune.masking.schedule import Schedule
from speechprune.masking.sites import Site, before_weight_norm
from speechprune.masking.weight_norm import current_weight, has_weight_norm
from speechprune.state_names import role_of


def mask(
    model: nn.Module,
    policy: str | None = None,
    *,
    density: float | None = None,
    sparsity: float | None = None,
    schedule: Schedule | None = None,
    masks: Union[MaskSet, str, Path, None] = None,
    roles: Collection[str] | None = None,
    biases: bool | None = None,
    units: bool = False,
    scope: str | None = None,
    every: int | None = None,
    trains_weights: bool | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> ModelMasks:
    """Put masks on a model of transformers, in place.

    In a training loop, `set_num_updates` of what is returned is called before the forward passes of
    each update, with the number of updates so far, and `observe` between the backward passes and
    the step; in `transformers.Trainer`, `MaskCallback` does so. ``model.state_dict()`` holds masks
    and scores: loaded into a model with masks of the same kind, training goes on bit for bit.
    `fold` ends it.

    With frozen weights, all of the model is frozen but the scores and the head of its task.

    Args:
        model: of transformers, with its weights loaded.
        policy: the rule that chooses masks, such as ``parp`` or ``s3router``. None for ``masks``
            that stay as they are, with weights that train where they are kept.
        density: share kept of all masked entries, in (0, 1].
        sparsity: the share removed, in place of the density.
        schedule: the density at each update, in place of both.
        masks: those to begin with, or a file of them; unless it is said, the density stays theirs.
        roles: which tensors have masks, as for `sites_of`; by default those of the layers, or those
            that ``masks`` names.
        biases: whether their biases have masks too; as the policy does by default, or as ``masks``.
        units: one score for each head and feed-forward channel, which stays or goes as a whole.
        scope: what is ranked together: all sites (``global``), which is the default of policies
            that train weights, or each by itself (``site``).
        every: updates from one choice of masks to the next; by default 50 for policies that train
            weights, else 1.
        trains_weights: whether the masked weights train; as the policy does by default.
        options: of the policy, by name.
        seed: of the starting scores, and of what is drawn at random.

    Returns:
        The masks, which are ``model.mask_controller`` from now on.

    Raises:
        UserError: there are masks already, or what is asked for cannot be.
    """
    if has_masks(model):
        raise UserError("the model has masks already; speechprune.huggingface.fold() bakes them in")
    if policy is None and masks is None:
        raise UserError("give a policy that chooses masks, or masks to keep")
    settings = MaskSettings(
        policy,
        options or {},
        density=density,
        sparsity=sparsity,
        schedule=schedule,
        scope=scope,
        every=every,
        trains_weights=trains_weights,
        units=units,
        seed=seed,
    )
    given = MaskSet.load(masks) if isinstance(masks, (str, Path)) else masks
    if given is not None:
        _refuse_other_family(model, given)
    return _put_on(model, settings, _chosen_sites(model, settings, roles, biases, given), given)


def _put_on(
    model: nn.Module, settings: MaskSettings, whole: Sequence[Site], given: MaskSet | None
) -> ModelMasks:
    """The controller of masks on ``whole``, which begins with those that are given."""
    sites = [before_weight_norm(site) for site in whole] if settings.writes_weights else whole
    if given is not None:
        given = _of_sites(given, whole, sites)
    densities = settings.schedule_on(sites, given)
    encoder = list(base_of(model).parameters())
    controller = ModelMasks(
        sites,
        settings.rule,
        densities,
        scope=settings.ranked_together,
        every=settings.rest,
        seed=settings.seed,
        trains_weights=settings.trains,
        views=views_of(model, sites) if settings.units else None,
        provenance=_provenance(model, settings.describe(densities, sites)),
    )
    for parameter in encoder if not settings.trains else ():
        parameter.requires_grad_(False)
    if given is not None:
        controller.start_from(given)
    controller.follow(model, [] if settings.trains else layers_of(model))
    return controller


def _chosen_sites(
    model: nn.Module,
    settings: MaskSettings,
    roles: Collection[str] | None,
    biases: bool | None,
    given: MaskSet | None,
) -> list[Site]:
    """The tensors to mask."""
    if roles is None and given is not None:
        family = family_of(model)
        known = sites_of(model, [*family.outside, *family.weights], biases=biases is not False)
        found = [s for s in known if _is_named(s, given)]
        _refuse_other_layers(given, known)
    else:
        of_policy = settings.rule.prunes_biases if biases is None else biases
        found = sites_of(model, LAYER_ROLES if roles is None else roles, biases=of_policy)
        if not found:
            raise UserError("nothing to mask: roles names no tensor; leave it out for all layers")
    for site in found:
        if parametrize.is_parametrized(site.module, site.tensor):
            if not has_weight_norm(site.module, site.tensor):
                raise UserError(f"{site.name} is parametrized already, by something else")
    return found


def _is_named(site: Site, given: MaskSet) -> bool:
    return site.name in given or before_weight_norm(site).name in given


def _refuse_other_family(model: Any, given: MaskSet) -> None:
    """Raise UserError if masks say that they are of a model of another family."""
    family, own = given.provenance.get("backbone"), model.config.model_type
    if family not in (None, own):
        raise UserError(f"the masks are of a {family} model, but this is a {own} model")


def _refuse_other_layers(given: MaskSet, known: Sequence[Site]) -> None:
    """Raise UserError if masks leave out some of the layers that a model has."""
    kinds = set(map(_kind, given))
    for site in known:
        if _kind(site.name) in kinds and not _is_named(site, given):
            raise UserError(
                f"the masks have none for {site.name}: they are of a model with other layers; to "
                "mask some layers alone, name all, with masks that keep everything of the others"
            )


def _kind(site: str) -> tuple[str, bool]:
    """What a tensor does in its layer, and whether it is a bias."""
    return role_of(site), site.endswith(".bias")


def _of_sites(given: MaskSet, whole: Sequence[Site], sites: Sequence[Site]) -> MaskSet:
    """Given masks under the names of the sites; raises UserError if they are of other tensors.

    The mask of a weight under weight norm fits its direction, and the other way round.

    Args:
        whole: the tensors to mask.
        sites: the same, or the directions of those under weight norm.
    """
    names = {}
    for weight, site in zip(whole, sites):
        names.update({weight.name: site.name, before_weight_norm(weight).name: site.name})
    packed = {names.get(name, name): given.packed(name) for name in given}
    found = MaskSet.from_packed(packed, given.provenance)
    shapes = {s.name: tuple(current_weight(s.module, s.tensor).shape) for s in sites}
    found.check_fits(shapes)
    return found


def _provenance(model: nn.Module, settings: str) -> dict[str, str]:
    """Family, name of the pretrained model, settings and versions."""
    config: Any = model.config
    facts = {
        "backbone": config.model_type,
        "pretrained": Path(config.name_or_path).name,
        "settings": settings,
        "versions": " ".join(
            f"{package}={number}"
            for package, number in (
                ("speechprune", __version__),
                ("torch", version("torch")),
                ("transformers", version("transformers")),
            )
        ),
    }
    return {key: fact for key, fact in facts.items() if fact}
