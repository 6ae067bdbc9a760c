"""Plans measured together are measured as if each were evaluated by itself."""

from __future__ import annotations

import random
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from nano import write_corpus, write_data2vec, write_finetuned, write_hubert, write_wav2vec2

from speechprune.decoding.inference import batches, evaluate, read_audio, transcribe
from speechprune.dropping.elimination import eliminate
from speechprune.dropping.transcripts import TranscriptVerifier
from speechprune.dropping.verification import refuse_test
from speechprune.errors import UserError
from speechprune.layers.plan import LayerPlan
from speechprune.layers.prefixes import passes, walk
from speechprune.manifests.manifest import Split, read_split
from speechprune.models.loading import load_finetuned
from speechprune.rewriting.layer_dropping import drop_layers

LAYERS = 5
PLANS = [LayerPlan(LAYERS, dropped) for dropped in ((0, 1), (0, 2), (3, 4), (1, 4), (3,), (0, 2))]
PRE_NORM = {"layer_norm_first": True, "extractor_mode": "layer_norm", "normalize": True}
MASKS = {"_name": "wav2vec_ctc_st", "prune_rate": 0.3, "trainable_proj": True}
KINDS: dict[str, Any] = {
    "base": (write_wav2vec2, {}, {}),
    "xlsr": (write_wav2vec2, PRE_NORM, {}),
    "data2vec": (write_data2vec, {}, {}),
    "hubert": (write_hubert, {}, {}),
    "hubert_large": (write_hubert, PRE_NORM, MASKS),
    "masks": (write_wav2vec2, {}, MASKS),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("data"), train=1, valid=9)


@pytest.fixture(scope="module")
def valid(data: Path) -> Split:
    return read_split(data, "valid")


@pytest.fixture(scope="module", params=sorted(KINDS))
def checkpoint(
    request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    write, shape, model = KINDS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    pretrained = write(folder / "pretrained.pt", layers=LAYERS, **shape)
    return write_finetuned(folder / "finetuned.pt", pretrained, data, model=model)


@pytest.fixture(scope="module")
def base(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    pretrained = write_wav2vec2(folder / "pretrained.pt", layers=LAYERS)
    return write_finetuned(folder / "finetuned.pt", pretrained, data)


def alone(checkpoint: Path, plan: LayerPlan, split: Split, folder: Path, size: int) -> list[str]:
    """The transcripts of a checkpoint without the plan's layers."""
    drop_layers(checkpoint, plan.dropped, folder / "smaller.pt")
    loaded = load_finetuned(folder / "smaller.pt")
    texts = [""] * len(split.utterances)
    for batch in batches([u.frames for u in split.utterances], 10**7, size):
        audio = [read_audio(split.root / split.utterances[i].path, 16000) for i in batch]
        for index, text in zip(batch, transcribe(loaded, audio)):
            texts[index] = text
    return texts


@pytest.mark.parametrize("size", [1, 4])
def test_transcripts_are_those_of_the_smaller_checkpoint(
    checkpoint: Path, valid: Split, tmp_path: Path, size: int
) -> None:
    verifier = TranscriptVerifier(load_finetuned(checkpoint), valid, batch_size=size)
    for measured in verifier.measure(PLANS, "cer"):
        texts = alone(checkpoint, measured.plan, valid, tmp_path, 5 - size)
        assert [measured.texts[i] for i in range(len(texts))] == texts
        assert len(set(texts)) > 1, "the test needs transcripts that differ"
        found = evaluate(load_finetuned(tmp_path / "smaller.pt"), valid)
        assert measured.rate("wer") == found.words.rate
        assert measured.rate("cer") == found.characters.rate


def test_shared_layers_are_computed_once(base: Path, valid: Split) -> None:
    """Counted at the layers themselves."""
    loaded = load_finetuned(base)
    calls = {"front": 0, "layers": 0}
    encoder = loaded.model.w2v_encoder.w2v_model

    def count(name: str) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            calls[name] += 1

        return hook

    encoder.feature_extractor.register_forward_hook(count("front"))
    for layer in encoder.encoder.layers:
        layer.register_forward_hook(count("layers"))
    verifier = TranscriptVerifier(loaded, valid, batch_size=1)
    verifier.measure(PLANS, "cer")
    beginnings = {plan.kept[:n] for plan in PLANS for n in range(1, len(plan.kept) + 1)}
    utterances = len(valid.utterances)
    assert calls == {"front": utterances, "layers": len(beginnings) * utterances}
    assert vars(verifier.made) == {"front_end": calls["front"], "layers": calls["layers"]}
    layers = sum(len(plan.kept) for plan in PLANS) * utterances
    assert vars(verifier.alone) == {"front_end": len(PLANS) * utterances, "layers": layers}


def test_a_search_by_error_rate_is_the_naive_one(base: Path, valid: Split) -> None:
    """Against evaluating each candidate by itself."""

    def rate(dropped: tuple[int, ...]) -> float:
        loaded = load_finetuned(base)
        layers = loaded.model.w2v_encoder.w2v_model.encoder.layers
        kept = [layer for n, layer in enumerate(layers) if n not in dropped]
        loaded.model.w2v_encoder.w2v_model.encoder.layers = torch.nn.ModuleList(kept)
        return evaluate(loaded, valid, batch_size=2).characters.rate

    expected: list[tuple[int, ...]] = [()]
    for _ in range(3):
        options = [
            tuple(sorted((*expected[-1], n))) for n in range(LAYERS) if n not in expected[-1]
        ]
        expected.append(min(options, key=lambda option: (rate(option), option)))
    verifier = TranscriptVerifier(load_finetuned(base), valid, batch_size=2, remember=True)
    found = eliminate(verifier, 3, "cer")
    assert [step.plan.dropped for step in found.steps] == expected[1:]
    assert found.evaluations == 5 + 4 + 3
    assert verifier.made.front_end == len(valid.utterances), "states are kept between steps"
    assert verifier.alone.front_end == 12 * len(valid.utterances)


def test_states_are_kept_only_while_there_is_room(
    base: Path, valid: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    roomy = TranscriptVerifier(load_finetuned(base), valid, batch_size=1, remember=True)
    first = [measured.texts for measured in roomy.measure(PLANS, "cer")]
    size = max(entry.state.nbytes for _, entry in roomy._entries.values() if entry)
    monkeypatch.setattr("speechprune.dropping.verification.REMEMBERED", 3 * size)
    cramped = TranscriptVerifier(load_finetuned(base), valid, batch_size=1, remember=True)
    for _ in range(2):
        assert [measured.texts for measured in cramped.measure(PLANS, "cer")] == first
    utterances = len(valid.utterances)
    assert utterances < cramped.made.front_end <= 2 * utterances - 3


@pytest.mark.parametrize("drop", [0, LAYERS, -1])
def test_impossible_depths_are_refused(base: Path, valid: Split, drop: int) -> None:
    with pytest.raises(UserError, match=f"cannot drop {drop} of 5 layers; choose 1 to 4"):
        eliminate(TranscriptVerifier(load_finetuned(base), valid), drop, "cer")


def test_a_plan_for_another_model_is_refused(base: Path, valid: Split) -> None:
    with pytest.raises(UserError, match="plan for 6 layers does not fit a model of 5"):
        TranscriptVerifier(load_finetuned(base), valid).measure([LayerPlan(6, (1,))], "cer")


def test_the_walk_of_a_trie_visits_every_plan_with_its_own_layers() -> None:
    kept = [subset for size in range(1, 6) for subset in combinations(range(6), size)]
    random.Random(0).shuffle(kept)
    visits = []

    def apply(layer: int, state: tuple[int, ...]) -> tuple[int, ...]:
        visits.append((*state, layer))
        return visits[-1]

    found = dict(walk(kept, (), apply))
    assert [found[n] for n in range(len(kept))] == kept
    assert len(visits) == len(set(visits)) == passes(kept)
    assert set(visits) == {plan[:n] for plan in kept for n in range(1, len(plan) + 1)}


def test_plans_of_two_thousand_layers_are_walked() -> None:
    kept = [tuple(range(2000)), (*range(1000), *range(1001, 2001))]
    assert dict(walk(kept, 0, lambda _, state: state + 1)) == {0: 2000, 1: 2000}
    assert passes(kept) == 3000


@pytest.mark.parametrize(
    "name", ["test", "test-clean", "dev_test", "TEST.other", "zh_TW-test", "test2", "testset"]
)
def test_test_data_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} is named as test data"):
        refuse_test(name, allowed=False)
    refuse_test(name, allowed=True)


@pytest.mark.parametrize("name", ["valid", "dev-clean", "latest", "contest", "testimony"])
def test_other_data_is_not_taken_for_test_data(name: str) -> None:
    refuse_test(name, allowed=False)  # or it raises UserError


def test_ranks_put_full_measurements_first(base: Path, valid: Split) -> None:
    verifier = TranscriptVerifier(load_finetuned(base), valid)
    whole, stopped = (verifier.start(LayerPlan(LAYERS, (layer,))) for layer in (1, 0))
    stopped.stopped = True
    assert sorted([stopped, whole], key=lambda m: m.rank("cer")) == [whole, stopped]
