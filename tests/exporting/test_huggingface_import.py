"""Imported checkpoints: round trips, public layouts, foreign vocabularies, and training on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from exported import FAMILIES, Exports, audio, outputs, transformers_model
from hugging_face import SETTINGS
from loop import Lab

import speechprune.huggingface  # noqa: F401  (before transformers)  # isort: skip

from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCTC,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForPreTraining,
    Wav2Vec2ForSequenceClassification,
    Wav2Vec2Processor,
)

from speechprune.checkpoint import read
from speechprune.decoding.inference import transcribe
from speechprune.exporting.huggingface_import import import_huggingface
from speechprune.models.loading import load_pretrained, load_recogniser
from speechprune.tools.main import commands

#: What makes small models of Hugging Face's own classes, with layer norms where these have them.
FOREIGN: dict[str, tuple[str, dict[str, Any]]] = {
    "wav2vec2": ("wav2vec2", {}),
    "stable": (
        "wav2vec2",
        {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True},
    ),
    "hubert": ("hubert", {}),
    "batch norm": ("hubert", {"conv_pos_batch_norm": True, "hidden_act": "relu"}),
    "data2vec": (
        "data2vec-audio",
        {
            "num_conv_pos_embeddings": 3,
            "conv_pos_kernel_size": 5,
            "num_conv_pos_embedding_groups": 4,
        },
    ),
}
LETTERS = {"a": 0, "b": 1, "c": 2, "|": 3, "[UNK]": 4, "[PAD]": 5}


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory.mktemp("exports"))


def foreign(name: str, kind: Any = AutoModel, **settings: Any) -> Any:
    """A small model of Hugging Face's with random weights, none of them at zero."""
    model_type, variant = FOREIGN[name]
    own = {**SETTINGS["wav2vec2"], "initializer_range": 0.3, **variant, **settings}
    config = AutoConfig.for_model(model_type, **own)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
        for parameter in model.parameters():
            if not parameter.any():
                parameter.data.normal_(0.0, 0.1)
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith(("running_mean", "running_var")):
                buffer.uniform_(0.5, 1.5)
    return model.eval()


def saved(model: Any, folder: Path, *, normalize: bool = False) -> Path:
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=normalize, return_attention_mask=True).save_pretrained(
        folder
    )
    return folder


def saved_ctc(model: Any, folder: Path, vocabulary: dict[str, int], **tokens: str) -> Path:
    folder.mkdir()
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), **tokens)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_a_finetuned_round_trip_is_bit_equal(family: str, exports: Exports, tmp_path: Path) -> None:
    path, out = exports.ctc(family), tmp_path / "back.pt"
    import_huggingface(exports.folder_of(path), out, tolerance=5e-3)
    before, after = read(path), read(out)
    assert before["model"].keys() == after["model"].keys()
    assert all(torch.equal(t, after["model"][name]) for name, t in before["model"].items())
    one, other = load_recogniser(path), load_recogniser(out)
    assert one.dictionary.symbols == other.dictionary.symbols
    assert one.cfg.task.normalize == other.cfg.task.normalize
    samples = [each.numpy() for each in audio(16000, 9000)]
    assert transcribe(one, samples) == transcribe(other, samples)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_encoders_round_trip_is_bit_equal(family: str, exports: Exports, tmp_path: Path) -> None:
    path, out = exports.pretrained(family), tmp_path / "back.pt"
    import_huggingface(exports.folder_of(path), out)
    encoder, after = load_pretrained(path).state_dict(), read(out)["model"]
    assert encoder.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in encoder.items())


@pytest.mark.parametrize("name", FOREIGN)
def test_models_of_hugging_face_give_the_same_here(name: str, tmp_path: Path) -> None:
    model = foreign(name)
    import_huggingface(saved(model, tmp_path / "theirs"), tmp_path / "ours.pt")
    encoder = load_pretrained(tmp_path / "ours.pt")
    for samples in audio(400, 1005, 2000):
        with torch.inference_mode():
            found = encoder.extract_features(samples[None], None, mask=False)
        ours = found["x"] if isinstance(found, dict) else found[0]
        torch.testing.assert_close(ours, outputs(model, samples[None]), atol=2e-5, rtol=0)


def test_settings_of_training_come_along(tmp_path: Path) -> None:
    model = foreign("wav2vec2", hidden_dropout=0.2, layerdrop=0.3, mask_time_prob=0.4)
    import_huggingface(saved(model, tmp_path / "theirs"), tmp_path / "ours.pt")
    settings = read(tmp_path / "ours.pt")["cfg"]["model"]
    found = [settings[name] for name in ("dropout", "encoder_layerdrop", "mask_prob")]
    assert found == [0.2, 0.3, 0.4]


def test_the_blank_may_be_the_last_output(tmp_path: Path) -> None:
    """As in models that Hugging Face's own recipes train, with marks that the head lacks."""
    model = foreign("wav2vec2", AutoModelForCTC, vocab_size=6, pad_token_id=5)
    model.lm_head.weight.data *= 20
    tokens = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    folder = saved_ctc(model, tmp_path / "theirs", LETTERS, **tokens)
    import_huggingface(folder, tmp_path / "ours.pt", tolerance=1e-3)
    loaded = load_recogniser(tmp_path / "ours.pt")
    assert loaded.dictionary.symbols == ["<s>", "<pad>", "</s>", "<unk>", "a", "b", "c", "|"]
    processor = Wav2Vec2Processor.from_pretrained(folder)
    model.lm_head.bias.data[4] = -1000.0  # the unknown is written in two ways
    texts = []
    for samples in audio(3000, 8000):
        inputs = processor(samples.numpy(), sampling_rate=16000, return_tensors="pt")
        (text,) = processor.batch_decode(model(**inputs).logits.argmax(-1))
        texts.append(" ".join(text.split()))
    import_huggingface(
        saved_ctc(model, tmp_path / "again", LETTERS, **tokens),
        tmp_path / "again.pt",
        tolerance=1e-3,
    )
    loaded = load_recogniser(tmp_path / "again.pt")
    ours = [transcribe(loaded, [samples.numpy()])[0] for samples in audio(3000, 8000)]
    assert ours == texts and len(set("".join(ours))) > 2


def test_another_word_end_becomes_ours(tmp_path: Path) -> None:
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "#": 4, "a": 5, "b": 6}
    model = foreign("hubert", AutoModelForCTC, vocab_size=7)
    folder = saved_ctc(model, tmp_path / "theirs", vocabulary, word_delimiter_token="#")
    import_huggingface(folder, tmp_path / "ours.pt")
    found = read(tmp_path / "ours.pt")
    assert found["task_state"]["target_dictionary"].symbols[4:] == ["|", "a", "b"]
    # The same outputs in the same order: only names change.
    head = load_file(folder / "model.safetensors")["lm_head.weight"]
    assert torch.equal(found["model"]["w2v_encoder.proj.weight"], head)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "shards"])
def test_weights_of_older_files(name: str, exports: Exports, tmp_path: Path) -> None:
    """Weight norm as before torch 2, in one file or several, of either kind."""
    source = exports.folder_of(exports.pretrained("base"))
    folder = Path(shutil.copytree(source, tmp_path / "older"))
    tensors = {
        key.replace(".parametrizations.weight.original0", ".weight_g").replace(
            ".parametrizations.weight.original1", ".weight_v"
        ): tensor
        for key, tensor in load_file(folder / "model.safetensors").items()
    }
    (folder / "model.safetensors").unlink()
    if name == "shards":
        names = sorted(tensors)
        index = {}
        for number, part in enumerate((names[::2], names[1::2])):
            file = f"model-{number}.safetensors"
            save_file({key: tensors[key] for key in part}, folder / file)
            index.update(dict.fromkeys(part, file))
        content = json.dumps({"metadata": {}, "weight_map": index})
        (folder / "model.safetensors.index.json").write_text(content)
    elif name.endswith(".bin"):
        torch.save(tensors, folder / name)
    else:
        save_file(tensors, folder / name)
    import_huggingface(source, tmp_path / "one.pt")
    import_huggingface(folder, tmp_path / "other.pt")
    one, other = read(tmp_path / "one.pt")["model"], read(tmp_path / "other.pt")["model"]
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_the_quantizer_of_pretraining_comes_along(tmp_path: Path) -> None:
    sizes = {
        "num_codevectors_per_group": 6,
        "codevector_dim": 12,
        "proj_codevector_dim": 10,
        "num_codevector_groups": 2,
    }
    model = foreign("wav2vec2", Wav2Vec2ForPreTraining, **sizes)
    import_huggingface(saved(model, tmp_path / "theirs"), tmp_path / "ours.pt")
    from fairseq import models
    from omegaconf import OmegaConf

    state = read(tmp_path / "ours.pt")
    ours = models.build_model(OmegaConf.create(state["cfg"]["model"]), None, from_checkpoint=True)
    ours.load_state_dict(state["model"], strict=True)
    ours.eval()
    samples = audio(2000)[0][None]
    with torch.inference_mode():
        theirs = model(samples)
        found = ours(samples, mask=False, features_only=True)
        projected = ours.final_proj(found["x"])
        quantized = ours.project_q(ours.quantizer(found["features"])["x"])
    torch.testing.assert_close(projected, theirs.projected_states, atol=2e-5, rtol=0)
    torch.testing.assert_close(quantized, theirs.projected_quantized_states, atol=2e-5, rtol=0)


def test_other_heads_are_left_out_and_told(tmp_path: Path) -> None:
    model = foreign("wav2vec2", Wav2Vec2ForSequenceClassification, mask_time_prob=0.0)
    folder = saved(model, tmp_path / "theirs")
    result = CliRunner().invoke(
        commands, ["import", "huggingface", str(folder), str(tmp_path / "ours.pt")]
    )
    assert result.exit_code == 0, result.output
    assert "ours.pt: a pretrained wav2vec2 checkpoint" in result.output
    assert "classifier.bias, classifier.weight, projector.bias" in result.output
    assert "the embedding of masked spans is zeros" in result.output
    assert not read(tmp_path / "ours.pt")["model"]["mask_emb"].any()


def test_what_is_imported_trains_here(exports: Exports, tmp_path: Path) -> None:
    """The pretrained one under masks, and the finetuned one further, with its head."""
    lab = Lab(tmp_path)
    encoder, whole = tmp_path / "encoder.pt", tmp_path / "whole.pt"
    import_huggingface(exports.folder_of(exports.pretrained("base")), encoder)
    import_huggingface(exports.folder_of(exports.ctc("base")), whole, tolerance=5e-3)
    begun = lab.train(
        "masked",
        f"model.w2v_path={encoder}",
        "model._name=wav2vec_ctc_st",
        "model.prune_rate=0.5",
    ).succeeded()
    weight = "w2v_encoder.w2v_model.encoder.layers.0.fc1.weight"
    own = read(encoder)["model"]["encoder.layers.0.fc1.weight"]
    assert torch.equal(begun.model()[weight], own)
    further = lab.train(
        "further",
        f"model.w2v_path={encoder}",
        f"checkpoint.finetune_from_model={whole}",
        "optimization.lr=[0.0]",
    ).succeeded()
    head = "w2v_encoder.proj.weight"
    assert torch.equal(further.model()[head], read(whole)["model"][head])


def test_an_imported_model_goes_out_again(tmp_path: Path) -> None:
    """What Hugging Face's own classes made comes back to them through fairseq."""
    from speechprune.exporting.huggingface_export import export_huggingface

    model = foreign("hubert")
    import_huggingface(saved(model, tmp_path / "theirs"), tmp_path / "ours.pt")
    export_huggingface(tmp_path / "ours.pt", tmp_path / "again")
    state = transformers_model(tmp_path / "again").state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
