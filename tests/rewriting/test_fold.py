"""Folding: masks baked into a checkpoint that unmodified fairseq loads, with equal output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import MASKS, in_plain_fairseq, logits, refusal, rewrite
from nano import (
    write_corpus,
    write_finetuned,
    write_wav2vec2,
)

from speechprune.backbones.hubert import Hubert
from speechprune.checkpoint import digest, read
from speechprune.models.loading import load_finetuned
from speechprune.models.mask_reading import read_checkpoint_masks
from speechprune.models.plain import plain_model
from speechprune.rewriting.folding import fold


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("data"), train=1, valid=1)


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    return write_wav2vec2(tmp_path / "pretrained.pt")


def test_unmodified_fairseq_loads_a_folded_model(
    pretrained: Path, data: Path, tmp_path: Path
) -> None:
    path = write_finetuned(tmp_path / "masks.pt", pretrained, data, model=MASKS)
    (tmp_path / "out").mkdir()
    fold(path, tmp_path / "out" / "folded.pt")
    pretrained.unlink()

    found, output = in_plain_fairseq(tmp_path / "out" / "folded.pt", tmp_path)
    masked = load_finetuned(path)
    assert found == ["Wav2VecCtc", masked.dictionary.symbols, []]
    assert torch.equal(output, logits(masked.model, padded=False))


@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_fold_keeps_half_of_the_weights_in_their_type(
    pretrained: Path, data: Path, kind: torch.dtype
) -> None:
    path = write_finetuned(pretrained.parent / "masks.pt", pretrained, data, model=MASKS)
    weights = {
        k: v.to(kind) if v.is_floating_point() else v for k, v in read(path)["model"].items()
    }
    rewrite(path, lambda state: state.update(model=weights))
    out = pretrained.parent / "folded.pt"
    fold(path, out)
    key = "w2v_encoder.w2v_model.encoder.layers.0.fc1.weight"
    folded = read(out)["model"][key]
    kept = folded != 0
    assert kept.sum() == kept.numel() // 2
    assert folded.dtype == kind
    assert torch.equal(folded[kept], weights[key][kept])
    assert torch.equal(logits(load_finetuned(out).model), logits(load_finetuned(path).model))


def test_a_plain_model_has_nothing_to_fold(pretrained: Path, data: Path) -> None:
    path = write_finetuned(pretrained.parent / "weights.pt", pretrained, data)
    out = pretrained.parent / "folded.pt"
    assert "holds no masks to fold: it is a plain wav2vec_ctc" in refusal(fold, path, out)
    assert not out.exists()


def test_a_folded_model_remembers_what_it_was(pretrained: Path, data: Path, tmp_path: Path) -> None:
    path = write_finetuned(tmp_path / "masks.pt", pretrained, data, model=MASKS)
    out = tmp_path / "folded.pt"
    fold(path, out)
    (tmp_path / "dict.ltr.txt").unlink()
    loaded = load_finetuned(out)
    assert loaded.density == 0.5
    assert loaded.provenance["folded_from"] == digest(path)
    kept = {name: [int(m.sum()), m.numel()] for name, m in read_checkpoint_masks(path).items()}
    assert loaded.provenance["kept"] == kept and len(kept) > 12
    assert loaded.dictionary.symbols == load_finetuned(path).dictionary.symbols


def test_fold_leaves_another_alphabet_alone(pretrained: Path, data: Path, tmp_path: Path) -> None:
    path = write_finetuned(tmp_path / "masks.pt", pretrained, data, model=MASKS)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "dict.ltr.txt").write_text("X 1\n")
    assert "another model's alphabet" in refusal(fold, path, folder / "folded.pt")
    assert [file.name for file in folder.iterdir()] == ["dict.ltr.txt"]
    (folder / "dict.ltr.txt").unlink()
    (folder / "folded.pt").mkdir()
    assert "is a folder; name a file" in refusal(fold, path, folder / "folded.pt")
    assert [file.name for file in folder.iterdir()] == ["folded.pt"]


def test_a_network_that_no_plain_model_has_is_refused() -> None:
    """Of a family that fairseq cannot finetune, and that is not wav2vec 2.0 under another name."""

    class Other(Hubert):
        fairseq_name = "other"

        def settings_as(self, family: str, settings: Mapping[str, Any]) -> None:
            return None

    pretrained = {"w2v_args": {"model": {}, "task": {}}}
    message = refusal(plain_model(Other()).adapt, pretrained)
    assert "no CTC model for encoders of other" in message
    assert "unknown layout 'hubert'" in refusal(plain_model, Other(), "hubert")
