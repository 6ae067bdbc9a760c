"""What every backbone promises, as functions over a nano model of its family: see `CONTRACT`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np
import pytest
import torch
from sources import Audio, Sources
from torch import Tensor, nn

from speechprune.backbones import LAYER_ROLES, Backbone
from speechprune.backbones.base import OTHER_ROLES
from speechprune.errors import UserError
from speechprune.masking.controller import MaskController
from speechprune.masking.masked_site import masked_weight, original_weight
from speechprune.masking.policies import POLICIES
from speechprune.masking.schedule import ConstantSchedule
from speechprune.masking.sites import before_weight_norm

ROLES = (*LAYER_ROLES, *OTHER_ROLES)


@dataclass(frozen=True)
class Family:
    """A backbone and a builder of nano models of its family.

    Attributes:
        final_norm: where in a model the layer norm is that follows the last hidden state
            (pre-norm); None if there is none.
        sources: what its models hear or read.
    """

    name: str
    backbone: Backbone
    build: Callable[..., nn.Module]
    final_norm: str | None = None
    sources: Sources = Audio()

    def __str__(self) -> str:
        return self.name

    def source(self, batch: int = 2, samples: int | None = None) -> Tensor:
        """What its models hear or read, (B, samples), the same for equal sizes."""
        return self.sources.draw(batch, samples)

    def output(self, model: nn.Module, source: Tensor | None = None) -> Tensor:
        """What finetuning reads of a model, (B, T, C)."""
        return self.sources.output(model, self.source() if source is None else source)

    def masked(self, density: float) -> tuple[nn.Module, MaskController]:
        """A nano model with a mask on every site, and its controller."""
        model = self.build()
        sites = self.backbone.sites(model, ROLES)
        controller = MaskController(sites, POLICIES.build("s3router"), ConstantSchedule(density))
        controller.eval()
        return model, controller


def weighted(features: Tensor) -> Tensor:
    """A loss that every entry of the features bears on."""
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    return (features * weights).mean()


def sites_name_each_tensor_once(family: Family) -> None:
    model = family.build()
    sites = family.backbone.sites(model, ROLES)
    tensors = dict(model.named_parameters())
    names = [site.name for site in sites]
    assert len(set(names)) == len(names)
    for site in sites:
        tensor = getattr(site.module, site.tensor)
        assert tensor.dim() >= 2
        written = before_weight_norm(site)
        assert (written is site) == (f"{site.name}_v" not in tensors)
        found = getattr(written.module, written.tensor)
        assert tensors[written.name] is found and found.shape == tensor.shape, site.name
    assert len({id(before_weight_norm(s).module) for s in sites}) == len(names)
    assert {site.role for site in sites} == set(family.sources.roles)
    layers = family.backbone.layers(model)
    for index in range(len(layers)):
        roles = [site.role for site in sites if site.layer == index]
        assert sorted(roles) == sorted(LAYER_ROLES)
    others = {site.role for site in sites if site.layer is None}
    assert others == set(OTHER_ROLES) & set(family.sources.roles)
    for role in ROLES:
        chosen = family.backbone.sites(model, [role])
        assert [s.name for s in chosen] == [s.name for s in sites if s.role == role]


def layers_own_their_sites(family: Family) -> None:
    """A site's layer is the one that its module lives in."""
    model = family.build()
    layers = family.backbone.layers(model)
    for site in family.backbone.sites(model, ROLES):
        owners = [i for i, layer in enumerate(layers) if site.module in set(layer.modules())]
        assert owners == ([] if site.layer is None else [site.layer]), site.name


def every_site_is_live(family: Family) -> None:
    """Removing any site's connections changes the output: no mask is put where nobody reads."""
    model, controller = family.masked(1.0)
    source = family.source()
    expected = family.output(model, source)
    assert torch.equal(family.output(model, source), expected)
    assert torch.equal(family.output(family.build(), source), expected)
    for site in controller.sites:
        masked, weight = masked_weight(site), original_weight(site)
        masked.choose(torch.zeros_like(masked.mask), weight)
        assert not torch.equal(family.output(model, source), expected), site.name
        masked.choose(torch.ones_like(masked.mask), weight)
        assert torch.equal(family.output(model, source), expected), site.name


def every_site_learns(family: Family) -> None:
    """Scores of every site get gradient in training, and weights read the masks there too."""
    model, controller = family.masked(0.7)
    model.train()
    controller.train().set_num_updates(0)
    torch.manual_seed(0)  # by which no layer is skipped, of models that skip some
    features, _ = family.backbone.features(model, family.source(), None)
    weighted(features).backward()
    for site in controller.sites:
        gradient = masked_weight(site).scores.grad
        assert gradient is not None and gradient.isfinite().all(), site.name
        assert gradient.any(), site.name


def folding_leaves_the_plain_model(family: Family) -> None:
    """Keys, and what a plain model makes of them, are those of a model that never had masks."""
    model, controller = family.masked(0.6)
    source = family.source()
    controller.settle()
    expected = family.output(model, source)
    masked_keys = set(model.state_dict())
    controller.fold()
    plain = family.build()
    assert set(model.state_dict()) == set(plain.state_dict()) < masked_keys
    assert torch.equal(family.output(model, source), expected)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(family.output(plain, source), expected)


def hidden_states_are_those_of_the_layers(family: Family) -> None:
    """L + 1 states: each the input of its layer, the last one what the encoder returns."""
    model = family.build(layers=3).requires_grad_(False)
    layers = family.backbone.layers(model)
    frame_counts = set()
    for samples in family.sources.lengths:
        source = family.source(samples=samples)
        with torch.no_grad():
            states, padding = family.backbone.hidden_states(model, source, None)
        expected = family.output(model, source)
        assert len(states) == len(layers) + 1 == 4
        assert all(state.shape == expected.shape for state in states)
        assert padding.shape == expected.shape[:2] and padding.dtype == torch.bool
        assert not padding.any()
        norm = (
            nn.Identity() if family.final_norm is None else model.get_submodule(family.final_norm)
        )
        last = norm(states[-1])
        assert torch.equal(last, expected)
        frame_counts.add(expected.shape[1] % 2)
        if expected.shape[1] % 2 == 0:  # an odd number of frames would be padded
            for layer, entering, leaving in zip(layers, states, states[1:]):
                with torch.no_grad():
                    out = layer(entering.transpose(0, 1), None)
                out = out if isinstance(out, Tensor) else out[0]
                torch.testing.assert_close(out.transpose(0, 1), leaving)
    assert frame_counts == {0, 1}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in layers)


def features_are_what_fairseq_extracts(family: Family) -> None:
    """In training, with and without padding, and otherwise without; masked spans change it."""
    model, sources = family.build(), family.sources
    source, padding_mask = sources.padded([sources.lengths[0], sources.lengths[0] * 3 // 8])

    def seeded(extract: Callable[..., Any], given: Tensor | None, mask: bool) -> Any:
        torch.manual_seed(1)
        np.random.seed(1)
        with torch.no_grad():
            return extract(model, source, given, mask=mask)

    for given, training in ((None, False), (None, True), (padding_mask, True)):
        model.train(training)
        if given is None:
            source = family.source()
        features, padding = seeded(family.backbone.features, given, False)
        expected = seeded(sources.extract, given, False)
        assert torch.equal(features, expected[0])
        assert (padding is None) == (expected[1] is None)
        assert padding is None or torch.equal(padding, expected[1])
        if given is None:  # the shorter one is too short for a span
            masked, _ = seeded(family.backbone.features, given, True)
            assert masked.shape == features.shape
            masks_spans = "mask_emb" in sources.groups
            assert torch.equal(masked, features) != masks_spans or (training and masks_spans)


def frames_are_counted(family: Family) -> None:
    """For every length from too short for a frame to several frames."""
    model, sources = family.build(), family.sources
    count, one, more = family.backbone.frame_count, sources.one_frame, sources.frame
    lengths = {one, one + more - 1, one + more, one + 2 * more - 40 % more, *sources.lengths}
    with torch.no_grad():
        found = {n: family.output(model, family.source(1, n)).shape[1] for n in lengths}
    assert {n: count(model, n) for n in found} == found
    assert [count(model, n) for n in (0, one // 80, one - 1)] == [0, 0, 0]
    # Utterances of hours, beyond what single precision counts exactly.
    assert count(model, one + more * (2**24 + 1)) == 2**24 + 2


def a_fresh_model_is_of_the_same_settings(family: Family) -> None:
    """It has other weights of the same names and shapes, the same for one seed."""
    model = family.build()
    before = torch.get_rng_state()
    first, again, other = (family.backbone.fresh(model, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for fresh in (first, again, other):
        assert type(fresh) is type(model) and not fresh.training
        assert {name: tensor.shape for name, tensor in fresh.state_dict().items()} == shapes
        assert not any(parameter.requires_grad for parameter in fresh.parameters())
    for site in map(before_weight_norm, family.backbone.sites(first, ROLES)):
        tensor = first.state_dict()[site.name]
        assert torch.equal(tensor, again.state_dict()[site.name]), site.name
        assert not torch.equal(tensor, other.state_dict()[site.name]), site.name
        assert not torch.equal(tensor, model.state_dict()[site.name]), site.name


def dropping_layers_keeps_the_prefix(family: Family) -> None:
    source = family.source()
    whole = family.build(layers=3)
    with torch.no_grad():
        states, _ = family.backbone.hidden_states(whole, source, None)
    for dropped in ([2], [1], [0], [1, 2], (2, 0)):
        model = family.build(layers=3)
        kept = [x for i, x in enumerate(family.backbone.layers(model)) if i not in dropped]
        family.backbone.drop_layers(model, dropped)
        assert list(family.backbone.layers(model)) == kept
        with torch.no_grad():
            short, _ = family.backbone.hidden_states(model, source, None)
        assert len(short) == len(kept) + 1
        for index in range(min(dropped) + 1):
            assert torch.equal(short[index], states[index])
        assert not torch.equal(short[-1], states[-1])
        layers = {site.layer for site in family.backbone.sites(model, LAYER_ROLES)}
        assert layers == set(range(len(kept)))


def impossible_layers_are_refused(family: Family) -> None:
    model = family.build(layers=2)
    before = list(family.backbone.layers(model))
    for dropped in ([2], [-1], [0, 7], [0, 1]):
        with pytest.raises(UserError, match="layer") as refused:
            family.backbone.drop_layers(model, dropped)
        assert "\n" not in str(refused.value)
        assert list(family.backbone.layers(model)) == before


def keys_follow_the_layers(family: Family) -> None:
    """Layers dropped from a file, by its keys, and from the model in it: one network is left."""
    source = family.source()
    for dropped in ([1], (2, 0), {3}):
        whole, short = family.build(layers=4), family.build(layers=4)
        for tensor in short.state_dict().values():
            tensor.zero_()  # what it can do it has from what it loads next
        state = renamed(family, whole.state_dict(), dropped)
        for model in (whole, short):
            family.backbone.drop_layers(model, dropped)
        short.load_state_dict(state, strict=True)
        expected = family.output(whole, source)
        assert expected.any()
        assert torch.equal(family.output(short, source), expected)


def renamed(
    family: Family, state: dict[str, Tensor], dropped: Collection[int]
) -> dict[str, Tensor]:
    """``state`` without layers, less its keys of dropped ones; no two keys become one."""
    keys = {key: family.backbone.key_without_layers(key, dropped) for key in state}
    found = {new: state[key] for key, new in keys.items() if new is not None}
    assert len(found) == sum(new is not None for new in keys.values())
    assert all(new == key for key, new in keys.items() if ".layers." not in key)
    return found


def keys_of_masks_follow_the_layers(family: Family) -> None:
    """In checkpoints, whose keys are plain, and inside the model; and under any prefix."""
    whole, _ = family.masked(0.5)
    short = family.build()
    family.backbone.drop_layers(short, [0])
    sites = family.backbone.sites(short, ROLES)
    MaskController(sites, POLICIES.build("s3router"), ConstantSchedule(0.5))
    for names in (lambda m: set(m.state_dict()), lambda m: {n for n, _ in m.named_parameters()}):
        for prefix in ("", "w2v_encoder.w2v_model.", "module."):
            found = {family.backbone.key_without_layers(prefix + key, [0]) for key in names(whole)}
            assert found - {None} == {prefix + key for key in names(short)}


def groups_hold_parameters_of_the_model(family: Family) -> None:
    """Groups are disjoint and without duplicates."""
    model = family.build()
    names = {id(p): name for name, p in model.named_parameters()}
    seen: set[int] = set()
    for group in family.sources.groups:
        parameters = [id(p) for p in family.backbone.parameters(model, group)]
        assert parameters and len(set(parameters)) == len(parameters)
        assert set(parameters) <= set(names), group
        assert not seen & set(parameters), group
        seen |= set(parameters)
    with pytest.raises(ValueError):
        family.backbone.parameters(model, "no such group")


CONTRACT: Sequence[Callable[[Family], None]] = (
    sites_name_each_tensor_once,
    layers_own_their_sites,
    every_site_is_live,
    every_site_learns,
    folding_leaves_the_plain_model,
    hidden_states_are_those_of_the_layers,
    features_are_what_fairseq_extracts,
    frames_are_counted,
    a_fresh_model_is_of_the_same_settings,
    dropping_layers_keeps_the_prefix,
    impossible_layers_are_refused,
    keys_follow_the_layers,
    keys_of_masks_follow_the_layers,
    groups_hold_parameters_of_the_model,
)
