"""What slimming cannot do is refused in one line that names the setting, before training."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from checkpoints import refusal
from loop import Lab, Run, build, compose_untyped
from omegaconf import DictConfig, OmegaConf

from speechprune.training.launch import completed
from speechprune.training.preflight import check_settings

SLIM = (
    "model._name=wav2vec_ctc_slim",
    "model.fix_attn=false",
    "model.freeze_finetune_updates=0",
    "model.prune_every=10",
    "optimization.max_update=100",
)
FFN = "model.ffn_sparsity=0.5"
L0 = "model.criterion=l0 model.keep_parameters=0.7"

#: Flags, and what the refusal has to say.
BAD = {
    "model.ffn_sparsity=1.0": "model.ffn_sparsity.* not 1.0",
    "model.ffn_sparsity=-0.1": "model.ffn_sparsity.* not -0.1",
    "model.head_sparsity=1.5": "model.head_sparsity.* not 1.5",
    "model.head_sparsity=.nan": "model.head_sparsity.* not nan",
    "model.keep_parameters=0": "model.keep_parameters=0.0 must be a share in (0, 1]",
    "model.keep_macs=1.1": "model.keep_macs=1.1 must be a share in (0, 1]",
    "model.keep_macs=.nan": "model.keep_macs=nan must be a share in (0, 1]",
    "model.slim_floor=0": "nothing is to be removed: set model.ffn_sparsity, model.head_sparsity",
    f"{FFN} model.fix_attn=true model.fix_fc=true": "not both model.fix_attn and model.fix_fc",
    f"{FFN} model.fix_fc=true": "nothing is to be removed",
    "model.keep_parameters=0.5 model.keep_macs=0.5": (
        "model.keep_parameters and model.keep_macs contradict each other"
    ),
    f"{FFN} model.keep_macs=0.5": "model.keep_macs and model.ffn_sparsity contradict each other",
    # What the floors of the layers, one head and one channel, leave.
    "model.keep_parameters=0.1": (
        "to keep 0.1 of the parameters is impossible.* 0.\\d+ are kept at least"
    ),
    "model.keep_macs=0.7 model.slim_cap=0.1": "no layer losing more than 0.1.*raise model.slim_cap",
    f"{FFN} model.head_sparsity=0.9 model.slim_scope=global": (
        "removes 7 of 8 units, but no more than 6 can go"
    ),
    f"{FFN} model.slim_floor=0.6": "does not lie between model.slim_floor=0.6 and model.slim_cap",
    f"{FFN} model.slim_cap=0.4": "does not lie between model.slim_floor=0.0 and model.slim_cap=0.4",
    f"{FFN} model.slim_floor=-0.1": "the floor of each layer.* not -0.1",
    f"{FFN} model.slim_cap=1.1": "the cap of each layer must lie between",
    f"{FFN} model.prune_begin=50 model.prune_end=40": (
        "model.prune_end=40 comes before model.prune_begin=50"
    ),
    f"{FFN} model.prune_begin=40 model.prune_end=49": (
        "model.prune_begin=40 to model.prune_end=49 holds no event after the beginning with "
        "model.prune_every=10"
    ),
    f"{FFN} model.prune_every=51": "holds no event after the beginning with model.prune_every=51",
    f"{FFN} model.prune_every=0": "model.prune_every must be 1 or more updates, not 0",
    f"{FFN} model.prune_end=101": (
        "model.prune_end=101 comes after the run ends, at optimization.max_update=100"
    ),
    f"{FFN} model.freeze_finetune_updates=20 model.prune_begin=10": (
        "model.prune_begin=10 comes before the encoder trains"
    ),
    f"{FFN} model.prune_begin=-10": "model.prune_begin=-10 comes before",
    f"{FFN} model.criterion=snap": "unknown model.criterion 'snap'; did you mean 'snip'?",
    f"{FFN} model.criterion=l1": "unknown model.criterion 'l1'; known: gradient, l0",
    f"{FFN} model.slim_scope=globl": "unknown model.slim_scope 'globl'; did you mean 'global'?",
    f"{FFN} model.slim_schedule=qubic": "unknown model.slim_schedule 'qubic'; did you mean 'cubic'",
    f"{FFN} model.whole_layers=[2]": "model.whole_layers names layer 2, but the model has 0..1",
    f"{FFN} model.whole_layers=[-1]": "model.whole_layers names layer -1",
    f"{FFN} model.whole_layers=[0,1]": "model.whole_layers names every layer",
    f"{FFN} model.criterion=l0": "set model.keep_parameters or model.keep_macs, and leave out",
    f"{L0} {FFN}": "model.keep_parameters and model.ffn_sparsity contradict each other",
    f"{L0} model.prune_begin=50 model.prune_end=50": "holds no event after the beginning",
    "model.criterion=l0 model.keep_parameters=0.1": "a share of 0.9 cannot be removed",
}
#: Settings and options of criteria, and what the refusal has to say.
OPTIONS = {
    f"{FFN} model.criterion_options={{decay:1.0}}": "the decay of snip_momentum must lie in",
    f"{FFN} model.criterion_options={{decay:fast}}": "'decay' .*must be a number, not 'fast'",
    f"{FFN} model.criterion_options={{momentum:0.5}}": (
        "unknown option of slimming criterion 'snip_momentum' 'momentum'"
    ),
    f"{FFN} model.criterion=magnitude model.criterion_options={{decay:0.5}}": (
        "unknown option of slimming criterion 'magnitude' 'decay'; it has none"
    ),
    f"{L0} model.criterion_options={{decay:0.5}}": "is not read with model.criterion=l0",
}
MODES = {
    "distributed_training.ddp_backend=fully_sharded": "use legacy_ddp",
    "optimization.use_bmuf=true": "leave it out",
    "ema.store_ema=true": "not sparse",
}
#: What is near to what is refused.
GOOD = (
    FFN,
    "model.head_sparsity=0.98",
    "model.keep_parameters=1.0",
    f"{FFN} model.prune_begin=50 model.prune_end=60",
    f"{FFN} model.prune_every=50",
    f"{FFN} model.prune_end=100",
    f"{FFN} model.freeze_finetune_updates=20",
    f"{FFN} model.head_sparsity=0.75 model.slim_scope=global",
    f"{FFN} model.slim_floor=0.5 model.slim_cap=0.5",
    f"{FFN} model.whole_layers=[1]",
    L0,
    f"{L0} model.prune_every=100",
)
#: Values of another type.
WRONG_TYPES = (
    "model.ffn_sparsity=abc",
    "model.ffn_sparsity=true",
    "model.ffn_sparsity=null",
    "model.head_sparsity=[0.5]",
    "model.keep_macs=half",
    "model.whole_layers=3",
    "model.whole_layers=first",
    "model.whole_layers=[1.5]",
    "model.whole_layers=null",
    "model.prune_begin=soon",
    "model.prune_end=60.5",
    "model.prune_every=often",
    "model.criterion=5",
    "model.criterion=null",
    "model.criterion_options=5",
    "model.slim_scope=null",
    "model.slim_schedule=3",
    "model.slim_cap=all",
    "model.slim_floor=null",
)
#: Numbers that are out of range for any model.
OUT_OF_RANGE = {
    "model.ffn_sparsity=1.0": "model.ffn_sparsity=1.0 is out of range; use 0 to below 1",
    "model.head_sparsity=-1": "model.head_sparsity=-1.0 is out of range; use 0 to below 1",
    "model.keep_parameters=0": "model.keep_parameters=0.0 is out of range; use above 0 to 1",
    "model.keep_macs=2": "model.keep_macs=2.0 is out of range; use above 0 to 1",
    "model.prune_begin=-1": "model.prune_begin=-1 is out of range; use at least 0",
    "model.prune_end=0": "model.prune_end=0 is out of range; use at least 1",
    "model.slim_cap=1.5": "model.slim_cap=1.5 is out of range; use 0 to 1",
    "model.slim_floor=1": "model.slim_floor=1.0 is out of range; use 0 to below 1",
    "model.whole_layers=[-2]": "model.whole_layers=-2 is out of range; use at least 0",
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("slim-refusals"))


@pytest.mark.parametrize("flags", BAD)
def test_impossible_slimming_is_refused(lab: Lab, flags: str) -> None:
    message = refusal(lab.build, *SLIM, *flags.split(" "))
    assert re.search(BAD[flags].replace("(", r"\(").replace("]", r"\]"), message), message


@pytest.mark.parametrize("flags", GOOD)
def test_possible_slimming_is_not_refused(lab: Lab, flags: str) -> None:
    assert lab.build(*SLIM, *flags.split(" ")).slim_controller is not None


@pytest.mark.parametrize("mode", MODES)
def test_modes_in_which_removed_units_would_come_back_are_refused(lab: Lab, mode: str) -> None:
    message = refusal(lab.build, *SLIM, FFN, mode)
    assert message.startswith(mode) and MODES[mode] in message


@pytest.mark.parametrize("flags", OPTIONS)
def test_options_of_criteria_are_checked(lab: Lab, flags: str) -> None:
    message = refusal(build, lab.compose(*SLIM, *flags.split(" ")))
    assert re.search(OPTIONS[flags], message), message


def test_options_of_criteria_are_read(lab: Lab) -> None:
    model = build(lab.compose(*SLIM, FFN, "model.criterion_options={decay:0}"))
    assert model.slim_controller.criterion.decay == 0


@pytest.fixture(scope="module")
def composed(lab: Lab) -> DictConfig:
    """What hydra makes of settings that are right."""
    return compose_untyped(lab.arguments("unused", (*SLIM, FFN), "finetuning/base_1h"))


def check(composed: DictConfig, flag: str, folder: Path) -> None:
    """As `speechprune train`, before anything is built."""
    cfg = OmegaConf.merge(composed, OmegaConf.from_dotlist([flag]))
    check_settings(completed(cfg, folder))


@pytest.mark.parametrize("flag", WRONG_TYPES)
def test_values_of_another_type_are_refused_by_name(
    composed: DictConfig, flag: str, tmp_path: Path
) -> None:
    name = flag.partition("=")[0][len("model.") :]
    assert name in refusal(check, composed, flag, tmp_path)


@pytest.mark.parametrize("flag", OUT_OF_RANGE)
def test_numbers_have_ranges(composed: DictConfig, flag: str, tmp_path: Path) -> None:
    assert refusal(check, composed, flag, tmp_path) == OUT_OF_RANGE[flag]


def assert_refused(run: Run, start: str) -> None:
    assert run.exit_code == 1
    lines = re.findall(r"UserError: (.*)", run.output)
    assert lines and all(line.startswith(start) for line in lines)
    assert not list(run.folder.glob("**/*.pt"))


def test_a_refused_run_leaves_no_checkpoint(lab: Lab) -> None:
    run = lab.train("refused", *SLIM, FFN, "model.prune_end=9", updates=100)
    assert_refused(run, "model.prune_begin=0 to model.prune_end=9 holds no event")


def test_gates_without_their_penalty_are_refused(lab: Lab) -> None:
    """fairseq's own criterion asks for none: nothing would ever be removed."""
    flags = (*SLIM, *L0.split(" "), "criterion._name=ctc")
    run = lab.train("no-penalty", *flags, "checkpoint.save_interval_updates=1", updates=100)
    assert_refused(run, "gates learn from a penalty in the loss, which this criterion leaves out")
    assert Path(run.folder).is_dir()
