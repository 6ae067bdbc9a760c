"""A race stops plans that are clearly worse, rarely the best one, and changes no result."""

from __future__ import annotations

import numpy as np
import pytest
from nano import write_corpus, write_finetuned, write_wav2vec2

from speechprune.dropping.elimination import eliminate
from speechprune.dropping.transcripts import TranscriptVerifier
from speechprune.errors import UserError
from speechprune.layers.plan import LayerPlan
from speechprune.layers.race import Race
from speechprune.manifests.manifest import read_split
from speechprune.models.loading import load_finetuned

UTTERANCES = 128


def run(race: Race, errors: np.ndarray) -> set[int]:
    """The plans that a race over given errors, (P, N), leaves running."""
    running = list(range(len(errors)))
    looks = race.looks(errors.shape[1])
    for number, heard in enumerate(looks):
        if len(running) > 1:
            part = errors[:, :heard]
            stopped = race.clearly_worse(part, running, number, len(looks), len(errors))
            running = [plan for plan in running if plan not in stopped]
    return set(running)


def test_the_truly_best_plan_is_stopped_no_more_often_than_the_level() -> None:
    generator = np.random.default_rng(0)
    # All plans are equally good: whichever is called the best, it must survive in 80 % or more.
    survived = 0
    for seed in range(150):
        hard = generator.poisson(2.0, size=(1, UTTERANCES))
        errors = generator.binomial(hard + 2, 0.5, size=(6, UTTERANCES))
        survived += 0 in run(Race(level=0.2, seed=seed), errors)
    assert survived >= 0.8 * 150


def test_clearly_worse_plans_are_stopped_and_close_ones_are_not() -> None:
    generator = np.random.default_rng(1)
    rates = np.array([1.0, 1.02, 3.0, 6.0])
    errors = generator.poisson(rates[:, None], size=(4, UTTERANCES))
    assert run(Race(), errors) >= {0, 1}
    assert not run(Race(), errors) & {2, 3}
    # Within 16 batches the worst is told, the third perhaps not.
    assert 3 in Race().clearly_worse(errors[:, :16], range(4), 0, 3, 4)


def test_differences_in_pairs_count_and_not_the_spread_over_utterances() -> None:
    """Utterances differ much more than plans do: an unpaired test would see nothing."""
    generator = np.random.default_rng(2)
    hard = generator.integers(0, 200, UTTERANCES)
    assert run(Race(), np.stack([hard, hard + 1])) == {0}


def test_the_best_plan_survives_where_plans_differ_by_length() -> None:
    """One is better on short utterances, the other on long ones; a batch has one length."""
    generator = np.random.default_rng(5)
    lengths = np.sort(generator.integers(1, 30, UTTERANCES * 4)).reshape(-1, 4)
    better = generator.poisson(np.where(lengths < 15, 2.0, 6.0))
    worse = generator.poisson(np.where(lengths < 15, 7.0, 1.2))
    errors = np.stack([better, worse]).sum(axis=2)
    assert errors[0].sum() < errors[1].sum()
    survived = 0
    for seed in range(100):
        order = np.random.default_rng(seed).permutation(errors.shape[1])
        survived += 0 in run(Race(seed=seed), errors[:, order])
    assert survived >= 95


def test_equal_plans_all_stay() -> None:
    errors = np.ones((3, UTTERANCES), dtype=np.int64)
    assert run(Race(level=0.9), errors) == {0, 1, 2}


def test_the_same_seed_gives_the_same_race() -> None:
    errors = np.random.default_rng(3).poisson(2.0, size=(5, UTTERANCES))
    errors[3:] += 1
    assert run(Race(seed=4), errors) == run(Race(seed=4), errors)


def test_there_are_batches_enough() -> None:
    assert [Race.batch_size(count) for count in (5, 64, 127, 128, 6400)] == [1, 1, 1, 2, 100]


def test_looks_double_and_leave_the_end_to_the_full_count() -> None:
    assert Race().looks(128) == [16, 32, 64]
    assert Race().looks(129) == [16, 32, 64, 128]
    assert Race().looks(16) == []


@pytest.mark.parametrize("level", [0.0, 1e-7, 1.0, -0.1, float("nan")])
def test_impossible_levels_are_refused(level: float) -> None:
    with pytest.raises(UserError, match="level of a race must lie in"):
        Race(level)


@pytest.fixture(scope="module")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> TranscriptVerifier:
    folder = tmp_path_factory.mktemp("race")
    data = write_corpus(folder / "data", train=1, valid=70)
    pretrained = write_wav2vec2(folder / "pretrained.pt", layers=4, seed=3)
    loaded = load_finetuned(write_finetuned(folder / "finetuned.pt", pretrained, data))
    # The last layer says the same of every frame, which makes more errors than babble does.
    last = loaded.model.w2v_encoder.w2v_model.encoder.layers[3].final_layer_norm
    last.weight.zero_()
    return TranscriptVerifier(loaded, read_split(data, "valid"), batch_size=2, remember=True)


def test_survivors_are_measured_as_without_a_race(verifier: TranscriptVerifier) -> None:
    plans = [LayerPlan(4, dropped) for dropped in ((0,), (1,), (2,), (3,), (0, 1), (2, 3))]
    without = verifier.measure(plans, "cer")
    made = verifier.made.layers
    raced = verifier.measure(plans, "cer", Race())
    stopped = [measured.stopped for measured in raced]
    assert stopped == [3 not in plan.dropped for plan in plans]
    assert verifier.made.layers - made < made
    for one, other in zip(without, raced):
        heard = other.texts.items()
        assert heard <= one.texts.items()
        assert (len(heard) < 70) == other.stopped
        if not other.stopped:
            assert other.rate("cer") == one.rate("cer")
    found = eliminate(verifier, 2, "cer", Race())
    assert not any(step.stopped for step in found.steps)
