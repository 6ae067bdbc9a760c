"""The head of a checkpoint spells the same words in a run whose dictionary has another order."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from loop import Lab, setup
from nano import write_finetuned
from torch import Tensor

from speechprune.autoslim.training import Amounts, Slimming
from speechprune.dropping.finetuning import rehearse_finetuning
from speechprune.errors import UserError
from speechprune.models.loading import load_finetuned
from speechprune.models.mask_reading import read_mask_set
from speechprune.rewriting.masks import apply_masks
from speechprune.training.finetuning import Finetuning
from speechprune.training.preflight import check_checkpoints, check_outputs

HEAD = {"no_prune_proj": False}
ROUTER = {"_name": "wav2vec_ctc_st", "prune_rate": 0.6, **HEAD}
ROWS = {**ROUTER, "linear_st_op": "linear_st_outstr"}
PARP = {"_name": "wav2vec_ctc_parp", "sparsity": 0.4, "no_prune_post_extract_proj": True, **HEAD}
#: What comes from other groups in training.
CONTEXT = {
    **{"use_bmuf": False, "store_ema": False, "pipeline_model_parallel": False},
    **{"zero_sharding": "none", "max_update": 10},
}
MODELS: dict[str, dict[str, Any]] = {
    "weights": {"_name": "wav2vec_ctc"},
    "dropped layers": {"_name": "wav2vec_ctc_pruned"},
    "scores": ROUTER,
    "scores of rows": ROWS,
    "PARP": PARP,
}
STILL = ("model.fix_attn=false", "model.apply_mask=false")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("symbols"))


def with_dictionary(lab: Lab, name: str, symbols: str) -> Path:
    """The lab's data with another dictionary."""
    folder = lab.folder / name
    shutil.copytree(lab.data, folder, dirs_exist_ok=True)
    (folder / "dict.ltr.txt").write_text("".join(f"{symbol} 1\n" for symbol in symbols))
    return folder


def flags(model: dict[str, Any], data: Path) -> list[str]:
    settings = [f"model.{key}={value}" for key, value in model.items()]
    return [*STILL, *settings, f"task.data={data}", "optimization.max_update=2"]


def trainer_of(lab: Lab, model: dict[str, Any], data: Path, *more: str) -> Any:
    """fairseq's trainer of a model on data."""
    from fairseq.trainer import Trainer

    cfg, task = setup(lab.compose(*flags(model, data), *more))
    built = task.build_model(cfg.model)
    task.load_dataset("train")
    return Trainer(cfg, task, built, task.build_criterion(cfg.criterion))


def save(trainer: Any, path: Path) -> None:
    trainer.consolidate_optimizer()
    place = {"epoch": 1, "iterations_in_epoch": 0}
    trainer.save_checkpoint(str(path), {"train_iterator": place})


def emissions(model: Any, task: Any) -> dict[str, Tensor]:
    """What a model says of each symbol, (T,), for one recording."""
    samples = torch.sin(torch.arange(8000) * 0.3)[None]
    with torch.no_grad():
        output = model.eval()(source=samples, padding_mask=None)
        scores = model.get_logits(output)[:, 0]
    return dict(zip(task.target_dictionary.symbols, scores.T))


def assert_alike(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert sorted(first) == sorted(second) and list(first) != list(second)
    for symbol, scores in first.items():
        torch.testing.assert_close(second[symbol], scores, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_every_symbol_keeps_its_row(lab: Lab, name: str, tmp_path: Path) -> None:
    """With all that masks add to the head, and again from what this run saves."""
    settings = MODELS[name]
    begun = trainer_of(lab, settings, lab.data)
    save(begun, tmp_path / "first.pt")
    first = load_finetuned(tmp_path / "first.pt")
    other = with_dictionary(lab, "reversed", "EDCBA|")
    trainer = trainer_of(lab, settings, other)
    trainer.load_checkpoint(str(tmp_path / "first.pt"), reset_optimizer=True)
    said = emissions(first.model, first.task)
    assert_alike(said, emissions(trainer._model, trainer.task))
    save(trainer, tmp_path / "second.pt")
    second = load_finetuned(tmp_path / "second.pt")
    assert_alike(said, emissions(second.model, second.task))
    back = trainer_of(lab, settings, lab.data)
    back.load_checkpoint(str(tmp_path / "second.pt"), reset_optimizer=True)
    whole = first.model.state_dict()
    assert all(torch.equal(value, whole[key]) for key, value in back._model.state_dict().items())


def test_a_moving_average_follows(lab: Lab, tmp_path: Path) -> None:
    # fairseq cannot copy the weight norm of wav2vec 2.0.
    family = (f"model.w2v_path={lab.data2vec}", "task.normalize=true")
    averaged = ("ema.store_ema=true", "ema.ema_fp32=true", *family)
    begun = trainer_of(lab, MODELS["weights"], lab.data, *averaged)
    begun.ema.get_model().w2v_encoder.proj.bias.data += torch.arange(10)
    begun.ema.build_fp32_params()
    save(begun, tmp_path / "first.pt")
    trainer = trainer_of(
        lab, MODELS["weights"], with_dictionary(lab, "reversed", "EDCBA|"), *averaged
    )
    trainer.load_checkpoint(str(tmp_path / "first.pt"), reset_optimizer=True)
    said, heard = (
        dict(zip(t.task.target_dictionary.symbols, t.ema.fp32_params["w2v_encoder.proj.bias"]))
        for t in (begun, trainer)
    )
    assert said == heard and list(said) != list(heard)
    assert_alike(*(emissions(t.ema.get_model(), t.task) for t in (begun, trainer)))


def test_other_symbols_are_named(lab: Lab) -> None:
    first = write_finetuned(lab.folder / "first.pt", lab.wav2vec2, lab.data)
    for name, symbols, told in (
        (
            "new",
            "|ABCD\u00c4",
            "first.pt has no output for '\u00c4' and .*/new/dict.* lacks its 'E'",
        ),
        ("more", "|ABCDEFG", "first.pt has no output for 'F', 'G'; give the dictionary"),
        ("fewer", "|ABE", "more/dict|fewer/dict.ltr.txt lacks its 'C', 'D'; .*target_dictionary="),
    ):
        data = with_dictionary(lab, name, symbols)
        trainer = trainer_of(lab, MODELS["weights"], data)
        with pytest.raises(UserError, match=told):
            trainer.load_checkpoint(str(first), reset_optimizer=True)
        cfg = lab.compose(
            *flags(MODELS["weights"], data), f"checkpoint.finetune_from_model={first}"
        )
        with pytest.raises(UserError, match=told):
            check_checkpoints(cfg)


def test_masks_alone_need_no_symbols(lab: Lab) -> None:
    """Masks of one language are the start of another's; but for those of the head."""
    source = write_finetuned(lab.folder / "source.pt", lab.wav2vec2, lab.data, model=ROUTER)
    data = with_dictionary(lab, "new", "|ABCD\u00c4")
    alone = (f"checkpoint.finetune_from_model={source}", "model.load_mask_only=true")
    body = {**ROUTER, "no_prune_proj": True}
    trainer_of(lab, body, data, *alone).load_checkpoint(str(source), reset_optimizer=True)
    with pytest.raises(UserError, match="has no output for '\u00c4'"):
        trainer_of(lab, ROUTER, data, *alone).load_checkpoint(str(source), reset_optimizer=True)


def test_masks_of_a_head_follow(lab: Lab, tmp_path: Path) -> None:
    """As a mask file in training, put on a checkpoint, and no further than the symbols do."""
    source = write_finetuned(
        tmp_path / "source.pt", lab.wav2vec2, lab.data, model={**PARP, **CONTEXT}
    )
    masks = read_mask_set(source)
    masks.save(tmp_path / "masks.safetensors")
    other = with_dictionary(lab, "reversed", "EDCBA|")
    given = {**PARP, "_name": "wav2vec_ctc_masked", "mask_file": tmp_path / "masks.safetensors"}
    del given["sparsity"]
    trained = trainer_of(lab, given, other)._model.mask_controller.mask_set()
    plain = write_finetuned(tmp_path / "plain.pt", lab.wav2vec2, other)
    apply_masks(plain, masks, tmp_path / "masked.pt")
    rows = [0, 1, 2, 3, 9, 8, 7, 6, 5, 4]  # fairseq's four symbols stay
    for found in (trained, read_mask_set(tmp_path / "masked.pt")):
        assert set(found) == set(masks) and "proj.bias" in masks
        for site, mask in masks.items():
            expected = mask[rows] if site.startswith("proj.") else mask
            assert torch.equal(found[site], expected)
    assert not torch.equal(masks["proj.weight"], masks["proj.weight"][rows])
    strange = write_finetuned(
        tmp_path / "strange.pt", lab.wav2vec2, with_dictionary(lab, "new", "|ABCD\u00c4")
    )
    with pytest.raises(UserError, match="mask of the output layer has no output for '\u00c4'"):
        apply_masks(strange, masks, tmp_path / "none.pt")


def test_no_run_goes_on_in_another_order(lab: Lab, tmp_path: Path) -> None:
    """The moments of the head would belong to other symbols."""
    begun = trainer_of(lab, MODELS["weights"], lab.data)
    assert begun.optimizer is not None
    last = tmp_path / "checkpoint_last.pt"
    save(begun, last)
    state = torch.load(last, weights_only=True)
    state["last_optimizer_state"]["state"] = {0: {"step": torch.tensor(1.0)}}
    torch.save(state, last)
    data = with_dictionary(lab, "reversed", "EDCBA|")
    told = "another order, which its optimizer cannot follow; .*finetune_from_model="
    with pytest.raises(UserError, match=told):
        trainer_of(lab, MODELS["weights"], data).load_checkpoint(str(last))
    with pytest.raises(UserError, match=told):
        check_checkpoints(
            lab.compose(*flags(MODELS["weights"], data), f"checkpoint.save_dir={tmp_path}")
        )
    evaluated = lab.compose(*flags(MODELS["weights"], data), "model.eval_only=true")
    check_outputs(evaluated, last, state, goes_on=True)


def test_layers_auto_and_slim_auto_refuse_at_once(lab: Lab) -> None:
    first = write_finetuned(lab.folder / "first.pt", lab.wav2vec2, lab.data)
    data = with_dictionary(lab, "more", "|ABCDEFG")
    finetuning = Finetuning(data, "train", "valid", "demo/nano", 4)
    often = replace(finetuning, overrides=("model.prune_every=1",))
    slimming = Slimming(lab.folder / "slim", first, Amounts(ffn=0.5), often)
    for rehearse in (partial(rehearse_finetuning, first, finetuning, 1), slimming.rehearse):
        with pytest.raises(UserError, match="has no output for 'F', 'G'"):
            rehearse()
    fitting = replace(slimming, finetuning=replace(often, data=lab.data))
    fitting.rehearse()
    assert fitting.labels == "ltr" and not fitting.folder.exists()
