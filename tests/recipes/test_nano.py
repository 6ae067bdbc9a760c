"""The nano model that comes along, and the recipe that made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils
from omegaconf import OmegaConf
from torch.nn import functional as F

from speechprune.errors import UserError
from speechprune.manifests.espeak import Voice, speak
from speechprune.manifests.synthetic import SyntheticSpeech, make_synthetic
from speechprune.models.loading import load_pretrained
from speechprune.recipes.nano import ASSET, pretrain_nano
from speechprune.rewriting.conversion import convert

#: Of keys that the help and `make deep-nano` name.
SHORT = (
    *("optimization.max_update=2", "dataset.max_tokens=100000"),
    *("lr_scheduler.warmup_updates=1", "optimization.lr=[0.001]"),
)


def strings_in(value: Any) -> list[str]:
    """Every text in nested containers."""
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in strings_in(part)]
    if isinstance(value, (list, tuple)):
        return [text for part in value for text in strings_in(part)]
    return [value] if isinstance(value, str) else []


def check_exported(path: Path) -> dict[str, Any]:
    """The state in an exported encoder, after a look at what must and must not be in it."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    assert path.stat().st_size <= 4_000_000
    assert all(tensor.dtype == torch.float16 for tensor in state["model"].values())
    assert not [
        key
        for key in state["model"]
        if key.startswith(("quantizer", "project_q", "final", "label"))
    ]
    assert "last_optimizer_state" not in state
    settings = {key: value for key, value in state.items() if key != "model"}
    assert not [text for text in strings_in(settings) if "/" in text or "\\" in text]
    assert state["cfg"]["task"]["data"] == "."
    return state


def test_asset_is_small_and_holds_the_encoder_alone() -> None:
    state = check_exported(ASSET)
    assert state["optimizer_history"][-1]["num_updates"] >= 250
    assert not state["cfg"]["task"]["normalize"]


def test_asset_has_the_frame_rate_of_wav2vec2() -> None:
    model = load_pretrained(ASSET).eval()
    with torch.no_grad():
        for frames in (1, 2, 50):
            # The first frame needs 400 samples, each further one 320.
            features = model.feature_extractor(torch.randn(1, 400 + 320 * (frames - 1)))
            assert features.shape[-1] == frames


def test_stock_fairseq_finetunes_from_the_asset() -> None:
    """`wav2vec_ctc` takes the file as `w2v_path`, and its parameters are the file's in float32."""
    from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig, Wav2VecEncoder

    cfg = OmegaConf.structured(Wav2Vec2CtcConfig(w2v_path=str(ASSET)))
    cfg = OmegaConf.create({**{key: cfg._get_node(key)._value() for key in cfg}})
    cfg.update(normalize=False, data=".", ddp_backend="legacy_ddp")
    encoder = Wav2VecEncoder(cfg, output_size=30)
    stored = torch.load(ASSET, weights_only=True)["model"]
    loaded = encoder.w2v_model.state_dict()
    assert set(loaded) == set(stored)
    for name, tensor in loaded.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, stored[name].float()), name


def test_asset_has_learned_to_hear() -> None:
    """Words are recognised across voices by their time-averaged frames; by chance 1 in 20 would be,
    and an untrained encoder of the same shape does worse."""
    trained = load_pretrained(ASSET).eval()
    torch.manual_seed(0)
    untrained = type(trained)(trained.cfg).eval()
    assert share_recognised(trained) > 0.5
    assert share_recognised(trained) > share_recognised(untrained) + 0.1


def share_recognised(model: torch.nn.Module) -> float:
    words = "moon lemon sister seven garden milk music winter doctor zero six eight dog horse bread"
    words += " button morning silver velvet yesterday"
    halves = []
    for variant, pitch in (("m3", 40), ("f4", 60)):
        spoken = [speak(word, Voice("gmw/en-US", variant, 170, pitch)) for word in words.split()]
        halves.append(torch.stack([pooled(model, samples) for samples in spoken]))
    similarity = halves[0] @ halves[1].T
    return float((similarity.argmax(1) == torch.arange(len(similarity))).float().mean())


def pooled(model: torch.nn.Module, samples: np.ndarray) -> torch.Tensor:
    """Frames of the last but one layer, in three parts of the word, averaged: one unit vector."""
    with torch.no_grad():
        source = torch.from_numpy(samples[samples.nonzero()[0][0] :])[None]
        result = model.extract_features(source, padding_mask=None, mask=False)
        frames = result["layer_results"][-2][0][:, 0]
    parts = torch.stack([part.mean(0) for part in frames.tensor_split(3)])
    return F.normalize(F.layer_norm(parts, parts.shape[-1:]).flatten(), dim=0)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the recipe ran for two updates on a little speech."""
    folder = tmp_path_factory.mktemp("nano")
    little = SyntheticSpeech(sizes={"train": 6, "valid": 2}, sentence=(4, 5), rate=(120, 130))
    make_synthetic(folder / "corpus", little)
    told: list[str] = []
    pretrain_nano(folder / "nano.pt", folder, overrides=SHORT, tell=told.append)
    (line,) = told
    assert "pretraining, 2 updates" in line
    return folder


def test_the_recipe_makes_such_a_file(pretrained: Path) -> None:
    state = check_exported(pretrained / "nano.pt")
    asset = torch.load(ASSET, weights_only=True)
    shapes = {name: tensor.shape for name, tensor in asset["model"].items()}
    assert {name: tensor.shape for name, tensor in state["model"].items()} == shapes
    assert state["cfg"]["model"] == asset["cfg"]["model"]
    assert state["optimizer_history"][-1]["num_updates"] == 2


def test_export_keeps_the_weights(pretrained: Path, tmp_path: Path) -> None:
    checkpoint = pretrained / "run" / "checkpoints" / "checkpoint_last.pt"
    convert(checkpoint, tmp_path / "out.pt", dtype=torch.float16)
    before = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint))["model"]
    after = checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "out.pt"))["model"]
    dropped = {name.partition(".")[0] for name in before.keys() - after.keys()}
    assert dropped == {"final_proj", "label_embs_concat"}
    for name, tensor in after.items():
        # Half of float16's spacing, or of its smallest number.
        bound = before[name].abs() * 2.0**-11 + 2.0**-25
        assert ((tensor.float() - before[name]).abs() <= bound).all(), name


@pytest.mark.parametrize("key", ["task.data", "task.labels", "model._name", "checkpoint.save_dir"])
def test_what_the_recipe_sets_is_its_own(tmp_path: Path, key: str) -> None:
    """Other data than it has spoken, or another model than it exports."""
    with pytest.raises(UserError, match=f"{key} is set by this recipe itself; "):
        pretrain_nano(tmp_path / "nano.pt", tmp_path / "nano", overrides=(f"{key}=other",))
    assert not list(tmp_path.iterdir())
