"""What is said of several seeds: a median between its ends, and which trainings it is of."""

from __future__ import annotations

from speechprune.intervals import Interval, training_in_words


def test_the_ends_are_values_that_were_measured() -> None:
    values = [99.0, 7.25, 17.5]
    found = Interval.of(values)
    assert (found.median, found.least, found.most) == (17.5, 7.25, 99.0)
    assert found.in_words() == "17.5 (7.2 to 99.0)"
    assert Interval.of([17.5]).in_words(2) == "17.50"
    # Seeds that agree are still several.
    assert Interval.of([0.0, 0.0]).in_words() == "0.0 (0.0 to 0.0)"


def test_seeds_and_updates_are_named() -> None:
    assert training_in_words([250, 250], [1]) == "seed 1; 250 updates"
    over = "median, least and most of seeds 1, 2, 3; 250 to 1,997 updates"
    assert training_in_words([1997, 250, 500], [1, 2, 3]) == over
    assert training_in_words([1], [1, 2], several=False) == "seeds 1, 2; 1 update"
