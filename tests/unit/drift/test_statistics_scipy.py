"""The statistics of two histograms, against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from adin.drift import statistics
from scipy import stats
from scipy.spatial import distance
from scipy.special import kl_div

pytestmark = [pytest.mark.ml, pytest.mark.flow(15)]


@pytest.fixture(params=range(5))
def counts(request):
    draw = np.random.default_rng(request.param)
    return draw.integers(1, 1000, (2, 11))


def test_psi_is_the_sum_of_both_relative_entropies(counts):
    before, after = counts / counts.sum(axis=1, keepdims=True)
    direct = (kl_div(before, after) + kl_div(after, before)).sum()
    assert statistics.psi(*counts) == pytest.approx(direct, rel=1e-12)


def test_jensen_shannon_is_scipys_distance_to_base_two(counts):
    assert statistics.jensen_shannon(*counts) == pytest.approx(distance.jensenshannon(*counts, base=2), rel=1e-12)


def test_kolmogorov_smirnov_of_bins_is_that_of_the_values_at_their_places(counts):
    before, after = (np.repeat(np.arange(11), each) for each in counts)
    assert statistics.kolmogorov_smirnov(*counts) == pytest.approx(stats.ks_2samp(before, after).statistic, rel=1e-12)


def test_wasserstein_of_bins_is_that_of_the_values_at_their_places(counts):
    places = np.cumsum(np.arange(1, 12))
    direct = stats.wasserstein_distance(places, places, *counts)
    assert statistics.wasserstein(*counts, places) == pytest.approx(direct, rel=1e-12)
