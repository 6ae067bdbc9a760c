"""Exported folders: transformers loads them, and gives what the checkpoint gives."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import refusal, rewrite
from click.testing import CliRunner
from exported import (
    FAMILIES,
    PAD_ALIKE,
    Exports,
    audio,
    make_talkative,
    outputs,
    transformers_model,
)
from mask_files import MASKED
from model_banks import Lab
from nano import write_finetuned

import speechprune.huggingface  # noqa: F401  (before transformers)  # isort: skip

import numpy as np
from safetensors.torch import load_file
from transformers import AutoModelForCTC, AutoProcessor

from speechprune.checkpoint import digest, read
from speechprune.decoding.inference import (
    evaluate,
    read_audio,
    read_references,
    transcribe,
)
from speechprune.exporting import huggingface_export
from speechprune.exporting.huggingface_export import export_huggingface
from speechprune.exporting.huggingface_import import import_huggingface
from speechprune.files import digest as digest_of_file
from speechprune.models.loading import load_finetuned, load_pretrained, load_recogniser
from speechprune.rewriting.banking import add
from speechprune.rewriting.layer_dropping import drop_layers
from speechprune.state_names import HEAD
from speechprune.tools.main import commands

LENGTHS = (6000, 6400, 16000, 16399)


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    return Exports(tmp_path_factory.mktemp("exports"))


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_fairseq(family: str, exports: Exports) -> None:
    """Unpadded, at odd and even counts of frames, of audio that both hear as it is."""
    path = exports.ctc(family)
    model = transformers_model(exports.folder_of(path))
    loaded = load_recogniser(path)
    for samples in audio(*LENGTHS):
        with torch.inference_mode():
            ours = loaded.model(source=samples[None], padding_mask=None)["encoder_out"]
        theirs = outputs(model, samples[None])
        assert theirs.shape == ours.transpose(0, 1).shape
        # Logits of hundreds: the head of these models is 50 times as loud as an untrained one.
        torch.testing.assert_close(theirs, ours.transpose(0, 1), atol=5e-4, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_encoder_gives_what_fairseqs_does(family: str, exports: Exports) -> None:
    path = exports.pretrained(family)
    model = transformers_model(exports.folder_of(path))
    encoder = load_pretrained(path)
    for samples in audio(*LENGTHS):
        with torch.inference_mode():
            found = encoder.extract_features(samples[None], None, mask=False)
        ours = found["x"] if isinstance(found, dict) else found[0]
        torch.testing.assert_close(outputs(model, samples[None]), ours, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_card_says_what_padding_does(family: str, exports: Exports) -> None:
    """Padded batches agree with utterances alone in the families of which the card says so."""
    folder = exports.folder_of(exports.pretrained(family))
    model = transformers_model(folder)
    long, short = audio(16000, 9000)
    batch = torch.stack([long, torch.nn.functional.pad(short, (0, 7000))])
    mask = torch.ones(2, 16000, dtype=torch.long)
    mask[1, 9000:] = 0
    alone = outputs(model, short[None])[0]
    together = outputs(model, batch, mask)[1, : len(alone)]
    agree = torch.allclose(alone, together, atol=1e-5)
    assert agree == (family in PAD_ALIKE)
    said = "has the outputs that it has alone" in (folder / "README.md").read_text()
    assert said == agree


def test_padded_batches_give_fairseqs_own_padded_outputs(exports: Exports) -> None:
    """Of data2vec, whose later convolutions for positions hear padding in both libraries."""
    path = exports.pretrained("data2vec")
    model, encoder = transformers_model(exports.folder_of(path)), load_pretrained(path)
    batch = torch.stack([*audio(16000), torch.nn.functional.pad(audio(9000)[0], (0, 7000))])
    mask = torch.ones(2, 16000, dtype=torch.long)
    mask[1, 9000:] = 0
    with torch.inference_mode():
        found = encoder.extract_features(batch, mask == 0, mask=False)
    frames = (~found["padding_mask"][1]).sum()
    theirs = outputs(model, batch, mask)
    torch.testing.assert_close(theirs[1, :frames], found["x"][1, :frames], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["base", "xlsr", "data2vec"])
def test_transformers_writes_the_same_text(family: str, exports: Exports) -> None:
    path = exports.ctc(family)
    folder = exports.folder_of(path)
    recordings = [read_audio(f, 16000) for f in sorted((exports.data / "audio").glob("valid-*"))]
    ours = [transcribe(load_recogniser(path), [each])[0] for each in recordings]
    assert ours == _texts(folder, recordings)
    assert len(set("".join(ours))) > 2 and any(" " in text for text in ours)


def test_transformers_writes_the_same_text_of_real_digits(
    exports: Exports, shared_data: Path, tmp_path: Path
) -> None:
    path = exports.ctc("xlsr")
    with tarfile.open(shared_data / "fsdd" / "fsdd-5speakers.tar") as archive:
        names = sorted(name for name in archive.getnames() if name.endswith(".flac"))[::200][:12]
        for name in names:
            archive.extract(name, tmp_path)
    recordings = [read_audio(tmp_path / name, 16000) for name in names]
    assert len(recordings) > 5
    ours = [transcribe(load_recogniser(path), [each])[0] for each in recordings]
    assert ours == _texts(exports.folder_of(path), recordings) and len(set(ours)) > 2


def _texts(folder: Path, recordings: list[np.ndarray]) -> list[str]:
    model, processor = (
        AutoModelForCTC.from_pretrained(folder),
        AutoProcessor.from_pretrained(folder),
    )
    texts = []
    for samples in recordings:
        inputs = processor(samples, sampling_rate=16000, return_tensors="pt")
        with torch.inference_mode():
            texts += processor.batch_decode(model(**inputs).logits.argmax(-1))
    # Two word ends without a word between them are two blanks there, and one here.
    return [" ".join(text.split()) for text in texts]


def test_units_stay_apart(exports: Exports, tmp_path: Path) -> None:
    """A model whose dictionary has no word end writes units, with a blank between them."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "dict.ltr.txt").write_text("AA 1\nB 1\nCH 1\nD 1\nEH 1\nF 1\n")
    path = write_finetuned(tmp_path / "units.pt", exports.pretrained("xlsr"), data)
    rewrite(path, make_talkative)
    samples = [each.numpy() for each in audio(16000)]
    ours = transcribe(load_recogniser(path), samples)
    export_huggingface(path, tmp_path / "units", tolerance=5e-3)
    assert ours == _texts(tmp_path / "units", samples) and " " in ours[0]
    import_huggingface(tmp_path / "units", tmp_path / "back.pt", tolerance=5e-3)
    back = load_recogniser(tmp_path / "back.pt")
    assert transcribe(back, samples) == ours and back.cfg.task.labels == "phn"


def test_masks_are_baked_in(exports: Exports) -> None:
    path = exports.ctc("base", **MASKED)
    folder = exports.folder_of(path)
    loaded = load_recogniser(path)
    weights = load_file(folder / "model.safetensors")
    weight = weights["wav2vec2.encoder.layers.0.feed_forward.intermediate_dense.weight"]
    assert float((weight != 0).float().mean()) == pytest.approx(0.7, abs=0.05)
    samples = audio(16000)[0]
    with torch.inference_mode():
        ours = loaded.model(source=samples[None], padding_mask=None)["encoder_out"]
    theirs = outputs(transformers_model(folder), samples[None])
    torch.testing.assert_close(theirs, ours.transpose(0, 1), atol=5e-4, rtol=1e-5)
    card = (folder / "README.md").read_text()
    assert f"| Density | {loaded.density:.4f} of" in card
    assert digest(path) == digest_of_file(path) and f"`{digest(path)}`" in card


def test_dropped_layers_are_fewer_layers(exports: Exports, tmp_path: Path) -> None:
    drop_layers(exports.ctc("xlsr"), [0], tmp_path / "short.pt")
    export_huggingface(tmp_path / "short.pt", tmp_path / "short", tolerance=5e-3)
    assert json.loads((tmp_path / "short" / "config.json").read_text())["num_hidden_layers"] == 1
    card = (tmp_path / "short" / "README.md").read_text()
    assert "| Layers | 1 of 2: without 0, counted from 0 |" in card


@pytest.mark.parametrize("family", ["base", "data2vec", "hubert"])
def test_a_slot_of_labels(family: str, tmp_path: Path) -> None:
    lab = Lab(tmp_path, FAMILIES[family])
    path = lab.labelled("labels")
    assert "tells 2 slots" in refusal(export_huggingface, path, tmp_path / "both")
    _keep_one_slot(path)
    export_huggingface(path, tmp_path / "one")
    model = transformers_model(tmp_path / "one")
    assert model.config.id2label == {0: "high", 1: "low", 2: "middle"}
    samples = audio(16000)[0]
    with torch.inference_mode():
        ours = load_finetuned(path).model(source=samples[None], padding_mask=None)["logits"]
    torch.testing.assert_close(outputs(model, samples[None]), ours, atol=1e-5, rtol=0)


def test_labels_after_the_last_norm_are_refused(tmp_path: Path) -> None:
    lab = Lab(tmp_path, FAMILIES["xlsr"])
    path = _keep_one_slot(lab.labelled("labels"))
    message = refusal(export_huggingface, path, tmp_path / "one")
    assert "begin with their norm" in message and not (tmp_path / "one").exists()


def _keep_one_slot(path: Path) -> Path:
    def cut(state: dict[str, Any]) -> None:
        state["task_state"]["slots"] = state["task_state"]["slots"][:1]
        for part in ("weight", "bias"):
            state["model"][f"{HEAD}output.{part}"] = state["model"][f"{HEAD}output.{part}"][:3]

    return rewrite(path, cut)


def test_half_precision_stays_half(exports: Exports, tmp_path: Path) -> None:
    path = Path(shutil.copy(exports.pretrained("xlsr"), tmp_path / "half.pt"))
    rewrite(path, lambda s: s.update(model={k: v.half() for k, v in s["model"].items()}))
    export_huggingface(path, tmp_path / "half")
    tensors = load_file(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    import_huggingface(tmp_path / "half", tmp_path / "back.pt")
    before, after = read(path)["model"], read(tmp_path / "back.pt")["model"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


def test_a_task_of_a_bank(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    path = lab.finetuned("spanish", MASKED)
    add(lab.bank, "es", path, percent=12.5)
    line = ["export", "huggingface", str(lab.bank), str(tmp_path / "es")]
    result = CliRunner().invoke(commands, line)
    assert result.exit_code == 1 and "by --task (es)" in result.output
    result = CliRunner().invoke(commands, [*line, "--task", "es"])
    assert result.exit_code == 0, result.output
    export_huggingface(path, tmp_path / "alone")
    one, other = (load_file(tmp_path / f / "model.safetensors") for f in ("es", "alone"))
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    card = (tmp_path / "es" / "README.md").read_text()
    assert "task es" in card and "| Error rate | 12.50 % WER |" in card
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_the_error_rate_is_measured(exports: Exports, tmp_path: Path) -> None:
    path = exports.ctc("xlsr")
    export_huggingface(path, tmp_path / "out", tolerance=5e-3, measured_on=(exports.data, "valid"))
    loaded = load_recogniser(path)
    rate = 100 * evaluate(loaded, read_references(loaded, exports.data, "valid")).words.rate
    assert f"| Error rate | {rate:.2f} % WER on valid |" in (tmp_path / "out/README.md").read_text()


def test_what_differs_is_not_kept(
    exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A configuration of another network is noticed, and leaves nothing behind."""
    path, right = exports.ctc("base"), huggingface_export.config_of
    monkeypatch.setattr(
        huggingface_export, "config_of", lambda network: {**right(network), "hidden_act": "relu"}
    )
    message = refusal(export_huggingface, path, tmp_path / "out")
    assert "the outputs of the Hugging Face folder differ" in message
    assert list(tmp_path.iterdir()) == []


def test_equal_exports_are_equal_bytes(exports: Exports, tmp_path: Path) -> None:
    path = exports.ctc("base")
    for name in ("one", "two"):
        export_huggingface(path, tmp_path / name / "out", tolerance=5e-3)
    for file in sorted((tmp_path / "one" / "out").iterdir()):
        assert file.read_bytes() == (tmp_path / "two" / "out" / file.name).read_bytes(), file.name
