"""Masks of checkpoints with where they came from, as far as the file tells."""

from __future__ import annotations

from pathlib import Path

from checkpoints import MASKS, rewrite
from nano import write_corpus, write_finetuned, write_wav2vec2

from speechprune.models.mask_reading import read_checkpoint_masks


def test_masks_do_not_need_the_settings_of_their_model(tmp_path: Path) -> None:
    data = write_corpus(tmp_path / "data", train=1, valid=1)
    pretrained = write_wav2vec2(tmp_path / "pretrained.pt")
    path = write_finetuned(tmp_path / "finetuned.pt", pretrained, data, model=MASKS)
    whole = read_checkpoint_masks(path)
    rewrite(path, lambda state: state["cfg"].pop("model"))
    found = read_checkpoint_masks(path)
    assert found == whole
    assert {"backbone", "settings"} <= whole.provenance.keys() - found.provenance.keys()
