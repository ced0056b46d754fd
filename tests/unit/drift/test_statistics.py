"""The statistics of two histograms, against direct computations."""

from __future__ import annotations

import numpy as np
import pytest
from adin.drift import statistics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

COUNTS = arrays(float, st.integers(2, 12), elements=st.integers(0, 10_000)).filter(lambda counts: counts.sum() > 0)


@pytest.mark.flow(15)
def test_the_population_stability_index_is_the_sum_over_bins_by_hand():
    # shares .5 .5 and .25 .75: (-.25) ln(.5) + .25 ln(1.5)
    by_hand = -0.25 * np.log(0.5) + 0.25 * np.log(1.5)
    assert statistics.psi([50, 50], [250, 750]) == pytest.approx(by_hand, rel=1e-12)


def test_an_empty_bin_counts_as_the_floor():
    by_hand = (1 - 0.5) * np.log(1 / 0.5) + (1e-4 - 0.5) * np.log(1e-4 / 0.5)
    assert statistics.psi([1, 1], [1, 0]) == pytest.approx(by_hand, rel=1e-12)


@given(COUNTS)
def test_equal_shares_are_no_drift_by_any_statistic(counts):
    places = np.arange(len(counts))
    for found in (
        statistics.psi(counts, 3 * counts),
        statistics.jensen_shannon(counts, 3 * counts),
        statistics.kolmogorov_smirnov(counts, 3 * counts),
        statistics.wasserstein(counts, 3 * counts, places),
    ):
        assert found == pytest.approx(0, abs=1e-6)


@given(st.data(), COUNTS)
def test_many_windows_at_once_give_what_each_gives_alone(data, reference):
    same = arrays(float, len(reference), elements=st.integers(1, 999))
    windows = np.stack([data.draw(same) for _ in range(3)])
    for of in (statistics.psi, statistics.jensen_shannon, statistics.kolmogorov_smirnov):
        assert of(reference, windows).tolist() == pytest.approx([float(of(reference, each)) for each in windows])


def test_a_window_without_rows_has_no_statistic():
    assert np.isnan(statistics.psi([1, 2], [0, 0]))
    assert np.isnan(statistics.jensen_shannon([1, 2], [0, 0]))


def test_values_that_all_move_by_one_bin_move_by_its_width():
    assert statistics.wasserstein([0, 5, 0], [0, 0, 5], [0, 10, 25]) == 15
    assert statistics.kolmogorov_smirnov([0, 5, 0], [0, 0, 5]) == 1
    assert statistics.jensen_shannon([0, 5, 0], [0, 0, 5]) == pytest.approx(1)


def test_the_spread_is_that_of_values_at_their_places():
    assert statistics.spread([1, 2, 1], [0, 1, 2]) == pytest.approx(np.std([0, 1, 1, 2]))
