"""MaskSet: bits, densities, files and what does not fit."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from speechprune.errors import UserError
from speechprune.masking import bits
from speechprune.masking.bits import pack_bits, unpack_bits
from speechprune.masking.mask_set import MaskSet
from speechprune.state_names import layer_of, role_of

SHAPES = [(1,), (7,), (8,), (9,), (3, 5), (16, 24), (2, 3, 4), (1, 1)]


def random_mask(*shape: int, keep: float = 0.5, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator) < keep


@pytest.fixture
def mask_set() -> MaskSet:
    masks = {"post_extract_proj.weight": random_mask(6, 7, keep=0.2)}
    for layer in range(11):
        masks[f"encoder.layers.{layer}.fc1.weight"] = random_mask(9, 5, keep=0.9, seed=layer)
        masks[f"encoder.layers.{layer}.self_attn.q_proj.weight"] = random_mask(5, 5, seed=layer)
    return MaskSet(masks, {"backbone": "wav2vec2", "settings": "prune_rate=0.9 ∅"})


@pytest.mark.parametrize("shape", SHAPES)
def test_bits_follow_the_entries_in_order_and_come_back(shape):
    mask = random_mask(*shape)
    packed = pack_bits(mask)
    entries = [bool(packed[i // 8] >> (i % 8) & 1) for i in range(len(packed) * 8)]
    assert packed.dtype == torch.uint8 and len(packed) == (mask.numel() + 7) // 8
    assert entries[: mask.numel()] == mask.flatten().tolist()
    assert not any(entries[mask.numel() :])
    assert torch.equal(unpack_bits(packed, mask.shape), mask)


def test_a_mask_that_is_not_contiguous_is_packed_by_its_values():
    column = random_mask(6, 1)
    assert torch.equal(pack_bits(column.expand(6, 5)), pack_bits(column.repeat(1, 5)))
    mask = random_mask(6, 5)
    assert torch.equal(unpack_bits(pack_bits(mask.T), (5, 6)), mask.T)


@pytest.mark.cuda
def test_bits_stay_on_the_device():
    mask = random_mask(9, 5).cuda()
    packed = pack_bits(mask)
    assert packed.is_cuda and torch.equal(packed.cpu(), pack_bits(mask.cpu()))
    assert torch.equal(unpack_bits(packed, mask.shape), mask)


@pytest.mark.parametrize(
    "packed, shape",
    [
        (torch.zeros(2, dtype=torch.uint8), (3, 6)),
        (torch.zeros(2, dtype=torch.uint8), (2, 4)),
        (torch.full((1,), 255, dtype=torch.uint8), (7,)),
        (torch.zeros(1), (8,)),
        (torch.zeros((1, 1), dtype=torch.uint8), (8,)),
        (torch.zeros(0, dtype=torch.uint8), (0, 4)),
        (torch.zeros(1, dtype=torch.uint8), ()),
    ],
)
def test_bits_that_cannot_be_a_mask_of_the_shape_are_refused(packed, shape):
    with pytest.raises(UserError):
        unpack_bits(packed, shape)


def test_only_booleans_are_packed():
    with pytest.raises(TypeError, match="float32"):
        pack_bits(torch.ones(3))


@pytest.mark.parametrize("length", [0, 1, 8, 15, 1000])
def test_bits_are_counted_with_and_without_numpy_2(monkeypatch, length):
    packed = np.random.default_rng(length).integers(0, 256, length, dtype=np.uint8)
    expected = int(np.unpackbits(packed).sum())
    assert bits.popcount(packed) == expected
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert bits.popcount(packed) == expected


def test_nobody_can_change_a_mask_set():
    source = torch.ones(2, 8, dtype=torch.bool)
    masks = MaskSet({"w": source})
    source.zero_()
    masks["w"].zero_()
    masks.provenance["backbone"] = "another"
    assert masks.density == 1.0 and masks["w"].all() and not masks.provenance
    with pytest.raises(ValueError):
        masks.packed("w").bits[0] = 0
    with pytest.raises(TypeError):
        masks["w"] = source


def test_sites_are_ordered_with_numbers_by_value(mask_set):
    layers = [layer_of(name) for name in mask_set]
    assert layers == sorted(layers[:-1]) + [None]
    assert list(mask_set)[:2] == [
        "encoder.layers.0.fc1.weight",
        "encoder.layers.0.self_attn.q_proj.weight",
    ]


@pytest.mark.parametrize(
    "site, layer, role",
    [
        ("encoder.layers.3.fc1.weight", 3, "fc1"),
        ("encoder.layers.11.self_attn.out_proj.weight", 11, "self_attn.out_proj"),
        ("encoder.layers.0.self_attn.in_proj_weight", 0, "self_attn.in_proj_weight"),
        ("layers.2.fc2.weight", 2, "fc2"),
        ("feature_extractor.conv_layers.4.0.weight", None, "feature_extractor.conv_layers.4.0"),
        ("post_extract_proj.weight", None, "post_extract_proj"),
    ],
)
def test_layer_and_role_come_from_the_name(site, layer, role):
    assert (layer_of(site), role_of(site)) == (layer, role)


def test_densities_are_shares_of_weights_not_of_sites(mask_set):
    def share(names):
        return torch.cat([mask_set[name].flatten() for name in names]).double().mean().item()

    assert mask_set.density == pytest.approx(share(mask_set))
    for key in (str, layer_of, role_of):
        for group, tally in mask_set.tallies(key).items():
            members = [name for name in mask_set if key(name) == group]
            assert tally.density == pytest.approx(share(members))
    assert mask_set.nbytes == sum((m.numel() + 7) // 8 for m in mask_set.values())


def test_equal_means_the_same_masks_on_the_same_sites(mask_set):
    shuffled = dict(reversed(list(mask_set.items())))
    assert MaskSet(shuffled, {"backbone": "other provenance"}) == mask_set
    name = next(iter(mask_set))
    flipped = {**mask_set, name: ~mask_set[name]}
    assert MaskSet(flipped) != mask_set
    assert MaskSet({n: m for n, m in mask_set.items() if n != name}) != mask_set
    assert MaskSet({"w": random_mask(4, 6)}) != MaskSet({"w": random_mask(4, 6).reshape(6, 4)})


@pytest.mark.parametrize("masks", [{}, {"": random_mask(2)}, {"w": random_mask(0, 3)}])
def test_what_is_no_mask_set_is_refused(masks):
    with pytest.raises(UserError):
        MaskSet(masks)


def test_a_file_gives_back_masks_and_provenance_at_one_bit_per_weight(mask_set, tmp_path):
    path = tmp_path / "masks.safetensors"
    mask_set.save(path)
    loaded = MaskSet.load(path)
    assert loaded == mask_set and loaded.provenance == mask_set.provenance
    assert list(loaded) == list(mask_set)
    large = MaskSet({"w": random_mask(512, 1024)})
    large.save(path)
    assert path.stat().st_size < 512 * 1024 / 8 + 1000


def test_equal_mask_sets_are_equal_files(mask_set, tmp_path):
    path = tmp_path / "masks.safetensors"
    contents = set()
    for masks in [mask_set, dict(reversed(list(mask_set.items())))] * 4:
        provenance = dict(reversed(list(mask_set.provenance.items())))
        MaskSet(masks, provenance).save(path)
        contents.add(path.read_bytes())
    assert len(contents) == 1


def _damage(path, change):
    """Write the file anew with ``change(header, tensors)`` made."""
    mask = random_mask(3, 6)
    header = {"format": "speechprune.mask_set", "version": 1, "shapes": {"w": [3, 6]}}
    header["provenance"] = {}
    tensors = {"w": pack_bits(mask).numpy()}
    change(header, tensors)
    save_file(tensors, path, {"speechprune.mask_set": json.dumps(header)})


@pytest.mark.parametrize(
    "change",
    [
        lambda header, tensors: header.update(version=2),
        lambda header, tensors: header.pop("version"),
        lambda header, tensors: header.pop("shapes"),
        lambda header, tensors: header.update(shapes={"w": [3, 9]}),
        lambda header, tensors: header.update(shapes={"w": [3, 2]}),
        lambda header, tensors: header.update(shapes={"w": ["3", 6]}),
        lambda header, tensors: header.update(shapes={"w": [3, -6]}),
        lambda header, tensors: header.update(shapes={"w": 18}),
        lambda header, tensors: header.update(shapes={"w": [3, 6], "v": [1]}),
        lambda header, tensors: header.update(shapes={}),
        lambda header, tensors: header.update(provenance={"backbone": 3}),
        lambda header, tensors: header.update(provenance=[1]),
        lambda header, tensors: tensors.update(w=np.zeros(3, np.float32)),
        lambda header, tensors: tensors.update(w=np.full(3, 255, np.uint8)),
        lambda header, tensors: tensors.update(v=np.zeros(3, np.uint8)),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(tmp_path, change):
    path = tmp_path / "masks.safetensors"
    _damage(path, lambda header, tensors: None)
    MaskSet.load(path)
    _damage(path, change)
    _refused(path)


def test_a_truncated_file_is_refused_wherever_it_ends(mask_set, tmp_path):
    path = tmp_path / "masks.safetensors"
    mask_set.save(path)
    whole = path.read_bytes()
    for size in (0, 1, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        _refused(path)


def test_a_foreign_file_is_refused(tmp_path):
    path = tmp_path / "masks.safetensors"
    _refused(path)
    _refused(tmp_path)
    path.write_text("no masks here\n" * 20)
    _refused(path)
    torch.save({"w": torch.ones(3)}, path)
    _refused(path)
    save_file({"w": np.zeros(3, np.uint8)}, path)
    _refused(path)
    save_file({"w": np.zeros(3, np.uint8)}, path, {"speechprune.mask_set": "[]"})
    _refused(path)


def _refused(path):
    with pytest.raises(UserError) as refusal:
        MaskSet.load(path)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_full_disk_leaves_the_old_file_whole(mask_set, tmp_path, monkeypatch):
    path = tmp_path / "masks.safetensors"
    mask_set.save(path)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        MaskSet({"w": random_mask(3)}).save(path)
    assert MaskSet.load(path) == mask_set
    assert os.listdir(tmp_path) == [path.name]


def test_a_folder_that_is_missing_is_told(mask_set, tmp_path):
    with pytest.raises(UserError, match="No such file or directory"):
        mask_set.save(tmp_path / "nowhere" / "masks.safetensors")


def test_masks_of_another_model_are_refused_with_the_first_site(mask_set):
    shapes = mask_set.shapes
    mask_set.check_fits(shapes)
    mask_set.check_fits((name, torch.Size(shape)) for name, shape in shapes.items())
    name = "encoder.layers.3.fc1.weight"
    with pytest.raises(UserError, match=rf"another model.*{name}.*\[9, 5\], not \[9, 6\]"):
        mask_set.check_fits({**shapes, name: (9, 6)})
    with pytest.raises(UserError, match="another model.*encoder.layers.11.fc1.weight"):
        mask_set.check_fits({**shapes, "encoder.layers.11.fc1.weight": (9, 5)})
    with pytest.raises(UserError, match=f"another model.*{name}"):
        mask_set.check_fits({site: shape for site, shape in shapes.items() if site != name})
