"""HuBERT wherever wav2vec 2.0 goes: published lines, PARP, dropped layers, folding, decoding."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoints import logits, refusal
from click.testing import CliRunner
from loop import Lab, Run, build
from nano import write_finetuned, write_hubert
from test_command_lines import (
    ATTENTION,
    ENCODER,
    FEED_FORWARD,
    FEED_FORWARD_SCORES,
    HEAD,
    MASK_EMB,
    assert_frozen,
    assert_masked,
    assert_trains_and_validates,
    lab_of_commands,
    masked,
    run,
    trained_shapes,
)

from speechprune.backbones import find_backbone
from speechprune.checkpoint import read
from speechprune.checkpoint.layers import depth
from speechprune.decoding.inference import transcribe
from speechprune.errors import UserError
from speechprune.models.loading import load_encoder, load_finetuned
from speechprune.models.mask_reading import read_checkpoint_masks
from speechprune.models.names import ROUTER, WEIGHTS
from speechprune.models.sites import encoder_of_model
from speechprune.rewriting.averaging import average
from speechprune.rewriting.conversion import convert
from speechprune.rewriting.encoder import export_encoder
from speechprune.rewriting.folding import fold
from speechprune.rewriting.layer_dropping import drop_layers
from speechprune.rewriting.masks import apply_masks
from speechprune.tools.main import commands

#: Builds a finetuned model in a process that knows fairseq alone, and prints its logits.
PLAIN_FAIRSEQ = """
import sys
import torch
import fairseq
from fairseq import checkpoint_utils, tasks
from fairseq.data.dictionary import Dictionary

torch.serialization.add_safe_globals([Dictionary])
if sys.argv[3] == "hubert":  # as its fix proposes: the key that its own code asks for
    from fairseq.models.hubert.hubert_asr import HubertCtc
    build = HubertCtc.build_model.__func__
    def build_with_key(cls, cfg, task):
        from omegaconf import OmegaConf
        return build(cls, OmegaConf.create({**cfg, "autoregressive": False}), task)
    HubertCtc.build_model = classmethod(build_with_key)
(model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([sys.argv[1]])
assert not any(name.split(".")[0] == "speechprune" for name in sys.modules)
audio = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
padding = torch.zeros(audio.shape, dtype=torch.bool)
model.eval().requires_grad_(False)
result = model(source=audio, padding_mask=padding)
torch.save({"kind": type(model).__name__, "logits": result["encoder_out"]}, sys.argv[2])
"""


def alone(model: torch.nn.Module, samples: int) -> torch.Tensor:
    """Logits of an utterance without padding."""
    audio = torch.randn(1, samples, generator=torch.Generator().manual_seed(samples))
    with torch.no_grad():
        return model(source=audio, padding_mask=torch.zeros_like(audio).bool())["encoder_out"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return lab_of_commands(tmp_path_factory.mktemp("hubert"))


@pytest.fixture(scope="module")
def masks_run(lab: Lab) -> Run:
    return run(lab, "base", lab.hubert, name="masks").succeeded()


@pytest.fixture(scope="module")
def weights_run(lab: Lab) -> Run:
    return run(lab, "weights", lab.hubert, updates=4, name="weights").succeeded()


def test_masks_are_learned_from_a_file_alone(masks_run: Run, lab: Lab) -> None:
    """Its folder of targets is gone, and the file has no task_state."""
    assert_trains_and_validates(masks_run)
    assert_masked(masks_run, FEED_FORWARD, 0.9)
    assert_frozen(masks_run, lab.hubert)
    assert trained_shapes(masks_run) == sorted(FEED_FORWARD_SCORES + HEAD + MASK_EMB)
    assert masks_run.checkpoint()["cfg"]["model"]["w2v_args"]["model"]["_name"] == "hubert"


def test_the_line_of_data2vec_takes_a_large_one(lab: Lab) -> None:
    found = run(lab, "data2vec", lab.hubert_large, name="large")
    assert_trains_and_validates(found)
    assert_masked(found, FEED_FORWARD, 0.9)
    assert_frozen(found, lab.hubert_large)


def test_the_line_of_xlsr_recomputes_activations(lab: Lab) -> None:
    found = run(lab, "xlsr", lab.hubert_large, name="xlsr")
    assert_trains_and_validates(found, subset="zh_TW-test")
    assert_masked(found, FEED_FORWARD, 0.94)
    assert trained_shapes(found) == sorted(FEED_FORWARD_SCORES + HEAD + MASK_EMB)


def test_all_weights_train(weights_run: Run, lab: Lab) -> None:
    assert_trains_and_validates(weights_run, updates=4)
    model = weights_run.model("best")
    pretrained = torch.load(lab.hubert, weights_only=True)["model"]
    for name in masked(FEED_FORWARD + ATTENTION):
        assert not torch.equal(model[name], pretrained[name[len(ENCODER) :]]), name
    assert not any("label_embs" in key or "final_proj" in key for key in model)


def test_masks_prune_finetuned_weights(weights_run: Run, lab: Lab) -> None:
    start = f"checkpoint.finetune_from_model={weights_run.path('best')}"
    found = run(lab, "prune", lab.hubert, start, name="prune")
    assert_trains_and_validates(found)
    assert_masked(found, FEED_FORWARD + ATTENTION, 0.3)
    name = f"{ENCODER}encoder.layers.0.fc1.weight"
    assert torch.equal(found.model("best")[name], weights_run.model("best")[name])


def test_parp_prunes_and_resumes_bit_for_bit(lab: Lab) -> None:
    parp = (
        *(f"model.w2v_path={lab.hubert}", "model._name=wav2vec_ctc_parp", "model.sparsity=0.5"),
        *("model.prune_every=2", "model.fix_attn=false"),
    )
    whole = lab.train("parp", *parp, updates=5).succeeded()
    lab.train("parp-resumed", *parp, "+lr_scheduler.max_update=5", updates=3).succeeded()
    resumed = lab.train("parp-resumed", *parp, updates=5).succeeded()
    expected, found = whole.model(), resumed.model()
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[key]) for key, tensor in expected.items())
    tally = read_checkpoint_masks(whole.path()).tally
    assert tally.kept == tally.total - tally.total // 2


def test_layers_are_dropped_in_training(lab: Lab) -> None:
    found = lab.train(
        "dropped",
        *(f"model.w2v_path={lab.hubert}", "model._name=wav2vec_ctc_pruned"),
        "model.drop_layers=[0]",
    ).succeeded()
    assert depth(found.path()) == 1
    assert len(find_backbone(load_encoder(found.path())).layers(load_encoder(found.path()))) == 1


@pytest.mark.parametrize("layout, kind", [("wav2vec2", "Wav2VecCtc"), ("hubert", "HubertCtc")])
def test_unmodified_fairseq_loads_a_folded_model(
    layout: str, kind: str, masks_run: Run, tmp_path: Path
) -> None:
    """Without the dictionaries of pretraining, and with equal logits."""
    folded = tmp_path / "folded.pt"
    fold(masks_run.path(), folded, layout=layout)
    assert folded.with_name("dict.ltr.txt").exists()
    out = tmp_path / "logits.pt"
    command = [sys.executable, "-c", PLAIN_FAIRSEQ, str(folded), str(out), layout]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = torch.load(out, weights_only=True)
    assert found["kind"] == kind
    loaded = load_finetuned(masks_run.path())
    audio = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    padding = torch.zeros(audio.shape, dtype=torch.bool)
    again = load_finetuned(folded)
    with torch.no_grad():
        expected = loaded.model(source=audio, padding_mask=padding)["encoder_out"]
        assert torch.equal(found["logits"], expected)
        assert torch.equal(again.model(source=audio, padding_mask=padding)["encoder_out"], expected)
        padding[1, 5000:] = True
        one, other = (m(source=audio, padding_mask=padding) for m in (loaded.model, again.model))
    assert torch.equal(one["encoder_out"], other["encoder_out"])
    assert torch.equal(one["padding_mask"], other["padding_mask"])
    assert again.density == loaded.density < 1.0


def test_a_plain_one_is_folded_for_fairseq_too(weights_run: Run, tmp_path: Path) -> None:
    for layout, name in (("wav2vec2", "wav2vec_ctc"), ("hubert", "hubert_ctc")):
        fold(weights_run.path(), tmp_path / f"{layout}.pt", layout=layout)
        assert read(tmp_path / f"{layout}.pt")["cfg"]["model"]["_name"] == name
        loaded = load_finetuned(tmp_path / f"{layout}.pt")
        before = load_finetuned(weights_run.path()).model
        for samples in (4000, 4320):
            assert torch.equal(alone(loaded.model, samples), alone(before, samples))
    with pytest.raises(UserError, match="unknown layout 'hubrt'; did you mean 'hubert'"):
        fold(weights_run.path(), tmp_path / "other.pt", layout="hubrt")


def test_fairseqs_own_finetuned_models_load(lab: Lab, tmp_path: Path) -> None:
    """`hubert_ctc` as fairseq saves it: with heads of pretraining, its dictionaries gone."""
    ours = tmp_path / "ours.pt"
    write_finetuned(ours, lab.hubert, lab.data)
    state = torch.load(ours, weights_only=True)
    targets = torch.load(lab.hubert, weights_only=True)["model"]["label_embs_concat"]
    state["model"][f"{ENCODER}label_embs_concat"] = targets
    state["cfg"]["model"]["_name"] = "hubert_ctc"
    theirs = tmp_path / "theirs.pt"
    torch.save(state, theirs)
    loaded = load_finetuned(theirs)
    assert torch.equal(logits(loaded.model), logits(load_finetuned(ours).model))
    apply_masks(theirs, _masks_of(lab, tmp_path), tmp_path / "masked.pt")
    assert load_finetuned(tmp_path / "masked.pt").density == pytest.approx(0.5, abs=0.01)


def _masks_of(lab: Lab, folder: Path):
    settings = {"_name": "wav2vec_ctc_st", "prune_rate": 0.5, "trainable_proj": True}
    path = write_finetuned(folder / "st.pt", lab.hubert, lab.data, model=settings)
    return read_checkpoint_masks(path)


def test_files_are_rewritten(masks_run: Run, tmp_path: Path) -> None:
    """Averaged, without layers, and as an encoder to begin from."""
    average(masks_run.folder, tmp_path / "mean.pt", by="last")
    assert load_finetuned(tmp_path / "mean.pt").density < 1.0
    drop_layers(masks_run.path(), [1], tmp_path / "short.pt")
    assert depth(tmp_path / "short.pt") == 1
    assert load_finetuned(tmp_path / "short.pt").density < 1.0
    export_encoder(masks_run.path(), tmp_path / "encoder.pt")
    exported, own = load_encoder(tmp_path / "encoder.pt"), load_finetuned(masks_run.path()).model
    audio = torch.randn(1, 8000)
    family = find_backbone(exported)
    with torch.no_grad():
        expected, _ = family.features(encoder_of_model(own), audio, None)
        assert torch.equal(family.features(exported, audio, None)[0], expected)


def test_finetuning_goes_on_from_an_exported_encoder(masks_run: Run, lab: Lab) -> None:
    encoder = masks_run.folder / "encoder.pt"
    export_encoder(masks_run.path(), encoder)
    lab.train("from-encoder", f"model.w2v_path={encoder}", "model._name=wav2vec_ctc").succeeded()


@pytest.mark.parametrize("kind", ["hubert", "hubert_large"])
def test_a_conversion_has_equal_outputs(kind: str, lab: Lab, tmp_path: Path) -> None:
    out = tmp_path / "converted.pt"
    convert(getattr(lab, kind), out)
    before, after = load_encoder(getattr(lab, kind)), load_encoder(out)
    assert type(after).__name__ == "Wav2Vec2Model"
    for samples in (4000, 4321, 8000):
        audio = torch.randn(2, samples)
        with torch.no_grad():
            expected = before.extract_features(audio, None, mask=False)[0]
            assert torch.equal(after.extract_features(audio, None, mask=False)["x"], expected)
    assert read(out)["cfg"]["task"]["normalize"] == (kind == "hubert_large")


def test_the_command_converts(lab: Lab, tmp_path: Path) -> None:
    found = CliRunner().invoke(
        commands, ["convert", str(lab.hubert), str(tmp_path / "out.pt"), "--half"]
    )
    assert found.exit_code == 0 and "a pretrained wav2vec2 checkpoint" in found.output
    weights = read(tmp_path / "out.pt")["model"]
    assert all(w.dtype == torch.float16 for w in weights.values() if w.is_floating_point())
    for arguments in ((lab.wav2vec2, tmp_path / "no.pt"), (lab.hubert, lab.hubert)):
        found = CliRunner().invoke(commands, ["convert", *map(str, arguments)])
        assert found.exit_code == 1 and len(found.stderr.splitlines()) == 1
    assert not (tmp_path / "no.pt").exists()


def test_a_converted_file_finetunes_in_fairseq(lab: Lab, tmp_path: Path) -> None:
    convert(lab.hubert, tmp_path / "converted.pt")
    path = f"model.w2v_path={tmp_path / 'converted.pt'}"
    lab.train("converted", path, "model._name=wav2vec_ctc").succeeded()


def test_a_finetuned_encoder_is_converted_with_its_masks(masks_run: Run, tmp_path: Path) -> None:
    convert(masks_run.path(), tmp_path / "converted.pt")
    export_encoder(masks_run.path(), tmp_path / "encoder.pt")
    audio = torch.randn(1, 4000)
    with torch.no_grad():
        expected = load_encoder(tmp_path / "encoder.pt").extract_features(audio)[0]
        found = load_encoder(tmp_path / "converted.pt").extract_features(audio, None)["x"]
    assert torch.equal(found, expected)


def test_other_families_are_not_converted(lab: Lab, tmp_path: Path) -> None:
    out = tmp_path / "out.pt"
    assert "holds a wav2vec2 model, which cannot be converted to" in refusal(
        convert, lab.wav2vec2, out
    )
    with pytest.raises(UserError, match="a hubert model, which cannot be converted to 'data2vec'"):
        convert(lab.hubert, out, to="data2vec")
    assert not out.exists()


def test_commands_evaluate_and_transcribe(masks_run: Run, lab: Lab) -> None:
    arguments = ["evaluate", str(masks_run.path()), "--data", str(lab.data), "--subset", "valid"]
    found = CliRunner().invoke(commands, arguments)
    assert found.exit_code == 0 and "WER" in found.output, found.output
    audio = sorted((lab.data / "audio").glob("valid-*.wav"))[0]
    found = CliRunner().invoke(commands, ["transcribe", str(masks_run.path()), str(audio)])
    assert found.exit_code == 0 and str(audio) in found.output


def test_commands_find_layers_and_look_at_masks(
    masks_run: Run, weights_run: Run, lab: Lab, tmp_path: Path
) -> None:
    """One after the other, each on what the ones before it wrote."""
    data = ("--data", lab.data, "--subset", "valid")
    measure = ("--measure", "cka", "--mode", "T", "--out", tmp_path / "similarity")
    matrix, mask = tmp_path / "similarity" / "cka.safetensors", tmp_path / "mask.safetensors"
    for line in (
        ("layers", "similarity", weights_run.path(), *data, *measure),
        ("layers", "search", matrix, "--drop", 1, "--out", tmp_path / "plans.json"),
        ("layers", "verify", weights_run.path(), tmp_path / "plans.json", *data),
        ("layers", "greedy", weights_run.path(), "--drop", 1, *data),
        ("layers", "drop", masks_run.path(), tmp_path / "plans.json", tmp_path / "short.pt"),
        ("masks", "make", lab.hubert, mask, "--by", "global-random", "--sparsity", 0.5),
        ("masks", "export", masks_run.path(), tmp_path / "exported.safetensors"),
        ("masks", "stats", tmp_path / "exported.safetensors"),
        ("masks", "compare", masks_run.path(), tmp_path / "exported.safetensors"),
        ("masks", "apply", weights_run.path(), mask, tmp_path / "applied.pt"),
        ("masks", "iou", lab.hubert, weights_run.path()),
        ("evaluate", tmp_path / "applied.pt", *data),
        ("average", masks_run.folder, tmp_path / "average.pt", "--by", "last"),
    ):
        found = CliRunner().invoke(commands, [str(word) for word in line])
        assert found.exit_code == 0, (line, found.output)
    assert load_finetuned(tmp_path / "applied.pt").density == pytest.approx(0.5, abs=1e-3)


def test_short_audio_has_no_text(masks_run: Run) -> None:
    loaded = load_finetuned(masks_run.path())
    assert transcribe(loaded, [torch.zeros(100).numpy(), torch.randn(8000).numpy()])[0] == ""


@pytest.mark.parametrize("name", [WEIGHTS, ROUTER])
def test_audio_is_normalised_as_in_pretraining(name: str, lab: Lab) -> None:
    """By fairseq's own model too, without speechprune's own checks before training."""
    flags = (f"model._name={name}", f"model.w2v_path={lab.hubert_large}")
    build(lab.compose(*flags, "task.normalize=true"))
    message = refusal(build, lab.compose(*flags, "task.normalize=false"))
    assert "was pretrained with normalize=true, not false" in message


def test_a_file_without_its_encoder_is_refused(lab: Lab, tmp_path: Path) -> None:
    path = write_hubert(tmp_path / "hubert.pt")
    state = torch.load(path, weights_only=True)
    state["model"] = {k: v for k, v in state["model"].items() if not k.startswith("encoder.")}
    torch.save(state, path)
    assert "lacks weights of its own model, such as encoder." in refusal(load_encoder, path)
    found = lab.train("without-encoder", f"model.w2v_path={path}")
    assert found.exit_code and "lacks weights of its own model" in found.output


@pytest.mark.parametrize("name", ["wavlm", "w2v_bert", "data2vec_multi"])
def test_an_unknown_family_is_refused_in_one_line(name: str, lab: Lab, tmp_path: Path) -> None:
    state = torch.load(lab.hubert, weights_only=True)
    state["cfg"]["model"]["_name"] = name
    path = tmp_path / f"{name}.pt"
    torch.save(state, path)
    for load in (load_encoder, depth):
        message = refusal(load, path)
        assert f"'{name}'" in message and "data2vec_audio, hubert, roberta, wav2vec2" in message
    found = CliRunner().invoke(
        commands, ["layers", "drop", str(path), "1", str(tmp_path / "out.pt")]
    )
    assert found.exit_code == 1 and f"{path}: " in found.stderr
