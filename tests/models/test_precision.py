"""In every precision masks are exact and frozen weights untouched; so are they with recomputation.

fairseq widens half precision to float32 when it saves, which is exact.
"""

from __future__ import annotations

import shutil
from functools import partial

import pytest
import torch
from loop import Lab, Run
from states import difference, keep, masks, top
from torch import Tensor, nn

from speechprune.masking.selection import keep_count, select_each

ENCODER = "w2v_encoder.w2v_model."
ON_CUDA = ("common.cpu=false",)
BF16 = ("common.bf16=true",)
#: Overrides, and the type that weights are kept and saved in.
ON_CPU_OR_CUDA = {
    "bf16": (BF16, torch.bfloat16),
    "memory_efficient_bf16": ((*BF16, "common.memory_efficient_bf16=true"), torch.bfloat16),
}
ONLY_ON_CUDA = {
    "fp16": (("common.fp16=true",), torch.float16),
    "memory_efficient_fp16": (
        ("common.fp16=true", "common.memory_efficient_fp16=true"),
        torch.float16,
    ),
}
NOISY = ("model.layerdrop=0.3", "model.mask_prob=0.5", "model.fix_attn=false")
KEPT = ("checkpoint.save_interval_updates=1", "checkpoint.keep_interval_updates=-1")
UPDATES = 3


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("precision"))


def assert_exact(run: Run, dtype: torch.dtype) -> None:
    """Counts are right, and the saved masks are those of the saved scores, ties by index."""
    model = run.succeeded().model()
    found = masks(model)
    assert len(found) == 12
    for name, mask in found.items():
        scores = model[name[: -len("weight")] + "scores"]
        assert torch.equal(scores, scores.to(dtype).float())
        kept = keep(mask.size, 0.9)
        assert mask.sum() == kept, name
        assert (mask == top(scores, kept)).all(), name


def assert_frozen(run: Run, lab: Lab, dtype: torch.dtype) -> None:
    """The weights are the pretrained ones, converted once."""
    model = run.model()
    pretrained = torch.load(lab.wav2vec2, weights_only=True)["model"]
    names = [key for key in pretrained if ENCODER + key in model and key != "mask_emb"]
    assert len(names) > 30
    for key in names:
        assert torch.equal(model[ENCODER + key], pretrained[key].to(dtype).float()), key


def assert_learns(run: Run) -> None:
    flipped = [float(record["flipped"]) for record in run.records("train_inner")]
    assert flipped[0] == 0 and flipped[1] > 0


def train(lab: Lab, name: str, overrides: tuple[str, ...]) -> Run:
    return lab.train(name, *NOISY, *overrides, updates=UPDATES)


@pytest.mark.parametrize("precision", ON_CPU_OR_CUDA)
def test_half_precision_on_a_processor(lab: Lab, precision: str) -> None:
    overrides, dtype = ON_CPU_OR_CUDA[precision]
    run = train(lab, precision, overrides)
    assert_exact(run, dtype)
    assert_frozen(run, lab, dtype)
    assert_learns(run)


@pytest.mark.parametrize(
    "precision", [pytest.param(p, marks=pytest.mark.cuda) for p in (*ON_CPU_OR_CUDA, *ONLY_ON_CUDA)]
)
def test_precisions_on_cuda(lab: Lab, precision: str) -> None:
    overrides, dtype = {**ON_CPU_OR_CUDA, **ONLY_ON_CUDA}[precision]
    run = train(lab, f"cuda-{precision}", (*ON_CUDA, *overrides))
    assert_exact(run, dtype)
    assert_frozen(run, lab, dtype)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_half_precision_resumes(lab: Lab, device: str) -> None:
    """Without fp32 copies, which fairseq does not save, a resumed run ends bit-equal."""
    memory_efficient, dtype = ON_CPU_OR_CUDA["memory_efficient_bf16"]
    overrides = (*NOISY, *memory_efficient, *(ON_CUDA if device == "cuda" else ()))
    whole = lab.train(f"whole-{device}", *overrides, *KEPT, updates=UPDATES)
    assert_exact(whole, dtype)
    cut = lab.folder / f"cut-{device}" / "checkpoints"
    cut.mkdir(parents=True)
    shutil.copy(whole.path("1_1"), cut / "checkpoint_last.pt")
    resumed = lab.train(f"cut-{device}", *overrides, *KEPT, updates=UPDATES).succeeded()
    assert resumed.records("train_inner")[0]["num_updates"] == "2"
    assert difference(resumed.model(), whole.model()) == []


@pytest.mark.parametrize("spans", ["true", "false"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_recomputing_activations_changes_nothing(lab: Lab, device: str, spans: str) -> None:
    """Without spans nothing that is trained lies before the layers."""
    runs = [
        train(
            lab,
            f"recompute-{recompute}-{spans}-{device}",
            (
                f"model.checkpoint_activations={recompute}",
                f"model.apply_mask={spans}",
                *(ON_CUDA if device == "cuda" else ()),
            ),
        ).succeeded()
        for recompute in ("false", "true")
    ]
    plain, recomputed = ([r["loss"] for r in run.records("train_inner")] for run in runs)
    assert plain == recomputed
    assert difference(runs[0].model(), runs[1].model()) == []


def test_amp_is_refused_whoever_starts_the_run(lab: Lab) -> None:
    """By fairseq's own command here; by `speechprune train` in tests/training."""
    run = lab.train("amp", "common.amp=true")
    assert run.exit_code == 1 and "UserError: common.amp=true cannot train" in run.output
    assert "use common.fp16=true or common.bf16=true" in run.output
    assert not run.path().exists() and run.records("train_inner") == []


def test_recomputation_really_happens(lab: Lab) -> None:
    """Without it each layer runs once per step; with it, twice, on the same masked weights."""
    for recompute, expected in (("false", 1), ("true", 2)):
        model = lab.build(f"model.checkpoint_activations={recompute}", "model.layerdrop=0")
        seen: list[Tensor] = []
        read = partial(_read_weight, seen)
        model.backbone.encoder.layers[0].fc1.register_forward_pre_hook(read)
        model.train()
        model.set_num_updates(0)
        source = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
        output = model(source=source, padding_mask=torch.zeros(2, 8000, dtype=torch.bool))
        output["encoder_out"].square().sum().backward()
        assert len(seen) == expected
        assert all(torch.equal(weight, seen[0]) for weight in seen)


def _read_weight(seen: list[Tensor], layer: nn.Linear, inputs: tuple[Tensor]) -> None:
    seen.append(layer.weight.detach().clone())


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("density", [0.01, 0.3, 0.5, 0.9, 1.0])
def test_equal_scores_give_equal_masks_on_both_devices(dtype: torch.dtype, density: float) -> None:
    """Half precision has few magnitudes, so most of these thresholds lie among ties."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(768, 768), (64, 32), (3072, 768), (768, 768), (7,)]
    scores = [torch.empty(s).uniform_(-0.05, 0.05, generator=generator).to(dtype) for s in shapes]
    scores.append(torch.ones(100, 100, dtype=dtype))
    counts = [keep_count(tensor.numel(), density) for tensor in scores]
    here = select_each(scores, counts, magnitude=True)
    there = select_each([tensor.cuda() for tensor in scores], counts, magnitude=True)
    for tensor, kept, first, second in zip(scores, counts, here, there):
        assert torch.equal(first.mask, second.mask.cpu())
        assert (first.mask.flatten().numpy() == top(tensor, kept)).all()


@pytest.mark.cuda
def test_a_model_starts_with_equal_masks_on_both_devices(lab: Lab) -> None:
    found = []
    for device in ("cpu", "cuda"):
        model = lab.build("model.fix_attn=false", "model.init_score=weight_rank")
        model.to(device)
        model.set_num_updates(0)
        found.append(model.mask_controller.mask_set())
    assert found[0] == found[1]
