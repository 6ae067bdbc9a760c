"""Models that are loaded are built without drawing random weights, and have the file's weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nano import write_corpus, write_data2vec, write_finetuned, write_hubert, write_wav2vec2
from torch import nn

from speechprune.models import loading
from speechprune.models.loading import load_finetuned, load_pretrained
from speechprune.models.uninitialised import Uninitialised


def test_nothing_is_drawn_within_it_and_all_again_after_it() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    with Uninitialised():
        layer = nn.Linear(3, 4)
        nn.init.xavier_normal_(layer.weight)
        layer.weight.data.normal_()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert nn.Linear(3, 4).weight.abs().sum() > 0
    assert not torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("write", [write_wav2vec2, write_data2vec, write_hubert])
def test_loading_leaves_no_tensor_out(
    write: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that held something else before shows in no tensor."""
    empty = torch.nn.parameter.Parameter.__new__

    def damaged(cls: type, data: torch.Tensor | None = None, requires_grad: bool = True) -> object:
        if data is not None and data.is_floating_point():
            data.data.fill_(float("nan"))
        return empty(cls, data, requires_grad)

    pretrained = write(tmp_path / "pretrained.pt")  # type: ignore[operator]
    data = write_corpus(tmp_path / "data", train=1, valid=1)
    masks = {"_name": "wav2vec_ctc_st", "prune_rate": 0.5}
    finetuned = write_finetuned(tmp_path / "finetuned.pt", pretrained, data, model=masks)
    wanted = load_pretrained(pretrained).state_dict()
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.parameter.Parameter, "__new__", staticmethod(damaged))
        patch.setattr(loading, "load_weights", _whole(loading.load_weights, patch))
        encoder = load_pretrained(pretrained)
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, wanted[key]), key
    model = load_finetuned(finetuned).model
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def _whole(load: object, patch: pytest.MonkeyPatch) -> object:
    """Let parameters be as usual again once the model is built."""

    def load_whole(*arguments: object) -> None:
        patch.undo()
        load(*arguments)  # type: ignore[operator]

    return load_whole
