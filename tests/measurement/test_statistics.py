import math

import numpy as np
import pytest
from scipy import stats

from stages.measurement.statistics import Difference, interval, mcnemar, verdicts


@pytest.mark.parametrize(("won", "lost"), [(8, 1), (1, 8), (3, 3), (0, 5), (1, 0), (7, 8), (40, 15)])
def test_mcnemar_by_an_explicit_sum(won, lost):
    """Both right on 30 queries, both wrong on 11."""
    right = np.repeat([True, True, False, False], [30, won, lost, 11])
    other = np.repeat([True, False, True, False], [30, won, lost, 11])
    tail = sum(math.comb(won + lost, i) for i in range(min(won, lost) + 1)) / 2 ** (won + lost)
    found = mcnemar(right, other)
    assert found.p == pytest.approx(min(1, 2 * tail))
    assert found.gained == pytest.approx(right.mean() - other.mean())


def test_mcnemar_of_the_same_answers():
    right = np.array([True, False, True])
    assert mcnemar(right, right.copy()) == Difference(0.0, 1.0)


YES, NO = "better", "no difference shown"


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        # Benjamini and Hochberg: all up to the last p, in order, that is at most rank / count * 5%.
        ([], []),
        ([0.04], [YES]),
        ([0.06], [NO]),
        ([1.0, 1.0], [NO, NO]),
        ([0.04, 0.01, 0.03, 0.02], [YES] * 4),  # none but 0.01 by Bonferroni
        ([0.001, 0.04, 0.03, 0.5], [YES, NO, NO, NO]),  # 3.75% and 2.5% for the second and third
        ([0.03, 0.045, 0.049], [YES] * 3),  # the last alone is under its 5%, and takes the others along
        ([0.02, 0.2, 0.02], [YES, NO, YES]),  # ties: the second is under 3.3%
        ([0.04, 1.0, 1.0, 1.0], [NO] * 4),
    ],
)
def test_verdicts_by_hand(p, expected):
    gains = [Difference(0.1, value) for value in p]
    losses = [Difference(-0.1, value) for value in p]
    assert verdicts(gains) == expected
    assert verdicts(losses) == ["worse" if verdict == YES else NO for verdict in expected]


def test_gains_and_losses_are_one_family():
    differences = [Difference(0.2, 0.01), Difference(-0.1, 0.02), Difference(-0.01, 0.6), Difference(0.0, 1)]
    assert verdicts(differences) == ["better", "worse", NO, NO]


def test_interval_of_what_does_not_vary():
    assert interval(np.full(6, 2.5), seed=0) == (2.5, 2.5)


@pytest.mark.parametrize("ratios", [[2.5], [2.5, 3.5], [2.5] * 5])
def test_too_few_rounds_have_no_interval(ratios):
    """The least and the largest of five enclose the median in 1 - 2 / 2^5, 93.75%, of benchmarks."""
    assert np.isnan(interval(np.array(ratios), seed=0)).all()


@pytest.mark.parametrize("count", [11, 13, 19])
def test_interval_against_the_binomial(count):
    """A resample's median is at most the k-th ratio where most of it is, each with chance k/count."""
    ratios = np.exp(np.arange(1, count + 1))
    at_most = stats.binom.sf(count // 2, count, np.arange(1, count + 1) / count)
    expected = [ratios[np.argmax(at_most >= level)] for level in (0.025, 0.975)]
    found = interval(np.random.default_rng(0).permutation(ratios), seed=0)
    assert found == pytest.approx(expected)


def test_interval_covers_the_median():
    """In some 95 of 100 benchmarks of 20 rounds."""
    rng = np.random.default_rng(0)
    found = [interval(rng.lognormal(1.0, 0.2, 20), seed) for seed in range(100)]
    covered = sum(low <= np.e <= high for low, high in found)
    assert 88 <= covered <= 99
