"""Masks on models of transformers: on which tensors, how many, from which masks, and refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hugging_face import CHANNELS, HEADS, LAYERS, WIDTH, all_roles, evaluated, minilm, small, train
from torch import nn
from transformers import AutoModel

from speechprune.errors import UserError
from speechprune.huggingface import fold, mask, sites_of
from speechprune.masking.mask_set import MaskSet
from speechprune.masking.masked_site import masked_weight
from speechprune.masking.policies import POLICIES
from speechprune.masking.schedule import ProgressiveSchedule
from speechprune.state_names import layer_of, role_of


def test_a_real_bert_is_pruned_and_loads_again(tmp_path: Path) -> None:
    folder = minilm()
    model: Any = AutoModel.from_pretrained(folder).eval()
    sites = sites_of(model)
    assert len(sites) == 36
    weights = [getattr(site.module, site.tensor).detach() for site in sites]
    values = torch.cat([weight.abs().flatten() for weight in weights])
    threshold = values.kthvalue(int(0.7 * values.numel())).values
    masks = mask(model, "parp", sparsity=0.7, biases=False)
    found = masks.mask_set()
    assert found.density == pytest.approx(0.3, abs=1e-6)
    for site, weight in zip(sites, weights):
        assert torch.equal(found[site.name], weight.abs() > threshold), site.name
    assert found.provenance["backbone"] == "bert"
    assert len(found.tallies(layer_of)) == 6
    assert "attention.self.query" in found.tallies(role_of)
    words = torch.randint(1000, 3000, (2, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(words).last_hidden_state
        fold(model)
        model.save_pretrained(tmp_path)
        again: Any = AutoModel.from_pretrained(tmp_path)
        assert torch.equal(again(words).last_hidden_state, expected)


def test_frozen_weights_leave_the_head_to_train() -> None:
    model = small("roberta", head=True)
    masks = mask(model, "s3router", density=0.5)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.partition(".")[0] for name in trained if "scores" not in name} == {"classifier"}
    assert sum("scores" in name for name in trained) == len(masks.sites)


def test_masks_stay_where_no_policy_is_given() -> None:
    source = mask(small("bert"), "s3router", density=0.4).mask_set()
    model = small("bert", seed=1)
    masks = mask(model, masks=source)
    train(model, masks, range(3))
    evaluated(model)
    assert masks.mask_set() == source
    first = masks.sites[0]
    assert not getattr(first.module, first.tensor)[~source[first.name]].any()


def test_masks_that_are_empty_somewhere_can_be_given() -> None:
    """As those of all magnitudes together are where a bias has small values alone."""
    whole = mask(small("bert"), "parp", density=0.5, biases=False).mask_set()
    empty = sorted(whole)[0]
    given = MaskSet({name: each & (name != empty) for name, each in whole.items()})
    for policy in (None, "parp"):
        assert mask(small("bert"), policy, masks=given).mask_set() == given


@pytest.mark.parametrize(
    ("policy", "scope"), [("parp", "global"), ("parp", "site"), ("s3router", "site")]
)
def test_masks_are_adjusted_at_the_density_that_they_have(
    policy: str, scope: str, tmp_path: Path
) -> None:
    """They begin as given, and go on with as many connections in all, or of each tensor."""
    source = mask(small("bert"), "random", density=0.4, biases=False).mask_set()
    source.save(tmp_path / "masks.safetensors")
    model = small("bert", seed=1)
    masks = mask(model, policy, masks=tmp_path / "masks.safetensors", scope=scope, every=1)
    assert masks.mask_set() == source
    train(model, masks, range(2), lr=0.3)
    evaluated(model)
    after = masks.mask_set()
    assert after != source and after.tally == source.tally
    if scope == "site":
        assert after.tallies(str) == source.tallies(str)


def test_masks_of_weights_fit_their_directions() -> None:
    """S3-Router masks what weight norm makes, PARP what it is made of: masks go both ways."""
    roles = all_roles(small("hubert"))
    learned = mask(small("hubert"), "s3router", density=0.5, roles=roles).mask_set()
    weight = "encoder.pos_conv_embed.conv.weight"
    direction = "encoder.pos_conv_embed.conv.parametrizations.weight.original1"
    pruned = mask(small("hubert", seed=1), "parp", masks=learned).mask_set()
    assert torch.equal(pruned[direction], learned[weight]) and weight not in pruned
    again = mask(small("hubert", seed=2), "s3router", masks=pruned).mask_set()
    assert again == learned


def test_units_stay_or_go_in_all_weights_that_they_live_in() -> None:
    for family in ("bert", "xlnet"):
        model = small(family)
        how = {"granularity": "row", "init_score": "weight_rank"}
        masks = mask(model, "s3router", density=0.5, units=True, options=how)
        train(model, masks, range(2))
        evaluated(model)
        found = masks.mask_set()
        for layer in range(LAYERS):
            kept = {}
            for site in masks.sites:
                if site.layer == layer:
                    one = found[site.name]
                    by_unit = one if site.matrix is None else site.matrix.matrix(one)
                    by_unit = by_unit.t() if site.role in ("attn.out", "ffn.out") else by_unit
                    units = HEADS if site.role.startswith("attn") else CHANNELS
                    rows = by_unit.reshape(units, -1)
                    assert torch.equal(rows.any(1), rows.all(1)), site.name
                    kept.setdefault(site.role[:4], set()).add(tuple(rows.all(1).tolist()))
            assert [len(each) for each in kept.values()] == [1, 1]
            assert {sum(next(iter(each))) for each in kept.values()} == {HEADS // 2, CHANNELS // 2}


def test_biases_are_pruned_as_the_policy_does() -> None:
    model = small("bert")
    masks = mask(model, "parp", density=0.5)
    assert len(masks.sites) == 2 * 6 * LAYERS
    fold(model)
    assert len(mask(model, "s3router", density=0.5).sites) == 6 * LAYERS


def test_a_folded_model_takes_masks_again() -> None:
    for policy in POLICIES.names():
        model = small("xlnet")
        mask(model, "s3router", density=0.8)
        fold(model)
        amount: dict[str, Any] = {"density": 0.5}
        if POLICIES.get(policy).starts_dense:
            amount = {"schedule": ProgressiveSchedule(1.0, 0.5, begin=0, end=2)}
        masks = mask(model, policy, **amount)
        assert all(masked_weight(site).mask.any() for site in masks.sites)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "give a policy"),
    ({"policy": "parq", "density": 0.5}, "did you mean 'parp'"),
    ({"policy": "parp"}, "how much"),
    ({"policy": "parp", "density": 0.5, "sparsity": 0.5}, "give one of density"),
    ({"policy": "parp", "density": 0.0}, "the share kept"),
    ({"policy": "parp", "sparsity": 1.0}, "the share removed"),
    ({"policy": "parp", "density": 0.5, "scope": "layer"}, "scope 'layer'"),
    ({"policy": "parp", "density": 0.5, "every": 0}, "every 1 or more"),
    ({"policy": "parp", "density": 0.5, "roles": ["attn.k", "ffn"]}, "role in bert models 'ffn'"),
    ({"policy": "parp", "density": 0.5, "roles": ["front.conv"]}, "role in bert models"),
    ({"policy": "parp", "density": 0.5, "roles": []}, "nothing to mask"),
    ({"policy": "parp", "density": 0.5, "trains_weights": False}, "the weights are frozen"),
    ({"policy": "parp", "density": 0.5, "options": {"n": 2}}, "option of mask policy 'parp' 'n'"),
    ({"policy": "n_m", "density": 0.3}, "keeping 2 of every 4"),
    ({"policy": "n_m", "options": {"m": 5}}, "do not divide into groups of 5"),
    ({"policy": "movement", "density": 0.5}, "begins dense"),
    (
        {"policy": "snip", "schedule": ProgressiveSchedule(0.9, 0.5, begin=0, end=9)},
        "cannot tell weights apart",
    ),
    ({"policy": "parp", "density": 0.5, "units": True}, "one score per row"),
    ({"policy": "parp", "masks": "no/such.safetensors"}, "no such mask file"),
    ({"masks": "masks.safetensors", "density": 0.5}, "masks without a policy stay"),
    ({"masks": "masks.safetensors", "trains_weights": False}, "learn nothing"),
    ({"masks": "others.safetensors"}, "masks of another model"),
    ({"masks": "wide.safetensors"}, "has the shape"),
    ({"policy": "parp", "masks": "masks.safetensors", "density": 0.9}, "the masks keep 0.5"),
    ({"policy": "parp", "masks": "empty.safetensors"}, "keep nothing"),
    ({"masks": "shallow.safetensors"}, "masks have none for encoder.layer.1.intermediate"),
    ({"masks": "family.safetensors"}, "the masks are of a roberta model, but this is a bert"),
]


@pytest.fixture(scope="module")
def mask_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masks")
    names = [f"encoder.layer.{number}.intermediate.dense.weight" for number in range(LAYERS)]
    half = torch.arange(CHANNELS * WIDTH).view(CHANNELS, WIDTH) % 2 == 0
    whole = dict.fromkeys(names, half)
    for name, masks, provenance in (
        ("masks", whole, {}),
        ("empty", dict.fromkeys(names, half & False), {}),
        ("wide", dict.fromkeys(names, half.t()), {}),
        ("others", {**whole, "encoder.layer.9.x.weight": half}, {}),
        ("shallow", {names[0]: half}, {}),
        ("family", whole, {"backbone": "roberta"}),
    ):
        MaskSet(masks, provenance).save(folder / f"{name}.safetensors")
    return folder


@pytest.mark.parametrize(("asked", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_cannot_be_is_refused_in_one_line(
    asked: dict[str, Any], message: str, mask_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the model stays as it was."""
    monkeypatch.chdir(mask_files)
    model = small("bert")
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    with pytest.raises(UserError, match=message) as error:
        mask(model, **asked)
    assert "\n" not in str(error.value)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before


def test_masks_are_put_on_once_and_folded_once() -> None:
    model = small("bert")
    with pytest.raises(UserError, match="has no masks"):
        fold(model)
    mask(model, "parp", density=0.5)
    with pytest.raises(UserError, match="has masks already"):
        mask(model, "parp", density=0.5)


def test_models_of_other_kinds_are_refused() -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model("gpt2", n_embd=8, n_layer=1, n_head=2, vocab_size=9)
    with pytest.raises(UserError, match="of the family 'gpt2'.*it knows bert, roberta"):
        sites_of(AutoModel.from_config(config))
    with pytest.raises(UserError, match="Linear is not a model of transformers"):
        sites_of(nn.Linear(2, 2))


def ran(program: str, *folders: Path) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own, with packages in ``folders`` before all others."""
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_broken_torchaudio_is_passed_over_and_fairseq_not_imported(tmp_path: Path) -> None:
    """Speech models of transformers need neither."""
    package = tmp_path / "torchaudio"
    package.mkdir()
    (package / "__init__.py").write_text("raise OSError('no such library')", encoding="utf-8")
    metadata = tmp_path / "torchaudio-9.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Name: torchaudio\nVersion: 9.0\n", encoding="utf-8")
    imports = "from transformers import Wav2Vec2ForCTC, Wav2Vec2FeatureExtractor\n"
    assert "no such library" in ran(imports, tmp_path).stderr
    found = ran(
        "import sys, speechprune.huggingface\n"
        f"{imports}"
        "assert not {'fairseq', 'hydra', 'torchaudio'} & set(sys.modules)\n",
        tmp_path,
    )
    assert found.returncode == 0, found.stderr


def test_without_transformers_there_is_one_line() -> None:
    program = (
        "import sys\n"
        "sys.modules['transformers'] = None\n"
        "from speechprune.errors import UserError\n"
        "try:\n"
        "    import speechprune.huggingface\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    (line,) = ran(program).stdout.splitlines()
    assert line.endswith("pip install 'speechprune[huggingface]'")
