"""The recipe of the mini model, with a tiny network on a little speech."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from scipy.cluster.vq import kmeans2, vq

from speechprune.checksums import read_json, write_json
from speechprune.errors import UserError
from speechprune.files import digest
from speechprune.manifests.frame_units import check_frame_units
from speechprune.models.loading import load_pretrained
from speechprune.recipes import mini_speech
from speechprune.recipes.mini import CONFIG, MiniSettings, pretrain_mini
from speechprune.recipes.mini_speech import MiniSpeech
from speechprune.state_names import MASK_EMBEDDING
from speechprune.tools.main import commands
from speechprune.training.configs import find_config

TINY = (
    'model.conv_feature_layers="[(8,10,5)]+[(8,3,2)]*4+[(8,2,2)]*2"',
    *("model.encoder_layers=4", "model.encoder_embed_dim=16", "model.encoder_ffn_embed_dim=32"),
    *("model.encoder_attention_heads=2", "model.conv_pos=8", "model.conv_pos_groups=2"),
    *("model.final_dim=8", "model.encoder_layerdrop=0"),
    *("dataset.max_tokens=100000", "checkpoint.save_interval_updates=1"),
    # The first updates of a warm-up change little.
    "optimization.lr=[0.0001]",
)
UPDATES = (2, 3)
CLUSTERS = (6, 9)
MIDDLE = 2


@pytest.fixture(scope="module", autouse=True)
def two_languages() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mini_speech, "LANGUAGES", ("en", "fr"))
        patch.setattr(mini_speech, "_VALID", 2)
        yield


def settings(**changes: object) -> MiniSettings:
    known = {"speech": MiniSpeech(0.01), "updates": UPDATES, "clusters": CLUSTERS}
    return MiniSettings(**{**known, "overrides": TINY, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the recipe ran."""
    folder = tmp_path_factory.mktemp("mini")
    pretrain_mini(folder / "mini.pt", folder / "mini", settings())
    return folder


def last(folder: Path, iteration: int) -> Path:
    return folder / "mini" / f"run-{iteration}" / "checkpoints" / "checkpoint_last.pt"


def second_targets(folder: Path) -> Path:
    (found,) = (folder / "mini").glob("units-2-of-*")
    return found


def weights(path: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)[
        "model"
    ]
    return found


def test_a_wav2vec2_in_half_precision_comes_of_it(pretrained: Path) -> None:
    state = torch.load(pretrained / "mini.pt", weights_only=True)
    assert state["cfg"]["model"]["_name"] == "wav2vec2"
    assert state["optimizer_history"][-1]["num_updates"] == UPDATES[1]
    trained = weights(last(pretrained, 2))
    assert MASK_EMBEDDING in state["model"] and "label_embs_concat" not in state["model"]
    for name, tensor in state["model"].items():
        assert torch.equal(tensor, trained[name].half()), name
    assert str(pretrained) not in str(state["cfg"])


def test_the_second_iteration_goes_on_with_new_labels(pretrained: Path) -> None:
    first, start, second = (
        weights(path)
        for path in (
            last(pretrained, 1),
            second_targets(pretrained) / "start.pt",
            last(pretrained, 2),
        )
    )
    for name, tensor in start.items():
        if name == "label_embs_concat":
            assert first[name].shape == (CLUSTERS[0] + 4, 8)
            assert tensor.shape == second[name].shape == (CLUSTERS[1] + 4, 8)
        else:
            assert torch.equal(tensor, first[name]), name
        # Fresh weights would be farther away.
        assert (second[name] - tensor).abs().max() < 1e-3, name


def test_its_targets_are_clusters_of_the_middle_layer(pretrained: Path) -> None:
    """By fairseq's own forward pass of each recording, and the clusters of what that gives."""
    model = load_pretrained(last(pretrained, 1))
    told = (second_targets(pretrained) / "train.km").read_text().splitlines()
    agreements = {}
    for layer in (MIDDLE - 1, MIDDLE, MIDDLE + 1):
        states = hidden_states(model, pretrained / "mini/speech/all/train.tsv", layer)
        units = clusters(states)
        assert [len(line.split()) for line in told] == [len(line) for line in units]
        same = np.concatenate([np.array(a.split(), int) == b for a, b in zip(told, units)])
        agreements[layer] = same.mean()
    # So young a layer changes little.
    assert agreements[MIDDLE] > 0.998
    assert max(agreements[MIDDLE - 1], agreements[MIDDLE + 1]) < 0.99


def hidden_states(model: torch.nn.Module, manifest: Path, layer: int) -> list[np.ndarray]:
    root, *rows = manifest.read_text().splitlines()
    found = []
    for row in rows:
        samples = soundfile.read(f"{root}/{row.split()[0]}", dtype="float32")[0]
        with torch.no_grad():
            states, _ = model.extract_features(  # type: ignore[operator]
                torch.from_numpy(samples)[None], padding_mask=None, mask=False, output_layer=layer
            )
        found.append(states[0].numpy())
    return found


def clusters(states: list[np.ndarray]) -> list[np.ndarray]:
    frames = np.concatenate(states)
    random = np.random.default_rng(1)
    sample = frames[random.permutation(len(frames))] / frames.std(0)
    centroids = kmeans2(sample, CLUSTERS[1], iter=30, minit="++", seed=random)[0]
    return [vq(each / frames.std(0), centroids)[0] for each in states]


def test_what_is_there_is_used(pretrained: Path) -> None:
    made = [path for path in sorted((pretrained / "mini").rglob("*")) if path.is_file()]
    before = [path.stat().st_mtime_ns for path in made]
    pretrain_mini(pretrained / "again.pt", pretrained / "mini", settings())
    assert [path.stat().st_mtime_ns for path in made] == before
    first, again = (weights(pretrained / name) for name in ("mini.pt", "again.pt"))
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"updates": (2, 4)}, "optimization.max_update=3, not 4"),
        ({"clusters": (6, 10)}, "clusters=9, not 10"),
        ({"clusters": (5, 9)}, "clusters=6, not 5"),
        ({"speech": MiniSpeech(0.02)}, "hours=0.01, not 0.02"),
        ({"overrides": (*TINY, "task.label_dir=units")}, "task.label_dir is set by this recipe"),
    ],
)
def test_other_settings_are_refused(
    pretrained: Path, changes: dict[str, object], expected: str
) -> None:
    with pytest.raises(UserError, match=expected) as refused:
        pretrain_mini(pretrained / "other.pt", pretrained / "mini", settings(**changes))
    assert "\n" not in str(refused.value) and not (pretrained / "other.pt").exists()


def test_labels_of_other_recordings_are_refused(pretrained: Path, tmp_path: Path) -> None:
    data = pretrained / "mini/speech/all"
    units = Path(shutil.copytree(pretrained / "mini/units-1", tmp_path / "units"))
    check_frame_units(units, data, ("train", "valid"))
    lines = (units / "train.km").read_text().splitlines()
    for changed, expected in (
        (lines[:-1], f"has {len(lines) - 1} lines for {len(lines)} recordings"),
        ([lines[0][2:], *lines[1:]], "train.km line 1 has .* units for a recording of .* frames"),
        ([*lines[:-1], "7" + lines[-1][1:]], "has the unit '7', which dict.km.txt lacks"),
    ):
        (units / "train.km").write_text("\n".join(changed) + "\n")
        with pytest.raises(UserError, match=expected):
            check_frame_units(units, data, ("train", "valid"))


def test_labels_of_another_model_are_refused(pretrained: Path) -> None:
    """They say which checkpoint and layer they are of."""
    place = second_targets(pretrained) / "settings.json"
    made_of = read_json(place)
    assert made_of["layer"] == MIDDLE and made_of["of"] == digest(last(pretrained, 1))
    write_json(place, {**made_of, "of": "another"})
    try:
        with pytest.raises(UserError, match="was made with other settings .of=another, not "):
            pretrain_mini(pretrained / "other.pt", pretrained / "mini", settings())
    finally:
        write_json(place, made_of)


def test_with_another_first_iteration_the_second_is_not_taken_for_its_own(
    pretrained: Path,
) -> None:
    """A run that has ended would be exported without a word."""
    own, first = second_targets(pretrained), last(pretrained, 1)
    before = first.read_bytes()
    state = torch.load(first, weights_only=True)
    state["model"]["mask_emb"] += 1
    torch.save(state, first)
    try:
        with pytest.raises(UserError, match="run-2 was made with other settings"):
            pretrain_mini(pretrained / "other.pt", pretrained / "mini", settings())
    finally:
        first.write_bytes(before)
        for folder in set((pretrained / "mini").glob("units-2-of-*")) - {own}:
            shutil.rmtree(folder)
    assert not (pretrained / "other.pt").exists()


def test_the_network_has_about_ten_million_parameters() -> None:
    from omegaconf import OmegaConf

    from speechprune.backbones.hubert import Hubert

    config = OmegaConf.load(find_config(CONFIG))
    assert OmegaConf.is_dict(config)
    model = {**OmegaConf.to_container(config.model, resolve=False), "label_rate": 50}
    encoder = Hubert().build({}, model)
    assert 9.5e6 < sum(parameter.numel() for parameter in encoder.parameters()) < 10.5e6


@pytest.mark.parametrize(
    "words, expected",
    [
        ("--without lucas", "speakers are left out of real digits only"),
        ("--digits gone.tar", "gone.tar is missing"),
        ("--device cuda", "there is no GPU for the device cuda; use cpu"),
        ("task.data=here", "task.data is set by this recipe"),
        ("optimization.max_update=9", "max_update is set by this recipe itself; use --updates"),
        ("model._name=wav2vec2", "model._name is set by this recipe itself; leave it out"),
        ("task.labels=[ltr]", "task.labels is set by this recipe"),
        ("task.label_rate=100", "task.label_rate is set by this recipe"),
        ("checkpoint.save_dir=here", "save_dir is set by this recipe itself; name another"),
        ("+model=wav2vec2", "model._name is set by this recipe"),
    ],
)
def test_bad_options_get_one_line(words: str, expected: str, tmp_path: Path) -> None:
    places = ["--out", str(tmp_path / "mini.pt"), "--folder", str(tmp_path / "mini")]
    result = CliRunner().invoke(commands, ["pretrain-mini", *places, *words.split()])
    assert result.exit_code == 1 and expected in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "mini.pt").exists()
    assert not list(tmp_path.glob("mini/speech/*"))


def test_other_recordings_are_other_settings(tmp_path: Path) -> None:
    """Of the same names and lengths, in the other format too."""
    found = []
    for folder, value in (("a", 0.1), ("b", 0.2), ("c", 0.1)):
        (tmp_path / folder).mkdir()
        soundfile.write(tmp_path / folder / "0_eve_0.flac", np.full(800, value), 8000)
        found.append(MiniSpeech(1.0, digits=tmp_path / folder).describe()["digits"])
    assert found[0] == found[2] != found[1]
