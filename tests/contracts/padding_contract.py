"""What every backbone promises of padded batches: see `PADDING_CONTRACT`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable

import pytest
import torch
from backbone_contract import Family
from torch import nn


def batched_equals_alone(family: Family) -> None:
    """Hidden states, outputs and counts of frames depend on no other utterance, nor on padding.

    Frame counts are odd and even, and one utterance has a single frame.
    """
    model = family.build().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.bias.fill_(1.0)  # what it makes of zeros is not zero
    sources = family.sources
    lengths = [sources.lengths[0], *sources.shorter, sources.one_frame]
    source, padding_mask = sources.padded(lengths)
    features, told = family.backbone.features(model, source, padding_mask)
    together, padding = family.backbone.hidden_states(model, source, padding_mask)
    assert told is not None and torch.equal(told, padding)
    for index, length in enumerate(lengths):
        own = source[index : index + 1, :length]
        frames = family.backbone.frame_count(model, length)
        assert padding[index].tolist() == [i >= frames for i in range(padding.shape[1])]
        alone, _ = family.backbone.hidden_states(model, own, None)
        torch.testing.assert_close(
            features[index, :frames], family.output(model, own)[0], atol=1e-5, rtol=0
        )
        for state, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(state[index, :frames], expected[0], atol=1e-5, rtol=0)


def too_short_utterances_are_padding(family: Family) -> None:
    """They have no frames, and leave the others alone."""
    model = family.build().requires_grad_(False)
    sources = family.sources
    source, padding_mask = sources.padded([sources.lengths[0], sources.one_frame - 1, 0])
    features, padding = family.backbone.features(model, source, padding_mask)
    assert padding is not None and padding.all(1).tolist() == [False, True, True]
    expected = family.output(model, source[:1])[0]
    torch.testing.assert_close(features[0], expected, atol=1e-5, rtol=0)


def no_frame_is_cropped(family: Family) -> None:
    """How many fairseq would crop depends on the longest utterance of a batch."""
    model: Any = family.build().requires_grad_(False)
    expected = [family.output(model, family.source(1, length)) for length in family.sources.lengths]
    model.crop_seq_to_multiple = 2
    for length, whole in zip(family.sources.lengths, expected, strict=True):
        found, _ = family.backbone.features(model, family.source(1, length), None)
        assert torch.equal(found, whole)
    assert model.crop_seq_to_multiple == 2


def heard_is_the_source_of_a_state(family: Family) -> None:
    """Without the padding of utterances, and what fairseq appends to make frames even."""
    model = family.build().requires_grad_(False)
    even, odd = family.sources.lengths
    for lengths in ([even], [odd], [odd, family.sources.shorter[0], family.sources.one_frame]):
        source, padding_mask = family.sources.padded(lengths)
        entry = family.backbone.enter(model, source, padding_mask)
        assert entry.heard.shape == entry.state.shape[:-1] and entry.heard.dtype == torch.bool
        alone = [
            family.backbone.hidden_states(model, each[None, :length], None)[0][0][0]
            for each, length in zip(source, lengths)
        ]
        expected = torch.cat(alone)
        assert int(entry.heard.sum()) == len(expected)
        found = entry.state[entry.heard].square().sum(0)
        torch.testing.assert_close(found, expected.square().sum(0), atol=1e-4, rtol=1e-4)


def padding_changes_nothing_in_the_model(family: Family) -> None:
    """Hearing utterances apart leaves no trace: modules, hooks and keys are as they were."""
    model = family.build()
    modules, keys = list(model.named_modules()), list(model.state_dict())
    source, padding_mask = family.sources.padded([family.sources.lengths[0]] * 2)
    padding_mask[1, source.shape[1] * 3 // 8 :] = True
    with pytest.raises(ZeroDivisionError), family.backbone.apart(model, padding_mask):
        raise ZeroDivisionError
    with torch.no_grad():
        family.backbone.features(model, source, padding_mask)
    assert list(model.named_modules()) == modules and list(model.state_dict()) == keys
    hooked = [name for name, module in modules if module._forward_pre_hooks]
    plain = [name for name, module in family.build().named_modules() if module._forward_pre_hooks]
    assert hooked == plain  # weight norm's


PADDING_CONTRACT: Sequence[Callable[[Family], None]] = (
    batched_equals_alone,
    too_short_utterances_are_padding,
    no_frame_is_cropped,
    heard_is_the_source_of_a_state,
    padding_changes_nothing_in_the_model,
)
