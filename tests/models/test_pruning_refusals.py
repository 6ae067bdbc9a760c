"""What pruning cannot do is refused in one line that names the setting, before training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Callable

import pytest
import torch
from checkpoints import refusal
from loop import Lab
from parp_by_hand import prunable
from torch import Tensor

from speechprune.masking.mask_set import MaskSet

PARP = ("model._name=wav2vec_ctc_parp", "model.fix_attn=false", "optimization.max_update=100")
FIXED = ("model._name=wav2vec_ctc_masked", "model.fix_attn=false")
MODELS = {"parp": PARP, "masked": FIXED}
ENCODER = "w2v_encoder.w2v_model."
Change = Callable[[dict[str, Tensor]], None]

#: Flags, and what the refusal has to say.
BAD = {
    "model.sparsity=-0.1": "model.sparsity is the share removed.* not -0.1",
    "model.sparsity=1.0": "model.sparsity is the share removed.* not 1.0",
    "model.sparsity=1.5": "model.sparsity is the share removed.* not 1.5",
    "model.sparsity=.nan": "model.sparsity is the share removed.* not nan",
    "model.start_sparsity=-0.1": "model.start_sparsity is the share removed",
    "model.start_sparsity=0.6 model.sparsity=0.5": "start_sparsity=0.6 is over .*sparsity=0.5",
    "model.prune_every=0": "model.prune_every=0",
    "model.prune_every=-50": "model.prune_every=-50",
    "model.policy=prap": "'prap'.*'parp'",
    "model.policy=gradual": "'gradual'.*'gradual_magnitude'",
    "model.policy=s3router": "model.policy=s3router.*model._name=wav2vec_ctc_st",
    "model.prune_scope=globl": "model.prune_scope 'globl'.*'global'",
    "model.prune_scope=site": "model.prune_scope 'site'; known: global, tensor",
    "model.start_sparsity=0 model.sparsity_schedule=qubic": "sparsity_schedule 'qubic'.*'cubic'",
    "model.sparsity_schedule=exponential": "model.sparsity_schedule 'exponential'",
    # Masks are chosen at 0, 30, 60 and 90.
    "model.start_sparsity=0 model.prune_every=30 model.sparsity_end=91": "of update 91.*at 90",
    "model.start_sparsity=0 model.prune_every=30 model.sparsity_end=200": "model.sparsity_end",
    "model.start_sparsity=0 model.freeze_finetune_updates=20 model.sparsity_end=10": (
        "model.sparsity_end leaves no time.*model.freeze_finetune_updates"
    ),
    "model.start_sparsity=0 model.freeze_finetune_updates=20 model.sparsity_end=20": (
        "model.sparsity_end leaves no time.*model.freeze_finetune_updates"
    ),
    "model.freeze_finetune_updates=100": "model.freeze_finetune_updates=100 .*max_update=100",
    "model.start_sparsity=0.5 model.sparsity=0.5 model.sparsity_end=50": "sparsity_end=50 has no ",
    "model.policy=movement model.prune_every=101": "of update 50.*lower .*model.prune_every",
    "model.fix_attn=true model.fix_fc=true": "nothing to mask",
}
EMA = "ema.store_ema=true"
MODES = {
    "distributed_training.ddp_backend=fully_sharded": "use legacy_ddp",
    "distributed_training.ddp_backend=slowmo": "use legacy_ddp",
    "optimization.use_bmuf=true": "leave it out",
    EMA: "not sparse",
    "distributed_training.zero_sharding=os": "leave it out",
    "distributed_training.pipeline_model_parallel=true": "leave it out",
}
#: What fits into the run of 100 updates although it is near to what does not.
GOOD = (
    "model.sparsity=0",
    "model.sparsity=0.99",
    "model.start_sparsity=0.5 model.sparsity=0.5",
    "model.start_sparsity=0 model.prune_every=30 model.sparsity_end=90",
    "model.start_sparsity=0 model.freeze_finetune_updates=20 model.sparsity_end=21",
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("pruning-refusals"))


def refused(lab: Lab, *flags: str) -> str:
    """The one line with which a model is not built."""
    return refusal(lab.build, *flags)


@pytest.mark.parametrize("flags", BAD)
def test_impossible_pruning_is_refused(lab: Lab, flags: str) -> None:
    assert re.search(BAD[flags], refused(lab, *PARP, *flags.split(" ")))


@pytest.mark.parametrize("flags", GOOD)
def test_possible_pruning_is_not_refused(lab: Lab, flags: str) -> None:
    model = lab.build(*PARP, *flags.split(" "))
    assert sorted(site.name for site in model.mask_controller.sites) == sorted(
        name[len(ENCODER) :] for name in prunable()
    )


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("mode", MODES)
def test_modes_in_which_pruned_weights_would_come_back_are_refused(
    lab: Lab, mode: str, model: str
) -> None:
    """Each by its name, with what to do instead."""
    message = refused(lab, *MODELS[model], mode)
    assert message.startswith(mode) and MODES[mode] in message


@pytest.fixture
def masks(lab: Lab, tmp_path: Path) -> Callable[..., str]:
    """Writes masks of the nano model, changed as the caller likes, and gives the flag for them."""
    weights = torch.load(lab.wav2vec2, weights_only=True)["model"]
    shapes = {name[len(ENCODER) :]: weights[name[len(ENCODER) :]].shape for name in prunable()}

    def write(removed: float = 0.5, change: Change = lambda found: None) -> str:
        generator = torch.Generator().manual_seed(0)
        found = {
            name: torch.rand(shape, generator=generator) >= removed
            for name, shape in shapes.items()
        }
        change(found)
        MaskSet(found, {}).save(tmp_path / "masks.safetensors")
        return f"model.mask_file={tmp_path / 'masks.safetensors'}"

    return write


FC1 = "encoder.layers.0.fc1.weight"


def transpose(found: dict[str, Tensor]) -> None:
    found[FC1] = found[FC1].T.contiguous()


def add_a_layer(found: dict[str, Tensor]) -> None:
    found.update({name.replace("layers.0", "layers.2"): mask for name, mask in found.items()})


def drop_a_layer(found: dict[str, Tensor]) -> None:
    for name in [name for name in found if "layers.1" in name]:
        del found[name]


def drop_biases(found: dict[str, Tensor]) -> None:
    for name in [name for name in found if name.endswith("bias")]:
        del found[name]


def drop_attention(found: dict[str, Tensor]) -> None:
    for name in [name for name in found if "self_attn" in name]:
        del found[name]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "change, message",
    [
        (transpose, rf"masks of another model: '{FC1}' has the shape \[32, 64\], not \[64, 32\]"),
        (add_a_layer, "another model.*no site 'encoder.layers.2"),
        (drop_a_layer, "another model.*no site 'encoder.layers.1"),
        (drop_biases, "model.prune_biases=false$"),
        (drop_attention, "model.fix_attn=true$"),
    ],
)
def test_masks_of_other_tensors_are_refused(
    lab: Lab, masks: Callable[..., str], model: str, change: Change, message: str
) -> None:
    flag = masks(change=change)
    found = refused(lab, *MODELS[model], flag)
    assert re.search(message, found)
    assert found.startswith(flag.partition("=")[2])


def test_the_advice_for_masks_of_other_tensors_helps(lab: Lab, masks: Callable[..., str]) -> None:
    flag = masks(change=drop_biases)
    advice = refused(lab, *PARP, flag).split()[-1]
    model = lab.build(*PARP, flag, advice)
    assert all(site.tensor == "weight" for site in model.mask_controller.sites)


@pytest.mark.parametrize("model", MODELS)
def test_a_mask_file_that_is_none_is_refused(lab: Lab, tmp_path: Path, model: str) -> None:
    missing, text = tmp_path / "missing.safetensors", tmp_path / "text.safetensors"
    text.write_text("no masks")
    for path in (missing, text, lab.wav2vec2, tmp_path):
        assert str(path) in refused(lab, *MODELS[model], f"model.mask_file={path}")


def test_masks_of_another_sparsity_are_refused(lab: Lab, masks: Callable[..., str]) -> None:
    """Those to start from remove what the run says it starts with, or nearly so."""
    flag = masks(0.7)
    message = refused(lab, *PARP, flag)
    assert re.search(r"removes 0\.(\d+), .*the sparsity 0.5; set model.sparsity=0\.\1", message)
    assert "starts at the sparsity 0.3" in refused(
        lab, *PARP, flag, "model.start_sparsity=0.3", "model.sparsity=0.8"
    )
    lab.build(*PARP, flag, "model.sparsity=0.7")
    lab.build(*PARP, flag, "model.start_sparsity=0.7", "model.sparsity=0.8")
    lab.build(*FIXED, flag)


def test_fixed_masks_have_to_be_given(lab: Lab) -> None:
    message = refused(lab, *FIXED)
    assert "wav2vec_ctc_masked needs model.mask_file=FILE" in message


@pytest.mark.parametrize("model, flag", [("parp", "model.sparsity=1.0"), ("masked", EMA)])
def test_a_refused_run_fails_in_one_line_and_leaves_no_checkpoint(
    lab: Lab, model: str, flag: str
) -> None:
    run = lab.train(f"refused-{model}", *MODELS[model], flag)
    assert run.exit_code == 1
    (line,) = re.findall(r"UserError: (.*)", run.output)
    assert line.startswith(flag.partition("=")[0])
    assert not list(run.folder.glob("**/*.pt"))
