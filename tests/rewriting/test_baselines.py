"""Baseline masks: what they keep, of which weights, and the command that makes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from nano import write_corpus, write_data2vec, write_finetuned, write_wav2vec2
from torch import Tensor
from torch.nn.utils import prune
from toy import load_backbone, top

from speechprune.backbones import LAYER_ROLES, find_backbone
from speechprune.checkpoint import read
from speechprune.errors import UserError
from speechprune.masking.baselines import MAKERS, largest
from speechprune.masking.mask_set import MaskSet
from speechprune.rewriting.baseline_masks import Ranking
from speechprune.rewriting.masks import apply_masks
from speechprune.tools.main import commands


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wav2vec2(tmp_path_factory.mktemp("baselines") / "pretrained.pt")


def weights_of(path: Path, biases: bool = True) -> dict[str, torch.Tensor]:
    """The projections of every layer in a pretrained checkpoint, by name."""
    model = load_backbone(path)
    names = [site.name for site in find_backbone(model).sites(model, LAYER_ROLES)]
    if biases:
        names += [name.replace(".weight", ".bias") for name in names]
    return {name: model.get_parameter(name).detach() for name in names}


def pruned_by_torch(weight: Tensor, sparsity: float) -> Tensor:
    """The mask that PyTorch's own pruning makes."""
    return prune.L1Unstructured(sparsity).compute_mask(weight, torch.ones_like(weight))


def test_what_is_removed_is_rounded_as_torch_rounds_it() -> None:
    """To the nearest number, and to the even one of two."""
    for entries in (1, 2, 5, 10, 33, 4096):
        weight = torch.randn(entries, generator=torch.Generator().manual_seed(entries))
        for sparsity in (0.0, 0.05, 0.1, 0.25, 0.3, 0.5, 0.7, 0.75, 0.9, 0.999):
            expected = pruned_by_torch(weight, sparsity).bool()
            for together in (False, True):
                found = largest({"w": weight}, sparsity, together=together)["w"]
                assert torch.equal(found, expected), (entries, sparsity)


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.37, 0.9])
@pytest.mark.parametrize("biases", [True, False])
def test_magnitude_of_each_tensor(pretrained: Path, sparsity: float, biases: bool) -> None:
    masks = Ranking(pretrained, "magnitude", biases=biases).masks(sparsity)
    weights = weights_of(pretrained, biases)
    assert set(masks) == set(weights)
    for name, weight in weights.items():
        kept = int(pruned_by_torch(weight, sparsity).sum())
        assert torch.equal(masks[name], top(weight.abs(), kept)), name


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.37, 0.9])
def test_magnitude_of_all_together(pretrained: Path, sparsity: float) -> None:
    """Kept are the largest of all: exactly as many, and none smaller than one removed."""
    masks = Ranking(pretrained, "global-magnitude").masks(sparsity)
    weights = weights_of(pretrained)
    flat = torch.cat([weights[name].abs().flatten() for name in masks])
    kept = torch.cat([masks[name].flatten() for name in masks])
    assert int(kept.sum()) == int(pruned_by_torch(flat, sparsity).sum())
    if sparsity:
        assert flat[kept].min() >= flat[~kept].max()
        assert len({round(mask.float().mean().item(), 3) for mask in masks.values()}) > 5


def test_random_masks_are_of_no_weights_of_the_checkpoint(tmp_path: Path) -> None:
    """RP knows of a checkpoint its shapes alone, and is repeatable."""
    one, other = (write_wav2vec2(tmp_path / f"{seed}.pt", seed=seed) for seed in (1, 2))
    for by in ("random", "global-random"):
        masks = Ranking(one, by, seed=3).masks(0.5)
        assert Ranking(other, by, seed=3).masks(0.5) == masks
        assert Ranking(one, by, seed=4).masks(0.5) != masks
    assert Ranking(one, "magnitude").masks(0.5) != Ranking(other, "magnitude").masks(0.5)


def test_random_weights_are_those_of_a_new_model(pretrained: Path) -> None:
    """fairseq starts biases at zero: ranked together with weights they go first."""
    masks = Ranking(pretrained, "global-random").masks(0.5)
    assert not any(mask.any() for name, mask in masks.items() if name.endswith("bias"))


def test_other_families(tmp_path: Path) -> None:
    path = write_data2vec(tmp_path / "data2vec.pt")
    for by in MAKERS:
        assert Ranking(path, by).masks(0.5).density == pytest.approx(0.5, abs=1e-3)


def test_of_finetuned_weights_and_of_sparse_ones(pretrained: Path, tmp_path: Path) -> None:
    """OMP ranks finetuned weights; a checkpoint with masks counts as the sparse network it is."""
    data = write_corpus(tmp_path / "data")
    plain = write_finetuned(tmp_path / "plain.pt", pretrained, data)
    state = read(plain)
    key = "w2v_encoder.w2v_model.encoder.layers.1.fc1.weight"
    state["model"][key] *= 100
    torch.save(state, plain)
    name = key[len("w2v_encoder.w2v_model.") :]
    assert Ranking(plain, "global-magnitude").masks(0.9)[name].float().mean() > 0.8
    wide = Ranking(pretrained, "random", biases=False).masks(0.5)
    sparse = tmp_path / "sparse.pt"
    apply_masks(plain, wide, sparse)
    narrow = Ranking(sparse, "magnitude", biases=False).masks(0.6)
    assert all((wide[site] | ~narrow[site]).all() for site in wide)


def test_ties_go_to_the_first() -> None:
    ones = {"a": torch.ones(2, 3), "b": torch.ones(4)}
    assert [int(mask.sum()) for mask in largest(ones, 0.5, together=True).values()] == [5, 0]
    assert [int(mask.sum()) for mask in largest(ones, 0.5, together=False).values()] == [3, 2]


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(commands, ["masks", "make", *map(str, arguments)])
    return result.exit_code, result.output


def test_the_command(pretrained: Path, tmp_path: Path) -> None:
    out = tmp_path / "mask.safetensors"
    code, output = run(pretrained, out, "--by", "global-random", "--sparsity", 0.7, "--seed", 5)
    assert (code, output) == (0, f"{out}: 24 masks, density 0.3000\n")
    masks = MaskSet.load(out)
    assert masks == Ranking(pretrained, "global-random", seed=5).masks(0.7)
    assert masks.provenance["made_by"] == "global-random"
    assert (masks.provenance["seed"], masks.provenance["sparsity"]) == ("5", "0.7")
    assert run(pretrained, out, "--by", "magnitude", "--sparsity", 0.5, "--no-biases")[0] == 0
    assert len(MaskSet.load(out)) == 12
    assert run(pretrained, out, "--by", "magnitude", "--sparsity", 0.5, "--fix-attn")[0] == 0
    masks = MaskSet.load(out)
    assert len(masks) == 8 and all(".fc" in name for name in masks)
    assert masks.provenance["roles"] == "ffn.in ffn.out"
    code, output = run(
        pretrained, out, "--by", "magnitude", "--sparsity", 0.5, "--fix-attn", "--fix-fc"
    )
    assert code != 0 and "nothing to mask" in output and MaskSet.load(out) == masks


@pytest.mark.parametrize(
    "sparsity, by, message",
    [
        (1.0, "magnitude", "must lie in [0, 1), not 1.0"),
        (-0.1, "magnitude", "must lie in [0, 1), not -0.1"),
        (0.5, "size", "'size' is not one of"),
    ],
)
def test_bad_input(
    pretrained: Path, tmp_path: Path, sparsity: float, by: str, message: str
) -> None:
    out = tmp_path / "mask.safetensors"
    code, output = run(pretrained, out, "--by", by, "--sparsity", sparsity)
    assert code != 0 and message in output and output.count("\n") == 1
    assert not out.exists()


def test_files_that_cannot_be_read(pretrained: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no checkpoint")
    for source in (tmp_path / "missing.pt", tmp_path / "text", tmp_path):
        code, output = run(source, tmp_path / "out", "--by", "magnitude", "--sparsity", 0.5)
        assert code != 0 and output.count("\n") == 1, output
    code, output = run(pretrained, pretrained, "--by", "magnitude", "--sparsity", 0.5)
    assert code != 0 and "would be overwritten" in output
    with pytest.raises(UserError, match="did you mean 'magnitude'"):
        Ranking(pretrained, "magnitudes")
