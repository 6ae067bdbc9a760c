"""RoBERTa in fairseq's loop: what each model trains, learns, saves, and goes on with."""

from __future__ import annotations

import re
import shutil
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import refusal
from fairseq.tasks.sentence_prediction import SentencePredictionTask
from loop import Run, run_together
from mishaps import kill_after_update, save_own_model
from omegaconf import OmegaConf
from sentences import WORDS, dictionary, write_roberta, write_sentences, write_values
from states import assert_ends_equal, difference
from test_distributed import free_port
from text_loop import CONFIG, TextLab

from speechprune.checkpoint.text import read_text_model
from speechprune.decoding.sentences import evaluate_sentences
from speechprune.decoding.texts import texts_of
from speechprune.manifests.dictionary import symbols_digest
from speechprune.models.loading import LoadedSentences, load_finetuned
from speechprune.models.mask_reading import read_checkpoint_masks
from speechprune.rewriting.banking import create
from speechprune.rewriting.encoder import export_encoder
from speechprune.rewriting.folding import fold

UPDATES = 40
#: Every model of text, with what it needs.
MODELS = {
    "roberta_pruned": ("model.drop_layers=[0]",),
    "roberta_st": ("model.init_score=weight_rank", "model.prune_rate=0.7"),
    "roberta_parp": ("model.sparsity=0.5", "model.prune_every=2"),
    "roberta_policy": ("model.policy=s3router", "model.sparsity=0.3", "model.prune_every=1"),
    "roberta_slim": ("model.ffn_sparsity=0.5", "model.head_sparsity=0.5", "model.prune_every=2"),
}
FROZEN = ("roberta_st", "roberta_policy")
HEAD = "sentence_classification_head"
FC1 = "encoder.sentence_encoder.layers.1.fc1.weight"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> TextLab:
    return TextLab(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module", params=sorted(MODELS))
def trained(lab: TextLab, request: pytest.FixtureRequest) -> tuple[str, Run]:
    name = request.param
    flags = (f"model._name={name}", *MODELS[name])
    return name, lab.train(name, *flags, updates=UPDATES, config=CONFIG).succeeded()


def loaded_from(path: Path) -> LoadedSentences:
    loaded = load_finetuned(path)
    assert isinstance(loaded, LoadedSentences)
    return loaded


def logits(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    return model(src_tokens=tokens, features_only=True, classification_head_name=HEAD)[0]


def test_it_learns_and_its_checkpoint_is_whole(trained: tuple[str, Run], lab: TextLab) -> None:
    """Neither the pretrained file nor the data is needed to build it again."""
    name, run = trained
    loaded = loaded_from(run.path())
    accuracy = evaluate_sentences(loaded, lab.data, "valid").metrics[0].value
    if name in FROZEN:
        # What such random weights tell of a word, no mask brings to the first symbol.
        assert sum(float(record["train_flipped"]) for record in run.records("train")) > 0
    else:
        assert accuracy > 0.9
    assert loaded.symbols.symbols[4:] == [*dictionary().symbols[4:], "<mask>"]
    layers = loaded.model.encoder.sentence_encoder.layers
    assert len(layers) == (1 if name == "roberta_pruned" else 2)
    if loaded.model.has_masks:
        tally = read_checkpoint_masks(run.path()).tally
        kept = {"roberta_st": 0.7, "roberta_parp": 0.5, "roberta_policy": 0.7}[name]
        assert abs(tally.kept / tally.total - kept) < 5e-3


def test_frozen_models_keep_their_encoder(lab: TextLab, trained: tuple[str, Run]) -> None:
    """S3-Router freezes all of it, and trains the output layer; the others train everything."""
    name, run = trained
    if name == "roberta_pruned":
        return
    before = torch.load(lab.roberta, weights_only=True)["model"]
    after = run.model()
    own = [key for key in before if key in after and "lm_head" not in key and "version" not in key]
    same = [key for key in own if torch.equal(before[key], after[key])]
    if name in FROZEN:
        assert same == own
    else:
        assert not [key for key in same if key.endswith("weight")]
    assert after[f"classification_heads.{HEAD}.out_proj.bias"].abs().sum() > 0


@pytest.mark.parametrize("name", ["roberta_parp", "roberta_slim", "roberta_st"])
def test_a_killed_run_goes_on_from_where_it_was(name: str, lab: TextLab) -> None:
    """From `checkpoint.restore_file` too, from which fairseq would begin anew."""
    flags = (
        *(f"model._name={name}", *MODELS[name], f"checkpoint.restore_file={lab.roberta}"),
        *("checkpoint.save_interval_updates=3", "model.encoder_layerdrop=0.3"),
        "optimization.update_freq=[2]",
    )
    whole = lab.train(f"{name}-whole", *flags, updates=6, config=CONFIG).succeeded()
    killed = lab.train(
        f"{name}-killed", *flags, updates=6, config=CONFIG, prepare=partial(kill_after_update, 4)
    )
    assert killed.exit_code == -signal.SIGKILL, killed.output[-3000:]
    resumed = lab.train(f"{name}-killed", *flags, updates=6, config=CONFIG).succeeded()
    assert_ends_equal(whole, resumed, 6)


def test_a_run_goes_on_from_a_checkpoint_that_is_named(lab: TextLab) -> None:
    """In another folder, with its optimizer, as fairseq takes `checkpoint.restore_file`."""
    flags = ("model._name=roberta_pruned", "checkpoint.save_interval_updates=3")
    whole = lab.train("named-whole", *flags, updates=6, config=CONFIG).succeeded()
    begun = whole.folder / "checkpoints" / "checkpoint_2_3.pt"
    restored = (*flags, f"checkpoint.restore_file={begun}")
    after = lab.train("named-after", *restored, updates=6, config=CONFIG).succeeded()
    assert_ends_equal(whole, after, 6)


def test_values_are_measured_as_in_training(lab: TextLab) -> None:
    folder = write_values(lab.folder / "values")
    own = (f"task.data={folder}", "checkpoint.best_checkpoint_metric=pearson")
    run = lab.train("values", "model._name=roberta_pruned", *own, config="glue/sts-b").succeeded()
    found = evaluate_sentences(loaded_from(run.path()), folder, "valid")
    logged = run.records("valid")[-1]
    assert [metric.name for metric in found.metrics] == ["pearson", "spearman"]
    for metric in found.metrics:
        in_percent = float(logged[f"valid_{metric.name}"])  # of one decimal
        assert 100 * metric.value == pytest.approx(in_percent, abs=0.06)
    assert found.metrics[0].value > 0.2


def test_a_folded_model_is_fairseqs_own(lab: TextLab, trained: tuple[str, Run]) -> None:
    """With the same outputs, by fairseq's own task and model."""
    name, run = trained
    if name == "roberta_slim":
        return
    out = lab.folder / f"{name}-folded" / "plain.pt"
    assert fold(run.path(), out) == "roberta"
    state = torch.load(out, weights_only=True)
    cfg = OmegaConf.create(state["cfg"])
    task = SentencePredictionTask.setup_task(cfg.task)
    model = task.build_model(cfg.model, from_checkpoint=True)
    assert type(model).__module__ == "fairseq.models.roberta.model"
    model.load_state_dict(state["model"], strict=True)
    tokens = torch.tensor([[0, 4, 6, 7, 2], [0, 5, 6, 2, 1]])
    own = loaded_from(run.path()).model
    with torch.inference_mode():
        # On some processors the last bits depend on where tensors lie in memory.
        torch.testing.assert_close(
            logits(own, tokens), logits(model.eval(), tokens), rtol=1e-5, atol=1e-6
        )


def test_an_exported_encoder_remembers_its_words(lab: TextLab) -> None:
    """As many others are refused, with which it would read other texts than there are."""
    run = lab.train("exported", "model._name=roberta_pruned", config=CONFIG).succeeded()
    out = lab.folder / "encoder.pt"
    export_encoder(run.path(), out)
    assert read_text_model(out).dictionary == symbols_digest(lab.data / "input0" / "dict.txt")
    path = f"model.roberta_path={out}"
    lab.train("from-encoder", "model._name=roberta_st", path, config=CONFIG).succeeded()
    other = write_sentences(lab.folder / "other-words", words=WORDS[::-1])
    refused = lab.train("refused", path, f"task.data={other}", config=CONFIG)
    assert f"dict.txt has other symbols than {out} was trained with" in refused.output


def test_what_is_for_speech_refuses_text(lab: TextLab) -> None:
    run = lab.train("spoken-to", "model._name=roberta_pruned", config=CONFIG).succeeded()
    message = refusal(texts_of, load_finetuned(run.path()), [np.zeros(16000, np.float32)])
    assert "is a model of text; this needs a CTC model" in message
    bank = lab.folder / "text.bank"
    assert "is an encoder of text, but a bank" in refusal(create, lab.roberta, bank)
    assert not bank.exists()


def test_the_command_of_s3router(lab: TextLab) -> None:
    """Its config has its own flags alone, and names the pretrained model as fairseq does."""
    config = lab.folder / "theirs" / "sst-2.yaml"
    config.parent.mkdir()
    config.write_text(_OF_S3ROUTER)
    run = lab.train(
        "s3router",
        *(f"checkpoint.restore_file={lab.roberta}", "model._name=roberta_st"),
        *("model.checkpoint_activations=true", "model.prune_rate=0.9", "model.fix_attn=true"),
        *("model.init_score=weight_rank", f"--config-dir={config.parent}", "--config-name=sst-2"),
        config=CONFIG,
    ).succeeded()
    masks = read_checkpoint_masks(run.path())
    assert sorted({site.split(".")[-2] for site in masks}) == ["fc1", "fc2"]
    # The scores begin by the pretrained weights: the smallest are what is removed.
    weight = torch.load(lab.roberta, weights_only=True)["model"][FC1]
    removed = weight.abs()[~masks[FC1]]
    assert removed.max() <= weight.abs().flatten().kthvalue(int(0.2 * weight.numel())).values


def test_two_processes_train_one_model(lab: TextLab) -> None:
    address = f"tcp://localhost:{free_port()}"
    common = (
        *("model._name=roberta_parp", "model.sparsity=0.5", "model.prune_every=2"),
        *("optimization.max_update=4", "distributed_training.distributed_world_size=2"),
        f"distributed_training.distributed_init_method={address}",
        "distributed_training.distributed_no_spawn=true",
        "distributed_training.distributed_backend=gloo",
        "distributed_training.ddp_backend=legacy_ddp",
    )
    ranks = [f"distributed_training.distributed_rank={rank}" for rank in range(2)]
    commands = [lab.arguments("ranks", (*common, rank), CONFIG) for rank in ranks]
    files = [lab.folder / f"ranks-{rank}.pt" for rank in range(2)]
    prepares = [partial(save_own_model, file, 4) for file in files]
    first, _ = run_together(lab.folder / "ranks", commands, prepares)
    first.succeeded()
    own, other = (torch.load(file, weights_only=True) for file in files)
    assert difference(own, other) == []


def test_refusals(lab: TextLab, tmp_path: Path) -> None:
    """Each in words, before anything is trained."""
    other = write_sentences(tmp_path / "other", words=("good", "bad", "a", "film"))
    swapped = write_roberta(tmp_path / "deeper.pt", layers=3)
    roberta = f"model.roberta_path={lab.roberta}"
    for ending in ("idx", "bin"):
        source = lab.data / "input0" / f"train.{ending}"
        shutil.copy(source, source.with_stem("untold"))
    for overrides, complaint in (
        (("checkpoint.restore_file=/nowhere.pt",), "/nowhere.pt does not exist"),
        ((f"task.data={other}",), "has 9 symbols with fairseq's own, but .* pretrained with 15"),
        (("task.max_positions=16",), "was pretrained with 32; set task.max_positions=32"),
        ((f"model.roberta_path={swapped}", "+model.encoder_layers=2"), "has 3; leave the key out"),
        (("model.roberta_path=null",), "which model is to be finetuned"),
        (("+model.trainable_proj=false",), "always trains: leave it out"),
        (("model._name=roberta",), "does not read model.roberta_path; take .*=roberta_pruned"),
        (("task.num_classes=3",), "task.num_classes=3, but .*label/dict.txt has 2 classes"),
        (("criterion.regression_target=true",), "has classes of sentences; set criterion"),
        (("dataset.valid_subset=nowhere",), "there is no .*input0/nowhere.idx; prepare"),
        (("dataset.train_subset=untold",), "there is no .*label/untold.idx; prepare the split"),
        ((f"checkpoint.restore_file={lab.roberta}", roberta), "both name a pretrained model"),
    ):
        run = lab.train("refused", "model._name=roberta_st", *overrides, config=CONFIG)
        assert run.exit_code != 0
        assert re.search(complaint, run.output), run.output[-2000:]


#: Its sst-2.yaml, but for comments and blank lines.
_OF_S3ROUTER = """# @package _group_
common: {fp16: true, fp16_init_scale: 4, threshold_loss_scale: 1, fp16_scale_window: 128,
  log_format: json, log_interval: 200}
task: {_name: sentence_prediction, data: "???", init_token: 0, separator_token: 2, num_classes: 2,
  max_positions: 512}
checkpoint: {restore_file: "???", reset_optimizer: true, reset_dataloader: true, reset_meters: true,
  best_checkpoint_metric: accuracy, maximize_best_checkpoint_metric: true,
  no_epoch_checkpoints: true}
distributed_training: {find_unused_parameters: true, distributed_world_size: 1}
criterion: {_name: sentence_prediction}
dataset: {batch_size: 32, required_batch_size_multiple: 1, max_tokens: 4400}
optimizer: {_name: adam, weight_decay: 0.1, adam_betas: "(0.9,0.98)", adam_eps: 1e-06}
lr_scheduler: {_name: polynomial_decay, warmup_updates: 1256}
optimization: {clip_norm: 0.0, lr: [1e-05], max_update: 20935, max_epoch: 10}
model:
  _name: roberta
  dropout: 0.1
  attention_dropout: 0.1
  checkpoint_activations: false
  prune_rate: 0.9
  init_score: kaiming_uniform
  init_score_scale: 1
  fix_attn: false
  fix_mask: false
  fix_mask_before: 0
  load_mask_only: false
  load_mask_before: 0
"""
