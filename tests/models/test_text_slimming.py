"""`roberta_slim` in fairseq's loop: what is removed, cut out, finetuned, and slimmed again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints import refusal
from loop import Run
from sentences import write_roberta
from text_loop import CONFIG, TextLab

from speechprune.autoslim.pipeline import pipeline
from speechprune.autoslim.training import Amounts
from speechprune.backbones.cost import encoder_cost, encoder_parameters
from speechprune.checkpoint import read
from speechprune.checkpoint.slimming import slim_plan_in
from speechprune.criterions.teacher import Teacher
from speechprune.models.loading import load_encoder, load_finetuned, load_pretrained
from speechprune.rewriting.folding import fold
from speechprune.rewriting.slimming import apply
from speechprune.training.rehearsal import rehearse

HEAD = "sentence_classification_head"
TOKENS = torch.tensor([[0, 4, 6, 7, 2], [0, 5, 6, 2, 1]])
#: Settings by which units go: half of each kind, or 30 % of the parameters at most.
SCORED = ("model.ffn_sparsity=0.5", "model.head_sparsity=0.5", "model.prune_every=2")
GATED = (
    *("model.criterion=l0", "model.keep_parameters=0.7", "model.prune_end=20"),
    *("dataset.batch_size=8", "optimization.lr=[0.003]"),
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> TextLab:
    return TextLab(tmp_path_factory.mktemp("text-slimming"))


def train(lab: TextLab, name: str, *flags: str, updates: int = 12) -> Run:
    flags = ("model._name=roberta_slim", *flags)
    return lab.train(name, *flags, updates=updates, config=CONFIG).succeeded()


@pytest.fixture(scope="module")
def scored(lab: TextLab) -> Run:
    return train(lab, "scored", *SCORED)


@pytest.fixture(scope="module")
def slim(lab: TextLab, scored: Run) -> Path:
    report = apply(scored.path(), lab.folder / "slim.pt")
    assert [(layer.heads, layer.channels) for layer in report.layers] == [(2, 16)] * 2
    return lab.folder / "slim.pt"


@torch.inference_mode()
def logits(path: Path) -> torch.Tensor:
    model = load_finetuned(path).model
    found: torch.Tensor = model(
        src_tokens=TOKENS, features_only=True, classification_head_name=HEAD
    )[0]
    return found


def assert_equal_logits(slim: Path, whole: Path) -> None:
    expected = logits(whole)
    assert expected.std() > 0.01
    torch.testing.assert_close(logits(slim), expected, rtol=0, atol=1e-5)


def test_what_is_cut_out_changes_no_output(slim: Path, scored: Run) -> None:
    assert_equal_logits(slim, scored.path())
    assert encoder_parameters(load_encoder(slim)) < encoder_parameters(load_encoder(scored.path()))
    assert read(slim)["cfg"]["model"]["_name"] == "roberta_pruned"


def test_gates_learn_by_the_penalty_of_the_criterion(lab: TextLab) -> None:
    run = train(lab, "gated", *GATED, updates=60)
    shares = [float(record["train_share_removed"]) for record in run.records("train")]
    assert shares[0] < 0.05 and 0.1 < shares[-1] < 0.35
    assert float(run.records("train")[0]["train_penalty"]) != 0
    report = apply(run.path(), lab.folder / "gated.pt")
    assert report.parameters < report.parameters_before
    assert_equal_logits(lab.folder / "gated.pt", run.path())


@pytest.mark.parametrize("budget", ["keep_parameters", "keep_macs"])
def test_budgets_are_met_as_the_encoder_counts(lab: TextLab, budget: str) -> None:
    """Without the output layers and embeddings' second use; multiply-adds for the longest text."""
    run = train(lab, budget, f"model.{budget}=0.75", "model.prune_every=2")
    apply(run.path(), lab.folder / f"{budget}.pt")
    whole, left = (
        encoder_cost(load_encoder(path)) for path in (lab.roberta, lab.folder / f"{budget}.pt")
    )
    measure = "parameters" if budget == "keep_parameters" else "multiply_adds"
    assert 0.65 < left.of(measure) / whole.of(measure) <= 0.75


def test_a_slim_model_is_finetuned_further_and_slimmed_again(lab: TextLab, slim: Path) -> None:
    """From `model.roberta_path`; its plan has the numbers of the first heads and channels."""
    begin = f"model.roberta_path={slim}"
    tuned = lab.train("tuned", "model._name=roberta_pruned", begin, config=CONFIG).succeeded()
    first = slim_plan_in(read(slim))
    assert first is not None and slim_plan_in(read(tuned.path())) == first
    again = train(lab, "again", begin, *SCORED)
    apply(again.path(), lab.folder / "slimmer.pt")
    assert_equal_logits(lab.folder / "slimmer.pt", again.path())
    last = slim_plan_in(read(lab.folder / "slimmer.pt"))
    assert last is not None
    for before, after in zip(first.kept, last.kept):
        assert (len(after.heads), len(after.channels)) == (1, 8)
        assert set(after.channels) < set(before.channels)


@pytest.mark.parametrize("kind", ["roberta_parp", "roberta_st"])
def test_masks_on_a_slim_model_are_cut_further(lab: TextLab, slim: Path, kind: str) -> None:
    flags = (f"model._name={kind}", f"model.roberta_path={slim}", "model.prune_every=1")
    masked = lab.train(f"masked-{kind}", *flags, config=CONFIG).succeeded().path()
    state = torch.load(masked, weights_only=True)
    fc2 = "encoder.sentence_encoder.layers.1.fc2.weight"
    masks = [key for key in state["model"] if key.startswith(fc2) and key.endswith("_mask")]
    assert masks
    assert state["model"][fc2].shape == (16, 16)
    assert "heads and channels were cut out" in refusal(fold, masked, lab.folder / "plain.pt")


def test_a_pretrained_model_is_cut_too(lab: TextLab, tmp_path: Path) -> None:
    source = write_roberta(tmp_path / "idle.pt")
    state = torch.load(source, weights_only=True)
    layer = "encoder.sentence_encoder.layers.0."
    state["model"][layer + "fc2.weight"][:, 3:10] = 0
    state["model"][layer + "self_attn.out_proj.weight"][:, 4:8] = 0
    torch.save(state, source)
    report = apply(source, tmp_path / "slim.pt")
    assert [(each.heads, each.channels) for each in report.layers] == [(3, 25), (4, 32)]
    whole, slim = (load_pretrained(path) for path in (source, tmp_path / "slim.pt"))
    with torch.inference_mode():
        torch.testing.assert_close(slim(TOKENS)[0], whole(TOKENS)[0], rtol=0, atol=1e-5)


def test_distillation_is_refused(lab: TextLab) -> None:
    """Before fairseq names keys that the criterion lacks; and of a teacher that reads text."""
    words = ["--config-name", CONFIG, f"task.data={lab.data}", f"model.roberta_path={lab.roberta}"]
    told = refusal(rehearse, [*words, "criterion._name=distill"])
    assert "is for sentences, but criterion._name=distill not" in told
    assert "distillation is of speech alone" in refusal(Teacher, str(lab.roberta), False)


def test_slim_auto_is_refused(lab: TextLab, scored: Run) -> None:
    for path in (lab.roberta, scored.path()):
        settings = {"data": lab.data, "train": "train", "valid": "valid"}
        slimming = pipeline(path, lab.folder / "auto", amounts=Amounts(0.5), **settings)
        told = refusal(slimming.run, lambda line: None)
        assert "is a model of text; `slim auto` finetunes models of speech alone" in told
        assert not (lab.folder / "auto" / "model").exists()


def test_refusals(lab: TextLab, scored: Run) -> None:
    for name, flags, complaint in (
        ("uncut", (f"model.roberta_path={scored.path()}", *SCORED), "removed"),
        ("layers", ("model.whole_layers=[2]", *SCORED), "layer 2, but the model has 0..1"),
        ("nothing", (), "nothing is to be removed"),
    ):
        flags = ("model._name=roberta_slim", *flags)
        run = lab.train(name, *flags, updates=12, config=CONFIG)
        assert run.exit_code == 1 and complaint in run.output, run.output[-2000:]
        assert not run.path().exists()
