"""Checkpoints go into a bank and come out as they were; those that cannot are told why."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch
from checkpoints import logits, refusal, rewrite
from fairseq.data.dictionary import Dictionary
from kinds import PARP
from mask_files import MASKED
from model_banks import CONTEXT, FROZEN, TAKEN, Lab
from nano import (
    rewrite_as_of_2020,
    write_data2vec,
    write_finetuned,
    write_hubert,
    write_wav2vec2,
)
from s3router_files import S3RouterFile
from slim_files import with_idle_units
from torch import Tensor

from speechprune.bank.bank import Bank
from speechprune.checksums import checksum
from speechprune.masking.mask_set import MaskSet
from speechprune.models.loading import load_finetuned
from speechprune.models.mask_flags import MaskFlags, masked_roles
from speechprune.models.mask_reading import read_mask_set
from speechprune.rewriting.banking import add, create, extract
from speechprune.rewriting.baseline_masks import Ranking
from speechprune.rewriting.encoder import export_encoder
from speechprune.rewriting.folding import fold
from speechprune.rewriting.layer_dropping import drop_layers
from speechprune.rewriting.masks import apply_masks
from speechprune.rewriting.slimming import apply
from speechprune.state_names import ENCODER, is_mask, is_regrown, is_scores, key_of

HEAD = "w2v_encoder.proj."


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def state(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


def assert_same(out: Path, source: Path) -> None:
    """All tensors but scores and masks are equal bit for bit, masks where they have one bit for
    each weight, and outputs."""
    mine, theirs = state(out)["model"], state(source)["model"]
    left = {k: t for k, t in theirs.items() if not is_scores(k) and not is_mask(k)}
    assert {k for k in mine if not is_mask(k)} == left.keys()
    for key, tensor in left.items():
        assert mine[key].dtype == tensor.dtype and mine[key].shape == tensor.shape, key
        assert mine[key].numpy().tobytes() == tensor.numpy().tobytes(), key
    assert read_mask_set(out) == read_mask_set(source)
    first, second = load_finetuned(out), load_finetuned(source)
    assert torch.equal(logits(first.model), logits(second.model))
    assert first.dictionary.symbols == second.dictionary.symbols
    assert first.dictionary.count == second.dictionary.count
    assert first.density == second.density


@pytest.mark.parametrize("kind", TAKEN)
def test_what_comes_out_is_what_went_in(lab: Lab, kind: str) -> None:
    source = lab.finetuned("source", TAKEN[kind], seed=1)
    before = source.read_bytes()
    bank = add(lab.bank, "es", source)
    assert bank.masks("es") == read_mask_set(source)
    assert set(bank.own("es")) == {f"{HEAD}weight", f"{HEAD}bias"}
    extract(lab.bank, "es", lab.folder / "out.pt")
    assert_same(lab.folder / "out.pt", source)
    assert source.read_bytes() == before


def free(path: Path, *keys: str) -> Path:
    """Change some tensors of the encoder, as training does that they were freed for."""

    def change(state: dict[str, Any]) -> None:
        for key in keys:
            state["model"][ENCODER + key] = state["model"][ENCODER + key] + 0.5

    return rewrite(path, change)


def test_what_was_trained_beside_masks_is_kept_with_them(lab: Lab) -> None:
    freed = ("mask_emb", "encoder.layer_norm.weight", "encoder.layers.1.fc1.bias")
    source = free(lab.finetuned("source", MASKED), *freed)
    bank = add(lab.bank, "es", source)
    keys = {f"{HEAD}weight", f"{HEAD}bias", *(ENCODER + name for name in freed)}
    assert set(bank.own("es")) == keys
    extract(lab.bank, "es", lab.folder / "out.pt")
    assert_same(lab.folder / "out.pt", source)


@pytest.mark.parametrize(
    "write",
    [
        write_data2vec,
        write_hubert,
        lambda path: write_hubert(path, conv_pos_batch_norm=True),
        lambda path: rewrite_as_of_2020(write_wav2vec2(path)),
        lambda path: write_wav2vec2(
            path, layer_norm_first=True, extractor_mode="layer_norm", normalize=True, layers=3
        ),
    ],
    ids=["data2vec", "hubert", "hubert-batch-norm", "2020", "xlsr"],
)
def test_every_family(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    lab = Lab(tmp_path, write)
    source = lab.finetuned("source", MASKED, seed=1)
    add(lab.bank, "es", source)
    extract(lab.bank, "es", tmp_path / "out.pt")
    assert_same(tmp_path / "out.pt", source)


def test_the_base_has_no_heads_of_pretraining(lab: Lab) -> None:
    bank = Bank(lab.bank)
    bank.check_base()
    weights = state(lab.pretrained)["model"]
    assert any("quantizer" in name for name in weights)
    assert set(bank.base) == {
        k for k in weights if not k.startswith(("quantizer", "project_q", "final_proj"))
    }
    for name, array in bank.base.items():
        assert array.tobytes() == weights[name].numpy().tobytes()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_base_of_half_precision(lab: Lab, dtype: torch.dtype) -> None:
    rewrite(lab.pretrained, lambda s: s.update(model=_to(s["model"], dtype)))
    bank = create(lab.pretrained, lab.folder / "half.safetensors")
    kept = np.float16 if dtype == torch.float16 else np.float32
    assert {array.dtype.type for array in bank.base.values()} == {kept}
    source = lab.finetuned("source", MASKED)
    add(bank.path, "es", source)
    extract(bank.path, "es", lab.folder / "out.pt")
    assert_same(lab.folder / "out.pt", source)


def _to(tensors: dict[str, Tensor], *dtypes: torch.dtype) -> dict[str, Tensor]:
    """Tensors in one type after the other."""
    changed = dict(tensors)
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            for dtype in dtypes:
                tensor = tensor.to(dtype)
            changed[name] = tensor
    return changed


@pytest.mark.parametrize(
    ("dtypes", "precision"),
    [
        ((torch.float16, torch.float32), "float16"),  # as fairseq saves fp16 training
        ((torch.bfloat16, torch.float32), "bfloat16"),
        ((torch.float16,), "float16"),
        ((torch.float32,), "float32"),
    ],
)
def test_training_in_half_precision(
    lab: Lab, dtypes: tuple[torch.dtype, ...], precision: str
) -> None:
    source = lab.finetuned("source", MASKED, seed=1)
    rewrite(source, lambda s: s.update(model=_to(s["model"], *dtypes)))
    bank = add(lab.bank, "es", source)
    assert bank.precision("es") == precision
    assert set(bank.own("es")) == {f"{HEAD}weight", f"{HEAD}bias"}
    extract(lab.bank, "es", lab.folder / "out.pt")
    assert_same(lab.folder / "out.pt", source)


@pytest.mark.parametrize(
    "flags",
    [
        {"prune_rate": 0.6, "trainable_proj": True},
        {"fix_attn": True, "prune_rate": 0.3, "linear_st_op": "linear_st_outstr"},
        {"layerwise_prune_rate": [0.2, 0.9]},
    ],
)
def test_files_of_s3router_have_scores_alone(lab: Lab, flags: dict[str, Any]) -> None:
    source = S3RouterFile(lab.folder / "source.pt", lab.pretrained, lab.data, **flags)
    bank = add(lab.bank, "es", lab.folder / "source.pt")
    found = {key_of(site): mask for site, mask in bank.masks("es").items()}
    assert found.keys() == source.masks.keys()
    assert all(torch.equal(found[key], mask) for key, mask in source.masks.items())
    extract(lab.bank, "es", lab.folder / "out.pt")
    assert_same(lab.folder / "out.pt", lab.folder / "source.pt")


def fixed_masks(lab: Lab, **flags: bool) -> MaskSet:
    """Masks of the pretrained weights and biases by magnitude."""
    ranking = Ranking(
        lab.pretrained,
        "global-magnitude",
        roles=masked_roles(MaskFlags(no_prune_post_extract_proj=True, **flags)),
        biases=True,
        seed=0,
    )
    return ranking.masks(0.6)


def test_masks_that_were_put_on_frozen_weights(lab: Lab) -> None:
    """With biases: a `wav2vec_ctc_masked` whose weights are whole."""
    plain = lab.finetuned("plain", {"_name": "wav2vec_ctc"})
    apply_masks(plain, fixed_masks(lab), lab.folder / "source.pt")
    bank = add(lab.bank, "es", lab.folder / "source.pt")
    assert any(site.endswith(".bias") for site in bank.masks("es"))
    extract(lab.bank, "es", lab.folder / "out.pt")
    assert_same(lab.folder / "out.pt", lab.folder / "source.pt")


@pytest.mark.parametrize("flags", [{}, {"no_prune_pos": False}], ids=["layers", "positions"])
def test_weights_that_were_saved_with_their_zeros(lab: Lab, flags: dict[str, bool]) -> None:
    """And beside these what the weights are in training, which is the bank's too."""
    fixed_masks(lab, **flags).save(lab.folder / "masks.safetensors")
    settings = {"mask_file": str(lab.folder / "masks.safetensors"), **CONTEXT, **flags}
    settings["no_prune_post_extract_proj"] = True
    source = lab.finetuned("source", {"_name": "wav2vec_ctc_masked", **settings})
    model = state(source)["model"]
    assert any(is_regrown(key) for key in model)
    assert (model[f"{ENCODER}encoder.layers.0.fc1.weight"] == 0).float().mean() > 0.3
    bank = add(lab.bank, "es", source)
    assert set(bank.own("es")) == {f"{HEAD}weight", f"{HEAD}bias"}
    extract(lab.bank, "es", lab.folder / "out.pt")
    assert_same(lab.folder / "out.pt", source)


def test_a_slim_base(lab: Lab) -> None:
    idle = with_idle_units(lab.finetuned("idle", {"_name": "wav2vec_ctc"}))
    apply(idle, lab.folder / "slim.pt")
    export_encoder(lab.folder / "slim.pt", lab.folder / "slim_encoder.pt")
    bank = lab.folder / "slim.safetensors"
    create(lab.folder / "slim_encoder.pt", bank)
    path = lab.folder / "source.pt"
    source = write_finetuned(path, lab.folder / "slim_encoder.pt", lab.data, model=MASKED, seed=1)
    add(bank, "es", source)
    extract(bank, "es", lab.folder / "out.pt")
    assert_same(lab.folder / "out.pt", source)
    whole = lab.finetuned("whole", MASKED)
    assert "other heads or channels" in refusal(add, bank, "whole", whole)
    assert "other heads or channels" in refusal(add, lab.bank, "slim", source)


def test_a_base_that_has_lost_layers(tmp_path: Path) -> None:
    """A finetuned model on it has as many, and remembers which are gone."""
    lab = Lab(tmp_path, lambda path: write_wav2vec2(path, layers=3))
    drop_layers(lab.pretrained, [1], tmp_path / "short.pt")
    create(tmp_path / "short.pt", tmp_path / "short.safetensors")
    source = write_finetuned(tmp_path / "source.pt", tmp_path / "short.pt", lab.data, model=MASKED)
    add(tmp_path / "short.safetensors", "es", source)
    extract(tmp_path / "short.safetensors", "es", tmp_path / "out.pt")
    assert_same(tmp_path / "out.pt", source)
    assert "it has 2 layers, and the base of the bank 3" in refusal(add, lab.bank, "es", source)


def untouched(bank: Path, *arguments: Any) -> str:
    """The line with which something is not added, and nothing is written."""
    before, beside = bank.read_bytes(), sorted(bank.parent.iterdir())
    message = refusal(add, bank, *arguments)
    assert bank.read_bytes() == before and sorted(bank.parent.iterdir()) == beside
    return message


def test_another_base_is_told_by_hash(lab: Lab) -> None:
    other = write_wav2vec2(lab.folder / "other.pt", seed=5)
    source = write_finetuned(lab.folder / "source.pt", other, lab.data, model=MASKED)
    message = untouched(lab.bank, "es", source)
    site = "encoder.layers.0.fc1.weight"
    shown = [_digest(state(path)["model"][site]) for path in (other, lab.pretrained)]
    assert f"{site} is {shown[0]}, in the bank {shown[1]}" in message
    assert "it is on another base" in message and str(source) in message


def _digest(tensor: Tensor) -> str:
    return checksum({}, {"": tensor.numpy()})[:12]


@pytest.mark.parametrize(
    ("model", "changed", "what"),
    [
        # One weight in a million is enough.
        (MASKED, "encoder.layers.1.fc2.weight", "another base"),
        # It has no mask, but no flag frees it.
        (MASKED, "encoder.layers.1.self_attn.q_proj.weight", "another base"),
        ({**MASKED, "co_train": True}, "encoder.layers.0.fc1.weight", "weights were trained"),
        (PARP, "encoder.layers.0.fc1.weight", "weights were trained"),
        ({**FROZEN, "policy": "random", "train_weights": True}, None, ""),
    ],
)
def test_weights_that_differ(
    lab: Lab, model: dict[str, Any], changed: str | None, what: str
) -> None:
    source = lab.finetuned("source", model)

    def change(saved: dict[str, Any]) -> None:
        weight = saved["model"][f"{ENCODER}{changed}"].reshape(-1)
        mask = weight.nonzero()[0]
        weight[mask] = torch.nextafter(weight[mask], torch.tensor(9.0))

    if changed is None:  # weights that could be trained, but were not
        add(lab.bank, "es", source)
        extract(lab.bank, "es", lab.folder / "out.pt")
        return assert_same(lab.folder / "out.pt", source)
    rewrite(source, change)
    message = untouched(lab.bank, "es", source)
    assert what in message and f"({changed} is " in message
    assert ("a bank keeps weights once" in message) == (what != "another base")


def test_what_has_no_masks_to_keep(lab: Lab) -> None:
    plain = lab.finetuned("plain", {"_name": "wav2vec_ctc"})
    source = lab.finetuned("source", MASKED)
    fold(source, lab.folder / "folded.pt")
    only_head = {**MASKED, "fix_fc": True, "no_prune_proj": False}
    only_head["no_prune_post_extract_proj"] = True
    cases = {
        plain: "holds no masks: it was finetuned without them, or folded",
        lab.folder / "folded.pt": "holds no masks",
        lab.pretrained: "not a finetuned",
        lab.finetuned("head", only_head): "none of its masks is of a tensor of the base",
        lab.data / "train.tsv": "no PyTorch checkpoint",
        lab.folder / "missing.pt": "does not exist",
        lab.bank: "no PyTorch checkpoint",
    }
    for path, what in cases.items():
        assert what in untouched(lab.bank, "es", path), path


def test_masks_of_what_weight_norm_makes(lab: Lab) -> None:
    source = lab.finetuned("source", {**MASKED, "no_prune_pos": False})
    assert "which weight norm makes" in untouched(lab.bank, "es", source)


def test_a_model_in_slimming(lab: Lab) -> None:
    slim = {"_name": "wav2vec_ctc_slim", "ffn_sparsity": 0.5, "criterion": "magnitude"}
    message = untouched(lab.bank, "es", lab.finetuned("slim", {**slim, **CONTEXT}))
    assert "slimming trained its weights" in message and "keeps weights once" in message


def test_a_dictionary_is_needed(lab: Lab) -> None:
    source = lab.finetuned("source", MASKED)
    rewrite(source, lambda s: (s.update(task_state={}), s["cfg"]["task"].update(data="/gone")))
    assert "holds no dictionary" in untouched(lab.bank, "es", source)
    dictionary = Dictionary(extra_special_symbols=["<lang>"])
    for symbol in "|ABCDE":
        dictionary.add_symbol(symbol)
    weights = {f"{HEAD}weight": torch.zeros(11, 32), f"{HEAD}bias": torch.zeros(11)}
    rewrite(
        source,
        lambda s: (
            s["model"].update(weights),
            s["task_state"].update(target_dictionary=dictionary),
        ),
    )
    assert "other special symbols" in untouched(lab.bank, "es", source)


def test_names_are_looked_at_first(lab: Lab) -> None:
    source = lab.finetuned("source", MASKED)
    add(lab.bank, "es", source)
    for name, what in {"es": "already", "a/b": "cannot be", "auto": "cannot be"}.items():
        assert what in untouched(lab.bank, name, lab.folder / "missing.pt")
    for name in ("spanish", "e"):
        message = refusal(extract, lab.bank, name, lab.folder / "out.pt")
        assert "unknown task" in message and "es" in message
    assert not (lab.folder / "out.pt").exists()


def test_nothing_is_lost_to_a_slip(lab: Lab) -> None:
    source = lab.finetuned("source", MASKED)
    before = lab.bank.read_bytes(), lab.pretrained.read_bytes()
    add(lab.bank, "es", source)
    refusal(extract, lab.bank, "es", lab.bank)
    refusal(create, lab.pretrained, lab.pretrained)
    refusal(create, lab.pretrained, lab.bank)
    assert "another kind of file" in refusal(extract, lab.bank, "es", lab.data / "train.tsv")
    assert "is a finetuned model" in refusal(create, source, lab.folder / "new.safetensors")
    assert lab.pretrained.read_bytes() == before[1] and Bank(lab.bank).names == ["es"]
    assert not (lab.folder / "new.safetensors").exists()


def test_a_provenance_that_is_no_text_is_refused(lab: Lab) -> None:
    source = lab.finetuned("source", MASKED)
    rewrite(source, lambda s: s.update(speechprune={"made": torch.ones(2)}))
    assert "its settings or its provenance" in untouched(lab.bank, "es", source)
