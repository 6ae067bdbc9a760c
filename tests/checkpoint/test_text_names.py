"""Weights of text models under the names of 2019 and 2020, beside what fairseq makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints import rewrite
from sentences import WORDS, dictionary, write_roberta
from torch import Tensor

from speechprune.backbones.roberta import Roberta
from speechprune.checkpoint import read
from speechprune.checkpoint.text import todays_names
from speechprune.models.loading import load_pretrained

#: What today's keys have, and those of the published files had.
OLDER = (("encoder.", "decoder.", 1), (".layernorm_embedding.", ".emb_layer_norm.", -1))


def as_of_2019(weights: dict[str, Tensor], *, joined: bool) -> dict[str, Tensor]:
    """A state dict under older names, with each layer's three projections ``joined`` or not."""
    old: dict[str, Tensor] = {}
    for key, value in weights.items():
        if key.endswith("sentence_encoder.version"):
            continue
        for today, before, times in OLDER:
            key = key.replace(today, before, times)
        if joined and ".q_proj." in key:
            others = (
                weights[f"en{key[2:]}".replace("q_proj", name)] for name in ("k_proj", "v_proj")
            )
            old[key.replace("q_proj.", "in_proj_")] = torch.cat([value, *others])
        elif not joined or not any(name in key for name in (".k_proj.", ".v_proj.")):
            old[key] = value
    return old


@pytest.mark.parametrize("joined", [True, False])
def test_names_are_those_that_fairseq_brings_weights_to(tmp_path: Path, joined: bool) -> None:
    weights = read(write_roberta(tmp_path / "roberta.pt"))["model"]
    old = as_of_2019(weights, joined=joined)
    assert not any(key.startswith("encoder.") for key in old)
    assert any("in_proj_weight" in key for key in old) == joined
    settings = read(tmp_path / "roberta.pt")["cfg"]["model"]
    model = Roberta().build({}, {**settings, "vocabulary": len(dictionary(WORDS)) + 1})
    upgraded = dict(old)
    model.upgrade_state_dict(upgraded)
    upgraded.pop("encoder.sentence_encoder.version")  # which says that there was none
    found = todays_names(old)
    assert set(found) == set(upgraded)
    assert all(torch.equal(found[key], value) for key, value in upgraded.items())
    assert todays_names(weights) == dict(weights)


@pytest.mark.parametrize("joined", [True, False])
def test_an_older_file_is_the_same_network(tmp_path: Path, joined: bool) -> None:
    path = write_roberta(tmp_path / "roberta.pt")
    source = torch.tensor([[0, 4, 5, 6, 2]])
    expected, _ = Roberta().features(load_pretrained(path), source, None)
    rewrite(path, lambda state: state.update(model=as_of_2019(state["model"], joined=joined)))
    found, _ = Roberta().features(load_pretrained(path), source, None)
    assert torch.equal(found, expected)
